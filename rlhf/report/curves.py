"""Curves of the training stages, read from their `metrics.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf.report.axes import as_percent, name_colours
from rlhf.report.inputs import ReportInputs, Series, read_series
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import HELD_OUT, PPO, TRAIN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING = 0.025
"""Width of the drawn mean, as a share of the run; the raw values stay visible behind it."""


@dataclass(frozen=True, slots=True)
class CurveSpec:
    """One figure of training curves: which metrics of which stage, and how it is worded."""

    name: str
    stage: str
    title: str
    unit: str
    train: str | None
    held_out: str | None = None
    held_out_label: str = "held-out"
    step: str = "optimiser step"
    note: str = ""
    zero: bool = False
    percent: bool = False


BASE_LOSS = CurveSpec("base-loss", "base", "Pretraining loss of the embedded base", "nats per token", "base/loss_nats")
SFT_LOSS = CurveSpec(
    "sft-loss", "sft", "SFT loss", "nats per response token", "sft/loss", "sft/held_out_loss",
    note="The adapter with the lowest held-out loss is kept.",
)  # fmt: skip
REWARD_LOSS = CurveSpec(
    "reward-loss", "reward", "Reward model loss", "nats per pair", "reward/loss_nats", "reward/held_out_loss_nats",
    note="A coin has log 2 = 0.693.",
)  # fmt: skip
REWARD_ACCURACY = CurveSpec(
    "reward-accuracy", "reward", "Held-out accuracy over training", "pairs ordered right", None,
    "reward/held_out_accuracy", note="Right is what the annotators said.", percent=True,
)  # fmt: skip
PPO_SCORE = CurveSpec(
    "ppo-score", "ppo", "Score", "score", "ppo/score_mean", "validation/score_mean", "validation", "PPO update",
    "What PPO is rewarded with; of a reward model alone, 0 is the SFT policy's mean and 1 its standard deviation.",
)  # fmt: skip
PPO_KL = CurveSpec(
    "ppo-kl", "ppo", "KL to the reference", "nats per response", "ppo/kl_nats", "validation/kl_nats",
    "validation", "PPO update", "The k1 estimate, summed over a response.", zero=True,
)  # fmt: skip
PPO_LENGTH = CurveSpec(
    "ppo-length", "ppo", "Response length", "tokens", "ppo/length_tokens", "validation/length_tokens",
    "validation", "PPO update", "End tokens included.", zero=True,
)  # fmt: skip
PPO_EOS = CurveSpec(
    "ppo-eos", "ppo", "Responses that end by themselves", "share", "ppo/eos_rate", "validation/eos_rate",
    "validation", "PPO update", "The others were cut off at the length limit.", percent=True,
)  # fmt: skip
PPO_CURVES = (PPO_SCORE, PPO_KL, PPO_LENGTH, PPO_EOS)


def draw_curves(inputs: ReportInputs, spec: CurveSpec) -> Picture | Missing:
    """Draw training values as a pale line with their running mean, and held-out values as dots on a line."""
    train = read_series(inputs, spec.stage, spec.train) if spec.train else None
    held_out = read_series(inputs, spec.stage, spec.held_out) if spec.held_out else None
    if train is None and held_out is None:
        return Missing(spec.title, f"the {spec.stage} stage logged no such numbers (it may have been imported)")
    figure, axes = new_figure()
    colour = PPO if spec.stage == "ppo" else TRAIN
    if train is not None:
        _draw_train(axes, train, colour)
    if held_out is not None:
        axes.plot(held_out.steps, held_out.values, color=HELD_OUT, linewidth=1.3, marker="o", markersize=4.2, zorder=4)
    if train is not None and held_out is not None:
        name_colours(axes, [("train", colour), (spec.held_out_label, HELD_OUT)])
    axes.set_xlabel(spec.step)
    axes.set_ylabel(spec.unit)
    if spec.zero:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if spec.percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(-0.02, low), min(1.02, high))
        as_percent(axes, vertical=True)
    return Picture.of(figure, spec.name, spec.title, _caption(spec, train, held_out))


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Return a Gaussian-weighted running mean of standard deviation `width`, in steps.

    The weights add to 1 at the ends too.
    """
    series = np.asarray(values, dtype=np.float64)
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(series, reach)
    weights = np.convolve(np.pad(np.ones_like(series), reach), kernel, mode="valid")
    return (np.convolve(padded, kernel, mode="valid") / weights).tolist()


def _draw_train(axes: "Axes", train: Series, colour: str) -> None:
    width = len(train) * SMOOTHING
    if width < 1:
        axes.plot(train.steps, train.values, color=colour)
        return
    axes.plot(train.steps, train.values, color=colour, alpha=0.28, linewidth=1)
    axes.plot(train.steps, smooth(train.values, width), color=colour)


def _caption(spec: CurveSpec, train: Series | None, held_out: Series | None) -> str:
    counts = []
    if train is not None:
        counts.append(f"{len(train)} logged steps")
    if held_out is not None:
        counts.append(f"{len(held_out)} looks at {spec.held_out_label} data")
    return " ".join([f"n = {', '.join(counts)}.", spec.note]).strip()
