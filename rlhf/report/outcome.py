"""Pictures of what came out: SFT, best-of-n and PPO side by side."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.metrics import Z95, wilson_interval
from rlhf.report.axes import as_percent, draw_interval, name_colours, name_rows, write_note
from rlhf.report.inputs import ReportInputs, read_samples, read_series
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import BAD, BEST, GRID, INK, MUTED, PAPER, PPO, SFT, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_EVALUATION = "the run has no evaluation"
BINS_PER_SIDE = 12
MOST_POINTS = 400
"""Points of a scatter plot that are drawn; all are counted."""


def draw_win_rates(inputs: ReportInputs) -> Picture | Missing:
    """Draw how often PPO's response beats the SFT policy's, and best-of-n's, with 95% intervals."""
    title = "Win rate of PPO"
    figures = inputs.evaluation
    if figures is None:
        return Missing(title, NO_EVALUATION)
    rows = [
        ("over SFT", figures["win_rate"], PPO),
        (f"over best of {figures['best_of']}", figures["win_rate_over_best_of_n"], BEST),
    ]
    figure, axes = new_figure(2.1)
    axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for place, (_, estimate, colour) in enumerate(reversed(rows)):
        low, high = wilson_interval(estimate["value"], estimate["count"])
        draw_interval(axes, place, estimate["value"], low, high, colour, f"{estimate['value']:.1%}")
    name_rows(axes, [label for label, _, _ in reversed(rows)])
    axes.set_xlim(0, 1)
    as_percent(axes)
    axes.set_xlabel("share of prompts won, a tie is half")
    judge = (
        "the gold scorer" if figures["judge"] == "gold" else "the very score that PPO raised (there is no gold scorer)"
    )
    caption = (
        f"n = {figures['prompts']:,} test prompts, judged by {judge}; 95% Wilson intervals. The dashed line is a coin."
    )
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
            axes.plot(
                [estimate["value"] - reach, estimate["value"] + reach],
                [place, place],
                color=colour,
                linewidth=2,
                zorder=2,
            )
            axes.plot(estimate["value"], place, "o", color=colour, markersize=8, zorder=3)
        right = max(before["value"], after["value"])
        axes.annotate(
            f"{parts[name]['gain']['value']:+.2f}", (right, place), xytext=(11, 0), textcoords="offset points",
            va="center", color=INK if parts[name]["gain"]["value"] >= 0 else BAD, fontweight="bold",
        )  # fmt: skip
    name_rows(axes, names)
    axes.margins(x=0.12)
    axes.set_xlabel("mean, with 95% intervals")
    name_colours(axes, [("SFT", SFT), ("PPO", PPO)])
    count = next(iter(parts.values()))["gain"]["count"]
    return Picture.of(
        figure,
        "gold-parts",
        title,
        f"n = {count:,} test prompts, paired. What the policy learned, and what it gave up.",
    )


def draw_gain_histogram(inputs: ReportInputs) -> Picture | Missing:
    """Draw PPO's gain over SFT prompt by prompt: a mean hides whether everyone gains a little or a few a lot."""
    title = "Gain over SFT, prompt by prompt"
    rows = read_samples(inputs.samples)
    if not rows:
        return Missing(title, "the run has no samples of test prompts")
    gains, judge = sample_gains(rows)
    figure, axes = new_figure()
    reach = max(abs(gain) for gain in gains) or 1.0
    edges = [reach * (place / BINS_PER_SIDE - 1) for place in range(2 * BINS_PER_SIDE + 1)]
    for colour, side in ((BAD, [gain for gain in gains if gain < 0]), (PPO, [gain for gain in gains if gain > 0])):
        axes.hist(side, bins=edges, color=colour, alpha=0.85, rwidth=0.9)
    axes.axvline(0, color=MUTED, linewidth=0.9)
    shares = [sum(gain < 0 for gain in gains), sum(gain == 0 for gain in gains), sum(gain > 0 for gain in gains)]
    for text, colour, x, align in (("worse", BAD, 0.02, "left"), ("better", PPO, 0.98, "right")):
        count = shares[0] if text == "worse" else shares[2]
        axes.text(
            x,
            0.95,
            f"{text}\n{count / len(gains):.0%}",
            transform=axes.transAxes,
            ha=align,
            va="top",
            color=colour,
            fontweight="bold",
        )
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{judge} of PPO − {judge} of SFT")
    axes.set_ylabel("prompts")
    caption = (
        f"n = {len(gains):,} test prompts: {shares[2]:,} better, {shares[0]:,} worse, {shares[1]:,} level (not drawn)."
    )
    return Picture.of(figure, "gain-histogram", title, caption)


