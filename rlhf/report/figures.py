"""Pictures of what came out: the comparison of the policies, the reward model's reliability, the annotators."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from rlhf.evaluation.metrics import Z95, wilson_interval
from rlhf.report.inputs import ReportInputs, read_series
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import BAD, BEST, GRID, INK, MUTED, PPO, SFT, TRAIN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_EVALUATION = "the run has no evaluation"


def draw_win_rates(inputs: ReportInputs) -> Picture | Missing:
    """Draw how often PPO's response beats the SFT policy's, and best-of-n's, with 95 % intervals."""
    title = "Win rate of PPO"
    figures = inputs.evaluation
    if figures is None:
        return Missing(title, NO_EVALUATION)
    rows = [("over SFT", figures["win_rate"], PPO), (f"over best of {figures['best_of']}", figures["win_rate_over_best_of_n"], BEST)]
    figure, axes = new_figure(2.1)
    axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for place, (label, estimate, colour) in enumerate(reversed(rows)):
        low, high = wilson_interval(estimate["value"], estimate["count"])
        axes.plot([low, high], [place, place], color=colour, linewidth=2.4)
        axes.plot(estimate["value"], place, "o", color=colour, markersize=9)
        axes.annotate(
            f"{estimate['value']:.1%}", (estimate["value"], place), xytext=(0, 9), textcoords="offset points",
            ha="center", color=INK, fontweight="bold",
        )  # fmt: skip
        del label
    _rows(axes, [label for label, _, _ in reversed(rows)])
    axes.set_xlim(0, 1)
    _percent_axis(axes)
    axes.set_xlabel("share of prompts won, a tie is half")
    judge = "the gold scorer" if figures["judge"] == "gold" else "the reward model's own score (there is no gold scorer)"
    caption = f"n = {figures['prompts']} test prompts, judged by {judge}; 95 % Wilson intervals. The dashed line is a coin."
    return Picture.of(figure, "win-rates", title, caption)


def draw_gold_parts(inputs: ReportInputs) -> Picture | Missing:
    """Draw each part of the gold before and after PPO."""
    title = "Parts of the gold"
    parts = (inputs.evaluation or {}).get("gold_parts") or {}
    if not parts:
        return Missing(title, "the gold scorer has no parts" if inputs.evaluation else NO_EVALUATION)
    figure, axes = new_figure(max(2.1, 0.5 + 0.55 * len(parts)))
    names = list(parts)[::-1]
    for place, name in enumerate(names):
        before, after = parts[name]["before"], parts[name]["after"]
        axes.plot([before["value"], after["value"]], [place, place], color=GRID, linewidth=5, zorder=1)
        for estimate, colour in ((before, SFT), (after, PPO)):
            reach = Z95 * (estimate["error"] or 0.0)
            axes.plot([estimate["value"] - reach, estimate["value"] + reach], [place, place], color=colour, linewidth=2, zorder=2)
            axes.plot(estimate["value"], place, "o", color=colour, markersize=8, zorder=3)
        right = max(before["value"], after["value"])
        axes.annotate(
            f"{parts[name]['gain']['value']:+.2f}", (right, place), xytext=(11, 0), textcoords="offset points",
            va="center", color=INK if parts[name]["gain"]["value"] >= 0 else BAD, fontweight="bold",
        )  # fmt: skip
    _rows(axes, names)
    axes.margins(x=0.12)
    axes.set_xlabel("mean, with 95 % intervals")
    _name_colours(axes, [("SFT", SFT), ("PPO", PPO)])
    count = next(iter(parts.values()))["gain"]["count"]
    return Picture.of(figure, "gold-parts", title, f"n = {count} test prompts, paired. What the policy learned, and what it gave up.")


