"""Curves of the training stages, read from their `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.report.inputs import ReportInputs, Series, read_series
from rlhf.report.picture import Missing, Picture
from rlhf.report.style import HELD_OUT, PPO, TRAIN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING = 0.05
"""Window of the drawn mean, as a share of the run; the raw values stay visible behind it."""


@dataclass(frozen=True, slots=True)
class CurveSpec:
    """One figure of training curves: which metrics of which stage, and how it is worded."""

    name: str
    stage: str
    title: str
    unit: str
    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    held_out_label: str = "held-out"
    step: str = "optimiser step"
    note: str = ""
    zero: bool = False
    percent: bool = False


BASE_LOSS = CurveSpec("base-loss", "base", "Pretraining loss of the embedded base", "nats per token", ("base/loss_nats",))
SFT_LOSS = CurveSpec(
    "sft-loss", "sft", "SFT loss", "nats per response token",
    ("sft/loss_nats", "sft/loss"), ("sft/validation_loss_nats", "sft/held_out_loss_nats", "sft/eval_loss_nats"),
    note="The adapter with the lowest held-out loss is kept.",
)  # fmt: skip
REWARD_LOSS = CurveSpec(
    "reward-loss", "reward", "Reward model loss", "nats per pair",
    ("reward/loss_nats", "reward/loss"), ("reward/held_out_loss_nats", "reward/validation_loss_nats", "reward/eval_loss_nats"),
    note="A coin has log 2 = 0.693.",
)  # fmt: skip
REWARD_ACCURACY = CurveSpec(
    "reward-accuracy", "reward", "Reward model accuracy", "share of pairs ordered as the annotators did",
    ("reward/accuracy",), ("reward/held_out_accuracy", "reward/validation_accuracy", "reward/eval_accuracy"), percent=True,
)  # fmt: skip
PPO_SCORE = CurveSpec(
    "ppo-score", "ppo", "Score", "SFT standard deviations",
    ("ppo/score_mean", "ppo/score"), ("validation/score_mean", "validation/score", "ppo/validation_score"),
    "validation", "PPO update", "The reward model's view; 0 is the SFT policy's mean.",
)  # fmt: skip
PPO_KL = CurveSpec(
    "ppo-kl", "ppo", "KL to the reference", "nats per response",
    ("ppo/kl_nats",), ("validation/kl_nats", "ppo/validation_kl_nats"), "validation", "PPO update", zero=True,
)  # fmt: skip
PPO_LENGTH = CurveSpec(
    "ppo-length", "ppo", "Response length", "tokens",
    ("ppo/length_tokens", "ppo/response_tokens"), ("validation/length_tokens", "ppo/validation_length_tokens"),
    "validation", "PPO update", zero=True,
)  # fmt: skip
PPO_EOS = CurveSpec(
    "ppo-eos", "ppo", "Responses that end by themselves", "share",
    ("ppo/eos_rate",), ("validation/eos_rate", "ppo/validation_eos_rate"), "validation", "PPO update", percent=True,
)  # fmt: skip
PPO_CURVES = (PPO_SCORE, PPO_KL, PPO_LENGTH, PPO_EOS)


def draw_curves(inputs: ReportInputs, spec: CurveSpec) -> Picture | Missing:
    """Draw training values as a pale line with their running mean, and held-out values as dots on a line."""
    train = read_series(inputs, spec.stage, *spec.train)
    held_out = read_series(inputs, spec.stage, *spec.held_out) if spec.held_out else None
    if train is None and held_out is None:
        return Missing(spec.title, f"the {spec.stage} stage logged no {spec.train[0]} (it may have been imported)")
    figure, axes = new_figure()
    if train is not None:
        _draw_train(axes, train, PPO if spec.stage == "ppo" else TRAIN)
    if held_out is not None:
        axes.plot(held_out.steps, held_out.values, color=HELD_OUT, linewidth=1.3, marker="o", markersize=4.2, zorder=4)
    _label_ends(axes, {"train": (train, PPO if spec.stage == "ppo" else TRAIN), spec.held_out_label: (held_out, HELD_OUT)})
    axes.set_xlabel(spec.step)
    axes.set_ylabel(spec.unit)
    if spec.zero:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if spec.percent:
        _as_percent(axes)
    return Picture.of(figure, spec.name, spec.title, _caption(spec, train, held_out))


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the centred mean over up to `window` values; at the ends the window shrinks evenly on both sides."""
    half = max(window, 1) // 2
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        part = values[index - reach : index + reach + 1]
        means.append(sum(part) / len(part))
    return means


def _draw_train(axes: "Axes", train: Series, colour: str) -> None:
    window = round(len(train) * SMOOTHING)
    if window < 3:
        axes.plot(train.steps, train.values, color=colour)
        return
    axes.plot(train.steps, train.values, color=colour, alpha=0.28, linewidth=1)
    axes.plot(train.steps, running_mean(train.values, window), color=colour)


def _label_ends(axes: "Axes", lines: Mapping[str, tuple[Series | None, str]]) -> None:
    """Name the lines above the plot, in their colours: no legend box, no overlap with the data."""
    shown = [(label, colour) for label, (line, colour) in lines.items() if line is not None]
    if len(shown) < 2:
        return
    for place, (label, colour) in enumerate(shown):
        mark = "●" if colour == HELD_OUT else "━"
        axes.annotate(
            f"{mark} {label}", (1, 1), xycoords="axes fraction", xytext=(-78 * (len(shown) - 1 - place), 4),
            textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=9,
        )  # fmt: skip


def _as_percent(axes: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    low, high = axes.get_ylim()
    axes.set_ylim(max(-0.02, low), min(1.02, high))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _caption(spec: CurveSpec, train: Series | None, held_out: Series | None) -> str:
    counts = []
    if train is not None:
        counts.append(f"{len(train)} logged steps")
    if held_out is not None:
        counts.append(f"{len(held_out)} looks at {spec.held_out_label} data")
    return " ".join([f"n = {', '.join(counts)}.", spec.note]).strip()


