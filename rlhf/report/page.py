"""The report of a run: one HTML file that loads nothing, runs nothing, and escapes what models wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.evaluation.compare import table_rows
from rlhf.records import parse_prompt, prompt_to_text
from rlhf.report.curves import BASE_LOSS, PPO_CURVES, REWARD_ACCURACY, REWARD_LOSS, SFT_LOSS, draw_curves
from rlhf.report.inputs import ReportInputs, read_samples
from rlhf.report.judges import draw_agreement, draw_reliability, draw_reward_accuracy, draw_reward_by_judge
from rlhf.report.outcome import (
    draw_frontier,
    draw_gain_histogram,
    draw_gold_parts,
    draw_score_against_gold,
    draw_win_rates,
    sample_gains,
)
from rlhf.report.picture import Missing, Picture, drawn, left_out
from rlhf.report.rounds import draw_rounds
from rlhf.report.sources import draw_sources
from rlhf.report.verdict import checks, limits, tiles, verdict

TEMPLATE, STYLE = "page.html.j2", "page.css"
SHOWN_OF_EACH = 3
"""Texts shown of the most improved, the typical, and the worst."""


@dataclass(frozen=True, slots=True)
class Section:
    """A group of pictures under a heading."""

    id: str
    title: str
    intro: str
    pictures: Sequence[Picture]
    missing: Sequence[Missing]


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with the three policies' texts (title, text, numbers) and PPO's gain over SFT."""

    prompt: str
    texts: Sequence[tuple[str, str, str]]
    label: str
    gain: float


def build_report(inputs: ReportInputs, out: Path) -> Path:
    """Write the page to `out` and return it.

    Everything on it comes from `inputs`; the same inputs give the same bytes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Autoescape covers every value: prompts and responses are hostile text. Only our own SVG is marked safe.
    environment = Environment(
        loader=PackageLoader("rlhf.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        inputs=inputs,
        style=(Path(__file__).parent / STYLE).read_text(encoding="utf-8"),
        verdict=verdict(inputs),
        tiles=tiles(inputs),
        checks=checks(inputs),
        limits=limits(inputs),
        table=table_rows(inputs.evaluation) if inputs.evaluation else [],
        facts=candidate_sentences(inputs),
        sections=sections(inputs),
        samples=choose_samples(inputs),
        provenance=provenance_rows(inputs.manifests),
    )
    out.write_text(page, encoding="utf-8")
    return out


def sections(inputs: ReportInputs) -> list[Section]:
    """Draw all pictures, in the order of the page."""
    groups: list[tuple[str, str, str, list[Picture | Missing]]] = [
        (
            "outcome",
            "Does it help?",
            "The three policies answer the same test prompts, which no training stage has seen.",
            [
                draw_win_rates(inputs),
                *([draw_rounds(inputs)] if inputs.round > 1 else []),
                draw_gold_parts(inputs),
                draw_gain_histogram(inputs),
                draw_score_against_gold(inputs),
                draw_frontier(inputs, "gold"),
                draw_frontier(inputs, "score"),
            ],
        ),
        (
            "ppo",
            "How PPO got there",
            "Rollouts on training prompts and, now and then, validation prompts. "
            "Score and reward are not signs of success by themselves.",
            [
                draw_curves(inputs, PPO_CURVES[0]),
                *([found] if isinstance(found := draw_sources(inputs), Picture) else []),
                *(draw_curves(inputs, spec) for spec in PPO_CURVES[1:]),
            ],
        ),
        (
            "reward",
            "The reward model",
            "Measured on pairs of prompts it was not trained on.",
            [
                draw_reward_accuracy(inputs),
                draw_reliability(inputs),
                draw_reward_by_judge(inputs),
                draw_curves(inputs, REWARD_LOSS),
                draw_curves(inputs, REWARD_ACCURACY),
            ],
        ),
        (
            "labels",
            "The annotators and the start",
            "What the rankings rest on, and the policy that wrote the candidates.",
            [draw_agreement(inputs), draw_curves(inputs, SFT_LOSS), draw_curves(inputs, BASE_LOSS)],
        ),
    ]
    return [Section(name, title, intro, drawn(pictures), left_out(pictures)) for name, title, intro, pictures in groups]


def choose_samples(inputs: ReportInputs) -> list[tuple[str, list[Sample]]]:
    """Pick texts by rule, not by taste: the largest gains, those around the median, and the largest losses."""
    rows = read_samples(inputs.samples)
    if not rows:
        return []
    best_of = (inputs.evaluation or {}).get("best_of")
    gains, judge = sample_gains(rows)
    ranked = sorted(zip(gains, rows, strict=True), key=lambda item: (-item[0], item[1]["prompt_id"]))
    samples = [_sample(row, f"{gain:+.2f} {judge}".replace("-", "−"), gain, best_of) for gain, row in ranked]
    count = min(SHOWN_OF_EACH, len(samples) // 3)
    if not count:
        return [("all", samples)]
    middle = (len(samples) - count) // 2
    return [
        ("largest gains", samples[:count]),
        ("around the median", samples[middle : middle + count]),
        ("largest losses, or smallest gains", samples[-count:][::-1]),
    ]


def candidate_sentences(inputs: ReportInputs) -> list[str]:
    """Say how much the annotators had to choose from, where it was measured."""
    found = (inputs.evaluation or {}).get("candidates")
    if not found:
        return []
    said = [
        f"Of {found['samples']} SFT answers to a test prompt, {found['distinct_texts']:.1f} are different texts; "
        f"{found['three_distinct']:.0%} of the prompts get at least 3."
    ]
    if found["well_formed"] is not None:
        said.append(f"{found['well_formed']:.0%} of the answers are well-formed.")
    if found["gold_std"] is not None:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in found["part_std"].items() if value is not None)
        said.append(
            f"Within a prompt, gold has a standard deviation of {found['gold_std']:.3f}"
            + (f" ({parts})." if parts else ".")
        )
    if found["longer_is_better"] is not None:
        said.append(
            f"The longer of two answers has the higher gold in {found['longer_is_better']['value']:.0%} of pairs: "
            f"length alone would judge {found['length_baseline']:.0%} of them right."
        )
    return said


def provenance_rows(manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per artifact: identity, parents, what made it, and what was recorded beside it."""
    return [
        {
            "stage": row["stage"],
            "round": row["round"],
            "identity": row["identity"],
            "parents": [(name, identity[:10]) for name, identity in row["inputs"]["parents"].items()],
            "splits": ", ".join(row["splits"]) or "–",
            "imported": row["imported"] and _public(row["imported"]),
            "recorded": _recorded(row["recorded"]),
            "versions": ", ".join(f"{name} {version}" for name, version in row["recorded"].get("versions", {}).items()),
            "facts": _facts(row["facts"]),
        }
        for row in manifests
    ]


