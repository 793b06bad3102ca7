"""The few numbers of a run that fit on a screen: `summary.json`, and the same as a table in the terminal."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlhf.evaluation.rounds import RoundGold

POLICY_FIELDS = ("score", "gold", "kl_nats", "length_tokens", "eos_rate", "distinct_2")


def build_summary(
    evaluation: Mapping[str, Any],
    *,
    step0_kl: float | None,
    base_hash_unchanged: bool,
    export_verified: bool | None,
    annotators: str,
    seconds: float,
    peak_memory_mb: float,
    rounds: "Sequence[RoundGold]" = (),
) -> dict[str, Any]:
    """Return the content of `summary.json`.

    `gold` and `gold_gain` are null without a gold scorer; `kl_nats` of best-of-n is its upper bound; lengths are
    tokens, KL is nats per response, `seconds` and `peak_memory_mb` are those of the whole run.

    Args:
        evaluation: Content of `evaluation.json`.
        step0_kl: KL of policy and reference before the first update, in nats per response.
        base_hash_unchanged: Whether the frozen base has the same hash after PPO as before SFT.
        export_verified: Whether a fresh process reproduced the exported adapter; None where there was no export.
        annotators: `human` or `scripted`.
        seconds: Wall time of all stages.
        peak_memory_mb: Highest resident memory of any stage.
        rounds: Gold of all rounds, where there are several.
    """
    gain, wins = evaluation["gold_gain"], evaluation["win_rate"]
    return {
        "held_out_prompts": evaluation["prompts"],
        **{name: _policy_summary(numbers) for name, numbers in evaluation["policies"].items()},
        "gold_gain": gain["value"] if gain else None,
        "gold_gain_se": gain["error"] if gain else None,
        "win_rate": wins["value"],
        "win_rate_se": wins["error"],
        "step0_kl": step0_kl,
        "base_hash_unchanged": base_hash_unchanged,
        "export_verified": export_verified,
        "annotators": annotators,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb,
        "rounds": [_round_summary(found) for found in rounds],
    }


def _round_summary(found: "RoundGold") -> dict[str, Any]:
    gain = found.gain
    return {
        "round": found.round,
        "gold": found.gold.value,
        "gold_se": found.gold.error,
        "gain": gain and gain.value,
        "gain_se": gain and gain.error,
        "prompts": found.gold.count,
    }


def _policy_summary(numbers: Mapping[str, Any]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for name in POLICY_FIELDS:
        value = numbers[name]
        row[name] = value["value"] if isinstance(value, Mapping) else value
    return row


def summary_table(summary: Mapping[str, Any]) -> "RenderableType":
    """Return the summary as a table and a few lines for a rich console."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{summary['held_out_prompts']} held-out prompts", title_justify="left", header_style="bold")
    table.add_column("policy")
    for heading in ("score", "gold", "KL (nats)", "tokens", "ended", "distinct-2"):
        table.add_column(heading, justify="right")
    titles = {"sft": "SFT", "best_of_n": "best of n", "ppo": "PPO"}
    for name, title in titles.items():
        style = "bold" if name == "ppo" else ""
        table.add_row(title, *_cells(summary[name], bound=name == "best_of_n"), style=style)
    return Group(table, *(Text(line, style=style) for line, style in _lines(summary)))


def _cells(row: Mapping[str, float | None], *, bound: bool) -> list[str]:
    digits = {"score": 2, "gold": 3, "kl_nats": 2, "length_tokens": 1, "distinct_2": 3}
    cells = []
    for name in POLICY_FIELDS:
        value = row[name]
        if value is None:
            cells.append("–")
        elif name == "eos_rate":
            cells.append(f"{value:.0%}")
        else:
            cells.append(("≤ " if bound and name == "kl_nats" else "") + f"{value:.{digits[name]}f}")
    return cells


def _lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    gain, error = summary["gold_gain"], summary["gold_gain_se"]
    if gain is not None:
        ratio = f" ({gain / error:+.1f} standard errors)" if error else ""
        lines.append((f"gold gain over SFT   {gain:+.3f} ± {error or 0:.3f}{ratio}", "green" if gain > 0 else "red"))
    wins = summary["win_rate"]
    lines.append(
        (f"win rate over SFT    {wins:.3f} ± {summary['win_rate_se'] or 0:.3f}", "green" if wins > 0.5 else "red")
    )
    for before, found in itertools.pairwise(summary["rounds"]):
        gain, error = found["gain"], found["gain_se"]
        label = f"round {found['round']} over round {before['round']}"
        lines.append((f"{label:<20} {gain:+.3f} ± {error or 0:.3f} gold", "green" if gain > 0 else "red"))
    if summary["step0_kl"] is not None:
        lines.append((f"KL before PPO        {summary['step0_kl']:.1e} nats", ""))
    lines.append(_check("base weights         ", summary["base_hash_unchanged"], "unchanged", "CHANGED"))
    if summary["export_verified"] is not None:
        lines.append(
            _check("export               ", summary["export_verified"], "verified in a fresh process", "NOT VERIFIED")
        )
    lines.append((f"time and memory      {summary['seconds']:.0f} s, {summary['peak_memory_mb']:.0f} MB", ""))
    if summary["annotators"] == "scripted":
        lines.append(("The rankings were written by scripted annotators, not by people.", "yellow"))
    return lines


def _check(label: str, passed: bool, good: str, bad: str) -> tuple[str, str]:
    return label + (good if passed else bad), "green" if passed else "bold red"