def draw_frontier(inputs: ReportInputs, judge: str) -> Picture | Missing:
    """Draw score or gold against sqrt(KL), with the best-of-n curve (Gao et al. 2022).

    Args:
        inputs: The report's inputs.
        judge: `score` (also shows the path that training took on validation prompts) or `gold`.
    """
    title = f"What a nat of KL buys: {'reward model score' if judge == 'score' else 'gold'}"
    figures = inputs.evaluation
    if figures is None:
        return Missing(title, NO_EVALUATION)
    policies = figures["policies"]
    if policies["ppo"][judge] is None:
        return Missing(title, "the run has no gold scorer")
    figure, axes = new_figure(3.3)
    curve = figures["best_of_n_curve"]
    axes.plot([sqrt(point["kl_bound_nats"]) for point in curve], [point[judge] for point in curve], "o-", color=BEST, markersize=4, linewidth=1.5)
    for point in curve[1:]:
        _note(axes, f"n={point['n']}", sqrt(point["kl_bound_nats"]), point[judge], BEST, (0, -13))
    path = _draw_path(axes, inputs) if judge == "score" else 0
    for name, colour, label in (("sft", SFT, "SFT"), ("ppo", PPO, "PPO")):
        estimate, kl = policies[name][judge], policies[name]["kl_nats"]["value"]
        x = sqrt(max(kl, 0.0))
        axes.errorbar(x, estimate["value"], yerr=Z95 * (estimate["error"] or 0.0), color=colour, marker="o", markersize=8, capsize=0, zorder=5)
        _note(axes, label, x, estimate["value"], colour, (-9, 5), bold=True, align="right" if name == "ppo" else "left")
    axes.set_xlabel("√KL to the reference  (√nats per response)")
    axes.set_ylabel("score (SFT standard deviations)" if judge == "score" else "gold")
    axes.margins(0.1)
    trail = f" The pale path is training, seen at {path} looks at validation prompts." if path else ""
    samples = curve[-1]["n"]
    caption = (
        f"n = {figures['prompts']} test prompts; best-of-n estimated without bias from {samples} SFT samples each, "
        f"at its KL bound; 95 % intervals.{trail}"
    )
    return Picture.of(figure, f"frontier-{judge}", title, caption)


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
    axes.plot([entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins], "o-", color=TRAIN, markersize=6)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(0.38, 1.02)
    _percent_axis(axes)
    _percent_axis(axes, vertical=True)
    axes.set_xlabel("how sure the model is: σ(|score difference|)")
    axes.set_ylabel("how often it is right")
    axes.annotate("underconfident", (0.56, 0.9), color=MUTED, fontsize=8.5)
    axes.annotate("overconfident", (0.86, 0.56), color=MUTED, fontsize=8.5)
    pairs = sum(entry["pairs"] for entry in bins)
    caption = (
        f"n = {pairs:,} held-out pairs; bars show where they lie; 95 % Wilson intervals. Expected calibration error "
        f"{_number(found.get('ece'))}, {_number(found.get('ece_after_temperature'))} after a temperature of "
        f"{_number(found.get('temperature'), 2)}."
    )
    return Picture.of(figure, "reliability", title, caption)


def draw_reward_accuracy(inputs: ReportInputs) -> Picture | Missing:
    """Draw held-out accuracy beside what the rule "longer wins" reaches."""
    title = "Held-out accuracy of the reward model"
    found = inputs.calibration
    if found is None:
        return Missing(title, "the reward stage measured no held-out pairs")
    wanted = (("reward model", "accuracy", TRAIN), ("… on equally long pairs", "length_matched", TRAIN), ("“longer wins”", "longer_wins", SFT))
    rows = [(label, found[key], colour) for label, key, colour in wanted if (found.get(key) or {}).get("value") is not None]
    if not rows:
        return Missing(title, "no held-out pair has a winner")
    figure, axes = new_figure(2.3)
    axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for place, (_, share, colour) in enumerate(reversed(rows)):
        _interval(axes, place, share["value"], share["low"], share["high"], colour, f"{share['value']:.1%}")
    _rows(axes, [label for label, _, _ in reversed(rows)])
    axes.set_xlim(min(0.4, *(share["low"] for _, share, _ in rows)) - 0.02, 1)
    _percent_axis(axes)
    axes.set_xlabel("pairs ordered as the annotators did")
    accuracy = found["accuracy"]
    caption = f"n = {accuracy['pairs']:,} held-out pairs of {accuracy['prompts']:,} prompts; 95 % intervals, clustered by prompt."
    return Picture.of(figure, "reward-shares", title, caption)


