"""The picture of rounds: what each brought over the one before."""

from rlhf.evaluation.metrics import Z95
from rlhf.report.axes import write_note
from rlhf.report.inputs import ReportInputs
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import MUTED, PPO, SFT, new_figure


def draw_rounds(inputs: ReportInputs) -> Picture | Missing:
    """Draw each round's mean gold with its 95% interval, beside the SFT policy's."""
    title = "Round by round"
    if not inputs.rounds:
        return Missing(title, "the run has no two rounds with a gold scorer")
    figure, axes = new_figure(2.6)
    start = inputs.rounds[-1].start
    points = [("SFT", start.value, start.error, SFT)]
    points += [(f"round {found.round}", found.gold.value, found.gold.error, PPO) for found in inputs.rounds]
    axes.plot(range(len(points)), [value for _, value, _, _ in points], color=MUTED, linewidth=0.9, zorder=1)
    for place, (_, value, error, colour) in enumerate(points):
        axes.errorbar(place, value, yerr=Z95 * (error or 0.0), color=colour, marker="o", markersize=8, zorder=3)
        write_note(axes, f"{value:.3f}", place, value, colour, (9, -13), bold=True)
    axes.set_xticks(range(len(points)), [label for label, _, _, _ in points])
    axes.set_xlim(-0.3, len(points) - 0.3)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("gold")
    gains = [
        f"round {found.round} {found.gain.value:+.3f} ± {found.gain.error or 0:.3f}".replace("-", "−")
        for found in inputs.rounds
        if found.gain is not None
    ]
    caption = (
        f"n = {inputs.rounds[0].gold.count:,} test prompts that every round answered; 95% intervals. "
        f"Over the round before, paired by prompt, ± standard error: {'; '.join(gains)}."
    )
    return Picture.of(figure, "rounds", title, caption)
