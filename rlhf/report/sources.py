"""The picture of what a score is made of, where several sources are summed."""

from rlhf.report.curves import SMOOTHING, smooth
from rlhf.report.inputs import ReportInputs, metric_names, read_series
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import BEST, HELD_OUT, INK, PPO, SFT, TRAIN, new_figure

PREFIX, WHOLE = "ppo/score_", ("ppo/score_mean", "ppo/score_std")
COLOURS = (PPO, HELD_OUT, BEST, TRAIN, SFT)
DASHES = ("-", "--", ":", "-.")


def draw_sources(inputs: ReportInputs) -> Picture | Missing:
    """Draw what each source of the score gave over training: one that rises while another falls is being bought."""
    title = "What the score is made of"
    names = [name for name in metric_names(inputs, "ppo", PREFIX) if name not in WHOLE]
    series = {name: found for name in names if (found := read_series(inputs, "ppo", name)) is not None}
    if not series:
        return Missing(title, "the score has one source")
    figure, axes = new_figure(2.8)
    for place, (name, found) in enumerate(series.items()):
        width = len(found) * SMOOTHING
        values = smooth(found.values, width) if width >= 1 else found.values
        style = DASHES[place // len(COLOURS) % len(DASHES)]
        label = name.removeprefix(PREFIX)
        axes.plot(found.steps, values, style, color=COLOURS[place % len(COLOURS)], label=label)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=INK)
    axes.set_xlabel("PPO update")
    axes.set_ylabel("mean over rollouts")
    caption = f"n = {len(next(iter(series.values())))} updates. Each source on its own scale, before its weight."
    return Picture.of(figure, "ppo-sources", title, caption)
