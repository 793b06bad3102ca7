"""The verdict of a run in one sentence, the checks behind it, and what the numbers do not see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.compare import show_estimate
from rlhf.report.inputs import ReportInputs

CLEAR = 3.0
"""Standard errors from which a change is called one."""
DIVERSITY_FLOOR = 0.6
"""Share of the SFT policy's distinct-2 below which the responses have collapsed."""
STEP0_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number at the top of the page."""

    label: str
    value: str
    note: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, whether it does, and the number it rests on."""

    label: str
    passed: bool
    detail: str


def verdict(inputs: ReportInputs) -> str:
    """Return the outcome in one sentence; it claims a change only from 3 standard errors on."""
    figures = inputs.evaluation
    if figures is None:
        return "This run has not been evaluated yet."
    gain, what = (
        (figures["gold_gain"], "gold") if figures["gold_gain"] else (figures["score_gain"], "the score that PPO raised")
    )
    errors = _in_errors(gain)
    if abs(errors) < CLEAR:
        said = f"made no clear difference to {what} ({show_estimate(gain, 3)})"
    else:
        size = show_estimate({**gain, "value": abs(gain["value"])}, 3)
        said = f"{'raised' if gain['value'] > 0 else 'lowered'} {what} by {size}" + (
            f" ({abs(errors):.0f} standard errors)" if gain["error"] else ""
        )
    kl = figures["policies"]["ppo"]["kl_nats"]["value"]
    proxy = (
        ""
        if figures["gold_gain"]
        else " No gold scorer stands behind this: a rising score alone does not show a better policy."
    )
    return (
        f"PPO {said} over SFT on {figures['prompts']:,} held-out prompts, and wins {figures['win_rate']['value']:.0%} "
        f"of them, at {kl:.1f} nats from the reference.{proxy}"
    )


def tiles(inputs: ReportInputs) -> list[Tile]:
    """Return the large numbers."""
    figures = inputs.evaluation
    if figures is None:
        return []
    gain = figures["gold_gain"] or figures["score_gain"]
    best, ppo = figures["policies"]["best_of_n"], figures["policies"]["ppo"]
    judge = figures["judge"]
    return [
        Tile(
            f"{'gold' if figures['gold_gain'] else 'score'} gain over SFT",
            f"{gain['value']:+.3f}",
            f"± {gain['error'] or 0:.3f} standard error",
            "good" if _in_errors(gain) >= CLEAR else "bad" if _in_errors(gain) <= -CLEAR else "",
        ),
        Tile(
            "win rate over SFT",
            f"{figures['win_rate']['value']:.0%}",
            f"± {figures['win_rate']['error'] or 0:.1%}, judged by {judge}",
        ),
        Tile("KL to the reference", show_estimate({**ppo["kl_nats"], "error": None}, 1), "nats per response"),
        Tile(
            f"against best of {figures['best_of']}",
            f"{ppo[judge]['value'] - best[judge]['value']:+.3f}",
            f"{judge}, same reward model",
        ),
    ]


def checks(inputs: ReportInputs) -> list[Check]:
    """Return what was checked; a check without its number is left out."""
    found: list[Check] = []
    summary, figures = inputs.summary or {}, inputs.evaluation
    if summary.get("step0_kl") is not None and inputs.starts_at_reference:
        kl = summary["step0_kl"]
        found.append(
            Check("PPO started at the reference", abs(kl) < STEP0_LIMIT, f"KL before the first update {kl:.1e} nats")
        )
    if "base_hash_unchanged" in summary:
        found.append(
            Check(
                "The base did not move", summary["base_hash_unchanged"], "hash of all frozen weights before and after"
            )
        )
    if inputs.verification is not None:
        found.append(_export_check(inputs.verification))
    if figures is not None:
        found += _evaluation_checks(figures)
    return found


def _evaluation_checks(figures: Mapping[str, Any]) -> list[Check]:
    sft, ppo = figures["policies"]["sft"], figures["policies"]["ppo"]
    found = []
    if sft["distinct_2"]:
        ratio = ppo["distinct_2"] / sft["distinct_2"]
        found.append(
            Check(
                "Responses stay diverse",
                ratio >= DIVERSITY_FLOOR,
                f"distinct-2 is {ratio:.0%} of SFT's (at least {DIVERSITY_FLOOR:.0%})",
            )
        )
    control = figures["length_controlled"]
    whole = figures["gold_gain"] if figures["judge"] == "gold" else figures["score_gain"]
    if control is not None and abs(_in_errors(whole)) >= CLEAR:
        gain = control["gain"]
        found.append(
            Check(
                "The gain is not length",
                _in_errors(gain) >= CLEAR,
                f"{figures['judge']} gain at equal length {gain['value']:+.3f} ± {gain['error']:.3f}; "
                f"one token is worth {control['per_token']:+.4f}",
            )
        )
    return found


def _export_check(verification: Mapping[str, Any]) -> Check:
    parts = []
    for name in ("adapter", "merged"):
        entry = verification.get(name)
        if entry:
            parts.append(
                f"{name}: logits within {entry['max_logit_difference']:.1e}, "
                f"{entry['greedy_identical']} of {entry['prompts']} greedy answers identical"
            )
    return Check("The export loads elsewhere", bool(verification["passed"]), "; ".join(parts) or "fresh process")


def limits(inputs: ReportInputs) -> list[str]:
    """Return, in sentences, what the numbers on the page do not see."""
    said = [
        "Standard errors cover the choice of prompts and samples, not the training seed: another seed is another run."
    ]
    figures = inputs.evaluation
    if inputs.annotators == "scripted":
        said.append(
            "Scripted annotators rank by a formula plus noise. "
            "This run shows that the pipeline works, not what people prefer."
        )
    if figures is None:
        return said
    if figures["gold_gain"] is None:
        said.append(
            "Without a gold scorer the score is the reward model's own, which PPO was trained to raise; "
            "have people compare the texts below."
        )
    else:
        said.append(
            "Gold is a formula that stands for the truth in a simulation; neither reward training nor PPO saw it."
        )
    said.append(f"The KL of best of {figures['best_of']} is the bound log n − (n − 1)/n, not a measurement.")
    said.append("Distinct-2 falls with the amount of text; compare it only between policies of similar length.")
    return said


def _in_errors(estimate: Mapping[str, Any]) -> float:
    """Return a gain in its standard errors; without an error it counts as nothing, or as everything if it is not 0."""
    if estimate["error"]:
        return estimate["value"] / estimate["error"]
    return 0.0 if estimate["error"] is None or not estimate["value"] else CLEAR * (1 if estimate["value"] > 0 else -1)