def _recorded(recorded: Mapping[str, Any]) -> str:
    parts = [str(recorded["finished_at"])] if "finished_at" in recorded else []
    if "seconds" in recorded:
        parts.append(f"{recorded['seconds']:.1f} s")
    if "peak_memory_mb" in recorded:
        parts.append(f"{recorded['peak_memory_mb']:.0f} MB")
    if recorded.get("processes", 1) > 1:
        parts.append(f"{recorded['processes']} processes")
    if recorded.get("resumed"):
        parts.append("resumed")
    return " · ".join(parts) or "–"


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts that fit on a line; nested ones stay in the manifest."""
    shown = [(name, value) for name, value in facts.items() if isinstance(value, (str, int, float, bool))]
    return [(name, f"{value:.6g}" if isinstance(value, float) else _public(str(value))) for name, value in shown]


def _public(text: str) -> str:
    """Reduce a path to its last part: a report is passed on, and names no one's folders."""
    return Path(text).name if Path(text).is_absolute() else text


def _sample(row: Mapping[str, Any], label: str, gain: float, best_of: int | None) -> Sample:
    titles = {"sft": "SFT", "best_of_n": f"Best of {best_of or 'n'}", "ppo": "PPO"}
    texts = []
    for name, title in titles.items():
        gold = row["golds"][name]
        numbers = f"score {row['scores'][name]:+.2f}" + (f" · gold {gold:.2f}" if gold is not None else "")
        texts.append((title, row[name], numbers))
    return Sample(prompt_to_text(parse_prompt(row["prompt"])), texts, label, gain)
