"""Pictures of the judges: how far the reward model can be trusted, and how far the annotators agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.evaluation.metrics import wilson_interval
from rlhf.report.axes import as_percent, draw_interval, name_rows
from rlhf.report.inputs import ReportInputs
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import GRID, MUTED, SFT, TRAIN, new_figure

SHOWN, LONGEST_NAME = 6, 32
AGREEMENT_LABELS = {
    "strict": "pairs, ties left out",
    "tie_aware": "pairs, ties count half",
    "alpha": "Krippendorff's α",
    "kendalls_w": "Kendall's W",
}


def draw_reward_accuracy(inputs: ReportInputs) -> Picture | Missing:
    """Draw held-out accuracy beside what the rule "longer wins" reaches."""
    title = "Held-out accuracy of the reward model"
    found = inputs.calibration
    if found is None:
        return Missing(title, "the reward stage measured no held-out pairs")
    wanted = (
        ("reward model", "accuracy", TRAIN),
        ("… on equally long pairs", "length_matched", TRAIN),
        ("… without what length explains", "length_controlled", TRAIN),
        ("“longer wins”", "longer_wins", SFT),
    )
    rows = [
        (label, found[key], colour) for label, key, colour in wanted if (found.get(key) or {}).get("value") is not None
    ]
    if not rows:
        return Missing(title, "no held-out pair has a winner")
    figure, axes = new_figure(2.3)
    axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for place, (_, share, colour) in enumerate(reversed(rows)):
        draw_interval(axes, place, share["value"], share["low"], share["high"], colour, f"{share['value']:.1%}")
    name_rows(axes, [label for label, _, _ in reversed(rows)])
    axes.set_xlim(min(0.4, *(share["low"] for _, share, _ in rows)) - 0.02, 1)
    as_percent(axes)
    axes.set_xlabel("pairs ordered as the annotators did")
    accuracy = found["accuracy"]
    count = f"{accuracy['pairs']:,} held-out pairs of {accuracy['prompts']:,} prompts"
    caption = f"n = {count}; 95% intervals, clustered by prompt."
    return Picture.of(figure, "reward-shares", title, caption)


def draw_reliability(inputs: ReportInputs) -> Picture | Missing:
    """Draw how often the reward model is right against how sure it is, with the pairs behind each point."""
    title = "Reliability of the reward model"
    found = inputs.calibration
    bins = (found or {}).get("bins") or []
    if found is None or not bins:
        return Missing(title, "the reward stage measured no held-out pairs")
    figure, axes = new_figure(3.3)
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    largest = max(entry["pairs"] for entry in bins)
    for entry in bins:
        width = entry["high"] - entry["low"]
        axes.bar(entry["low"] + width / 2, 0.12 * entry["pairs"] / largest, width * 0.86, bottom=0.38, color=GRID)
        low, high = wilson_interval(entry["accuracy"], entry["pairs"])
        axes.plot([entry["confidence"]] * 2, [low, high], color=TRAIN, linewidth=1.6, alpha=0.6)
    axes.plot(
        [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins], "o-", color=TRAIN, markersize=6
    )
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(0.38, 1.02)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    as_percent(axes)
    as_percent(axes, vertical=True)
    axes.set_xlabel("how sure the model is: σ(|score difference|)")
    axes.set_ylabel("how often it is right")
    axes.annotate("underconfident", (0.56, 0.9), color=MUTED, fontsize=8.5)
    axes.annotate("overconfident", (0.86, 0.56), color=MUTED, fontsize=8.5)
    pairs = sum(entry["pairs"] for entry in bins)
    caption = (
        f"n = {pairs:,} held-out pairs; bars show where they lie; 95% Wilson intervals. Expected calibration error "
        f"{_number(found.get('ece'))}, {_number(found.get('ece_after_temperature'))} after a temperature of "
        f"{_number(found.get('temperature'), 2)}."
    )
    return Picture.of(figure, "reliability", title, caption)


def draw_reward_by_judge(inputs: ReportInputs) -> Picture | Missing:
    """Draw how often the reward model orders a pair as each annotator did, and as anybody did who saw a source."""
    title = "Held-out accuracy by annotator and source"
    trust = inputs.trust or {}
    rows: list[tuple[str, Mapping[str, Any], str]] = []
    for key, colour in (("accuracy_by_annotator", TRAIN), ("accuracy_by_source", SFT)):
        found = {name: share for name, share in (trust.get(key) or {}).items() if share.get("value") is not None}
        ordered = sorted(found, key=lambda name: found[name]["value"], reverse=True)
        # One alone says what the whole says.
        rows += [(name, found[name], colour) for name in _ends(ordered)] if len(found) > 1 else []
    new = trust.get("new_annotators") or {}
    if new.get("value") is not None:
        rows.append(("annotators kept apart", new, MUTED))
    if not rows:
        return Missing(title, "no two annotators or sources were held against it (its pairs may have been imported)")
    figure, axes = new_figure(max(1.7, 0.8 + 0.32 * len(rows)))
    axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for place, (_, share, colour) in enumerate(reversed(rows)):
        draw_interval(axes, place, share["value"], share["low"], share["high"], colour, f"{share['value']:.1%}")
    name_rows(axes, [_short(label) for label, _, _ in reversed(rows)])
    axes.set_xlim(min(0.4, *(share["low"] for _, share, _ in rows)) - 0.02, 1)
    as_percent(axes)
    axes.set_xlabel("votes on pairs that the reward model orders alike")
    votes = sum(share["pairs"] for share in (trust.get("accuracy_by_annotator") or {}).values())
    caption = f"n = {votes:,} votes on held-out pairs; 95% intervals, clustered by prompt. The highest and the lowest {SHOWN}."
    return Picture.of(figure, "reward-by-judge", title, caption)


def _ends(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= 2 * SHOWN else [*names[:SHOWN], *names[-SHOWN:]]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def draw_agreement(inputs: ReportInputs) -> Picture | Missing:
    """Draw the annotators' agreement with bootstrap intervals; what is undefined is named in the caption."""
    title = "Agreement of the annotators"
    found = inputs.agreement or {}
    figures = {label: found[key] for key, label in AGREEMENT_LABELS.items() if isinstance(found.get(key), Mapping)}
    rows = [(label, figure) for label, figure in figures.items() if figure.get("value") is not None]
    undefined = [
        f"{label} is undefined, because {figure['reason']}."
        for label, figure in figures.items()
        if figure.get("value") is None
    ]
    if not rows:
        return Missing(
            title, " ".join(undefined).rstrip(".") or "the run measured none (its pairs may have been imported)"
        )
    figure, axes = new_figure(max(1.7, 0.8 + 0.5 * len(rows)))
    colour = SFT if inputs.annotators == "scripted" else TRAIN
    lows = []
    for place, (_, entry) in enumerate(reversed(rows)):
        low = entry["value"] if entry.get("low") is None else entry["low"]
        high = entry["value"] if entry.get("high") is None else entry["high"]
        lows.append(low)
        draw_interval(axes, place, entry["value"], low, high, colour, f"{entry['value']:.2f}")
    name_rows(axes, [label for label, _ in reversed(rows)])
    axes.set_xlim(min(0.0, *lows), 1.05)
    axes.set_xlabel("1 is perfect; chance is 0.5 for pairs, 0 for α")
    who = "Scripted annotators, not people. " if inputs.annotators == "scripted" else ""
    counts = {label: f"{entry['n']:,} {entry.get('unit', 'prompts')}" for label, entry in rows}
    same = len(set(counts.values())) == 1
    said = counts[rows[0][0]] if same else ", ".join(f"{count} ({label})" for label, count in counts.items())
    caption = " ".join([f"{who}n = {said}; 95% bootstrap intervals.", *undefined])
    return Picture.of(figure, "agreement", title, caption)


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