def draw_score_against_gold(inputs: ReportInputs) -> Picture | Missing:
    """Draw each answer's score against its gold.

    Where the cloud moves right but not up, PPO has fooled the reward model.
    """
    title = "Does the reward model still agree with gold?"
    rows = [row for row in read_samples(inputs.samples) if row["golds"]["ppo"] is not None]
    if not rows:
        return Missing(
            title, "the run has no gold scorer" if inputs.samples else "the run has no samples of test prompts"
        )
    figure, axes = new_figure(3.3)
    found = []
    for name, label, colour in (("sft", "SFT", SFT), ("ppo", "PPO", PPO)):
        scores, golds = ([row[key][name] for row in rows] for key in ("scores", "golds"))
        shown = slice(None, None, -(-len(rows) // MOST_POINTS))
        axes.scatter(scores[shown], golds[shown], s=9, color=colour, alpha=0.4, linewidths=0)
        axes.plot(
            sum(scores) / len(scores),
            sum(golds) / len(golds),
            "o",
            color=colour,
            markersize=9,
            markeredgecolor=PAPER,
            markeredgewidth=1.5,
        )
        correlation = rank_correlation(scores, golds)
        found.append(f"{label} {correlation:.2f}" if correlation is not None else f"{label} undefined (all equal)")
    name_colours(axes, [("SFT", SFT), ("PPO", PPO)])
    axes.set_xlabel("score")
    axes.set_ylabel("gold")
    drawn = f", {len(range(*shown.indices(len(rows))))} drawn" if shown.step > 1 else ""
    caption = (
        f"n = {len(rows):,} test prompts{drawn}; large dots are means. "
        f"Rank correlation of score and gold: {', '.join(found)}."
    )
    return Picture.of(figure, "score-gold", title, caption)


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None where one side does not vary."""
    ranks = [_mean_ranks(np.asarray(values, dtype=np.float64)) for values in (left, right)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def sample_gains(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], str]:
    """Return PPO's gain over SFT for each row of `samples.jsonl`, and what it is measured in."""
    judge = "gold" if all(row["golds"]["ppo"] is not None for row in rows) else "score"
    return [row[f"{judge}s"]["ppo"] - row[f"{judge}s"]["sft"] for row in rows], judge


def draw_frontier(inputs: ReportInputs, judge: str) -> Picture | Missing:
    """Draw score or gold against sqrt(KL), with the best-of-n curve (Gao et al. 2022).

    Args:
        inputs: The report's inputs.
        judge: `score` (also shows the path that training took on validation prompts) or `gold`.
    """
    title = f"What a nat of KL buys: {judge}"
    figures = inputs.evaluation
    if figures is None:
        return Missing(title, NO_EVALUATION)
    policies = figures["policies"]
    if policies["ppo"][judge] is None:
        return Missing(title, "the run has no gold scorer")
    figure, axes = new_figure(3.3)
    axes.margins(0.1, 0.14)
    curve = figures["best_of_n_curve"]
    roots = [sqrt(point["kl_bound_nats"]) for point in curve]
    axes.plot(roots, [point[judge] for point in curve], "o-", color=BEST, markersize=4, linewidth=1.5)
    for root, point in zip(roots[1:], curve[1:], strict=True):
        write_note(
            axes, f"best of {point['n']}" if point is curve[-1] else str(point["n"]), root, point[judge], BEST, (4, -12)
        )
    looks = _draw_path(axes, inputs) if judge == "score" else 0
    for name, colour, label in (("sft", SFT, "SFT"), ("ppo", PPO, "PPO")):
        estimate, kl = policies[name][judge], policies[name]["kl_nats"]["value"]
        root, reach = sqrt(max(kl, 0.0)), Z95 * (estimate["error"] or 0.0)
        axes.errorbar(root, estimate["value"], yerr=reach, color=colour, marker="o", markersize=8, zorder=5)
        write_note(axes, label, root, estimate["value"], colour, (10, -4) if name == "ppo" else (7, -13), bold=True)
    axes.set_xlabel("√KL to the reference  (√nats per response)")
    axes.set_ylabel(judge)
    trail = f" The pale path is training, seen at {looks} looks at validation prompts." if looks else ""
    samples = curve[-1]["n"]
    caption = (
        f"n = {figures['prompts']:,} test prompts; best-of-n estimated without bias from {samples} SFT samples each, "
        f"at its KL bound; 95% intervals.{trail}"
    )
    return Picture.of(figure, f"frontier-{judge}", title, caption)


def _draw_path(axes: "Axes", inputs: ReportInputs) -> int:
    """Draw validation score against sqrt(KL) over training; return the number of looks."""
    score = read_series(inputs, "ppo", "validation/score_mean")
    kl = read_series(inputs, "ppo", "validation/kl_nats")
    if score is None or kl is None or score.steps != kl.steps:
        return 0
    roots = [sqrt(max(value, 0.0)) for value in kl.values]
    axes.plot(roots, score.values, ".-", color=PPO, alpha=0.35, linewidth=1.3, markersize=5)
    return len(roots)