def draw_agreement(inputs: ReportInputs) -> Picture | Missing:
    """Draw the annotators' agreement with bootstrap intervals."""
    title = "Agreement of the annotators"
    rows = agreement_rows(inputs.agreement or {})
    if not rows:
        return Missing(title, "no prompt was ranked by two annotators, or the pairs were imported")
    figure, axes = new_figure(max(1.7, 0.8 + 0.5 * len(rows)))
    colour = SFT if inputs.annotators == "scripted" else TRAIN
    for place, (_, value, low, high) in enumerate(reversed(rows)):
        _interval(axes, place, value, low, high, colour, f"{value:.2f}")
    _rows(axes, [label for label, *_ in reversed(rows)])
    axes.set_xlim(min(0.0, *(low for _, _, low, _ in rows)), 1.05)
    axes.set_xlabel("1 is perfect; for alpha 0 is chance, for pairs chance is 0.5")
    who = "Scripted annotators, not people. " if inputs.annotators == "scripted" else ""
    return Picture.of(figure, "agreement", title, f"{who}{_agreement_count(inputs.agreement or {})}95 % bootstrap intervals.")


def agreement_rows(agreement: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """Return (label, value, low, high) of the agreement figures that are defined."""
    labels = {
        "pairwise": "pairwise agreement", "alpha": "Krippendorff's α", "kendall_w": "Kendall's W",
    }  # fmt: skip
    rows = []
    for key, label in labels.items():
        entry = agreement.get(key)
        if isinstance(entry, Mapping) and isinstance(entry.get("value"), (int, float)):
            value = float(entry["value"])
            low, high = entry.get("low"), entry.get("high")
            rows.append((label, value, value if low is None else float(low), value if high is None else float(high)))
    return rows


def _agreement_count(agreement: Mapping[str, Any]) -> str:
    names = (("prompts", "prompts"), ("rankings", "rankings"), ("annotators", "annotators"))
    found = [f"{agreement[key]:,} {word}" for key, word in names if isinstance(agreement.get(key), int)]
    return f"n = {', '.join(found)}. " if found else ""


def _draw_path(axes: "Axes", inputs: ReportInputs) -> int:
    """Draw validation score against sqrt(KL) over training; return the number of looks."""
    score = read_series(inputs, "ppo", "validation/score_mean", "validation/score", "ppo/validation_score")
    kl = read_series(inputs, "ppo", "validation/kl_nats", "ppo/validation_kl_nats")
    if score is None or kl is None or score.steps != kl.steps:
        return 0
    roots = [sqrt(max(value, 0.0)) for value in kl.values]
    axes.plot(roots, score.values, ".-", color=PPO, alpha=0.35, linewidth=1.3, markersize=5)
    return len(roots)


def _interval(axes: "Axes", place: int, value: float, low: float, high: float, colour: str, text: str) -> None:
    axes.plot([low, high], [place, place], color=colour, linewidth=2.4)
    axes.plot(value, place, "o", color=colour, markersize=8)
    axes.annotate(text, (value, place), xytext=(0, 8), textcoords="offset points", ha="center", color=INK, fontweight="bold")


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)


def _percent_axis(axes: "Axes", *, vertical: bool = False) -> None:
    from matplotlib.ticker import PercentFormatter

    (axes.yaxis if vertical else axes.xaxis).set_major_formatter(PercentFormatter(1.0, decimals=0))


def _note(axes: "Axes", text: str, x: float, y: float, colour: str, offset: tuple[int, int], *, bold: bool = False, align: str = "center") -> None:
    axes.annotate(
        text, (x, y), xytext=offset, textcoords="offset points", ha=align, color=colour, fontsize=9 if bold else 8,
        fontweight="bold" if bold else "normal",
    )  # fmt: skip


def _name_colours(axes: "Axes", names: Sequence[tuple[str, str]]) -> None:
    for place, (label, colour) in enumerate(names):
        axes.annotate(
            f"● {label}", (1, 1), xycoords="axes fraction", xytext=(-48 * (len(names) - 1 - place), 4),
            textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=9,
        )  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
