"""How far a reward model's scores can be trusted, measured on pairs of prompts it was not trained on.

Every figure is computed from `JudgedPairs`: the gap r_w - r_l the model gives to each held-out pair, beside what
the annotators said. Pairs whose probability is exactly one half name no winner and count in the log-likelihood
and in the reliability, not in the accuracies.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rlhf.errors import DataError, TrainingError

BINS = 10
GROUPS = 5
MIN_STD = 1e-6
# Bounds of 1 / temperature.
FLATTEST, SHARPEST = 0.01, 100.0
_Z95 = 1.959963984540054
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JudgedPairs:
    """Held-out pairs as arrays of equal length.

    `gap` is r_w - r_l; `probability` is the chance that w is preferred; `prompt` numbers the prompts; `lengths`
    holds the tokens of w and of l; `margin` is the annotators' strength of preference.
    """

    gap: Floats
    probability: Floats
    prompt: NDArray[np.int64]
    lengths: NDArray[np.int64]
    margin: Floats

    @classmethod
    def of(
        cls,
        gap: Sequence[float],
        *,
        probability: Sequence[float] | None = None,
        prompt: Sequence[int] | None = None,
        lengths: Sequence[tuple[int, int]] | None = None,
        margin: Sequence[float] | None = None,
    ) -> Self:
        """Build from plain sequences; what is not given is certain, a prompt of its own, equally long, without margin."""
        count = len(gap)
        return cls(
            gap=np.asarray(gap, dtype=np.float64),
            probability=np.ones(count) if probability is None else np.asarray(probability, dtype=np.float64),
            prompt=np.arange(count) if prompt is None else np.asarray(prompt, dtype=np.int64),
            lengths=np.ones((count, 2), dtype=np.int64)
            if lengths is None
            else np.asarray(lengths, dtype=np.int64).reshape(count, 2),
            margin=np.zeros(count) if margin is None else np.asarray(margin, dtype=np.float64),
        )

    def oriented(self) -> Self:
        """Return the pairs with a winner, turned so that the more probable side is the chosen one."""
        kept = self.probability != 0.5
        sign = np.where(self.probability[kept] > 0.5, 1.0, -1.0)
        lengths = self.lengths[kept]
        return type(self)(
            gap=self.gap[kept] * sign,
            probability=np.maximum(self.probability[kept], 1 - self.probability[kept]),
            prompt=self.prompt[kept],
            lengths=np.where(sign[:, None] > 0, lengths, lengths[:, ::-1]),
            margin=self.margin[kept] * sign,
        )


@dataclass(frozen=True)
class Share:
    """A share of pairs with its 95 % interval; all NaN where there was nothing to count."""

    value: float
    low: float
    high: float
    pairs: int
    prompts: int


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose confidence lies in one bin: how often the model was right, and how sure it was."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The calibration report of a reward model."""

    accuracy: Share
    longer_wins: Share
    length_matched: Share
    length_controlled: Share
    nll_nats: float
    ece: float
    ece_after_temperature: float
    temperature: float
    bins: tuple[ReliabilityBin, ...]
    accuracy_by_margin: tuple[tuple[float, Share], ...]
    accuracy_by_gap: tuple[tuple[float, Share], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; what is undefined (NaN) becomes null."""
        return without_nan(asdict(self))


def calibrate(pairs: JudgedPairs) -> Calibration:
    """Measure a reward model on held-out pairs.

    Raises:
        DataError: There are no pairs.
        TrainingError: A gap is not finite.
    """
    if pairs.gap.size == 0:
        raise DataError("no held-out pairs to measure the reward model on; raise pairs.holdout or label more prompts")
    if not np.isfinite(pairs.gap).all():
        raise TrainingError("the reward model gives scores that are not finite; lower reward.learning_rate")
    turned = pairs.oriented()
    temperature = fit_temperature(pairs.gap, pairs.probability)
    matched = np.abs(turned.lengths[:, 0] - turned.lengths[:, 1]) <= 0.1 * turned.lengths.max(axis=1, initial=0)
    return Calibration(
        accuracy=share(hits(turned.gap), turned.prompt),
        longer_wins=share(hits(turned.lengths[:, 0] - turned.lengths[:, 1]), turned.prompt),
        length_matched=share(hits(turned.gap[matched]), turned.prompt[matched]),
        length_controlled=share(hits(without_length(turned)), turned.prompt),
        nll_nats=negative_log_likelihood(pairs.gap, pairs.probability),
        ece=expected_calibration_error(reliability(pairs.gap, pairs.probability)),
        ece_after_temperature=_cross_fitted_ece(pairs),
        temperature=temperature,
        bins=reliability(pairs.gap, pairs.probability),
        accuracy_by_margin=accuracy_by(turned, turned.margin),
        accuracy_by_gap=accuracy_by(turned, np.abs(turned.gap)),
    )


def hits(gap: NDArray[Any]) -> Floats:
    """Return 1 where the chosen side is ahead, 0 where it is behind, one half where both are level."""
    return 0.5 * (np.sign(gap) + 1.0)


def share(hit: Floats, prompt: NDArray[np.int64]) -> Share:
    """Return the mean of `hit` with a 95 % interval that knows that pairs of one prompt are correlated.

    The variance is the ratio estimator's, clustered by prompt (Cochran 1977, section 9A). It is turned into an
    effective number of independent pairs, and that into Wilson's interval, which is sound at the edges 0 and 1
    where the plain interval would have no width (Korn and Graubard 1998).
    """
    pairs = hit.size
    if pairs == 0:
        return Share(math.nan, math.nan, math.nan, 0, 0)
    clusters, member = np.unique(prompt, return_inverse=True)
    mean = float(hit.mean())
    residuals = np.bincount(member, weights=hit - mean)
    correction = clusters.size / max(clusters.size - 1, 1)
    variance = correction * float((residuals**2).sum()) / pairs**2
    # Without any spread (all right, or all wrong) the clustering cannot be estimated: count prompts, not pairs.
    effective = min(float(pairs), mean * (1 - mean) / variance) if variance > 0 else float(clusters.size)
    low, high = _wilson(mean, max(effective, 1.0))
    return Share(mean, low, high, pairs, clusters.size)


def _wilson(mean: float, count: float) -> tuple[float, float]:
    spread = _Z95**2 / count
    centre = (mean + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(mean * (1 - mean) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def without_length(pairs: JudgedPairs) -> Floats:
    """Return what is left of the gaps after the part that the difference of lengths explains.

    The part is b d, with d the difference in tokens and b = sum(g d) / sum(d^2), least squares through the origin: it does
    not depend on which side a pair calls chosen. A model that only counts tokens is left with nothing.
    """
    difference = (pairs.lengths[:, 0] - pairs.lengths[:, 1]).astype(np.float64)
    square = float(difference @ difference)
    slope = float(pairs.gap @ difference) / square if square else 0.0
    left = pairs.gap - slope * difference
    # What rounding leaves of an exact fit is no opinion.
    return np.where(np.abs(left) <= 1e-9 * np.abs(pairs.gap), 0.0, left)


def negative_log_likelihood(gap: Floats, probability: Floats) -> float:
    """Return the mean of -p log sigma(g) - (1 - p) log sigma(-g), in nats per pair; a coin has log 2 = .693."""
    return float(np.mean(probability * np.logaddexp(0, -gap) + (1 - probability) * np.logaddexp(0, gap)))


def fit_temperature(gap: Floats, probability: Floats) -> float:
    """Return the T that minimises the negative log-likelihood of sigma(gap / T) (Guo et al. 2017).

    In a = 1 / T the objective is convex with derivative mean((sigma(a g) - p) g), so bisection on its sign finds
    the one minimum. A model that is right about every hard label would like T = 0, one that is worse than chance
    T = infinity: T is kept between 0.01 and 100.
    """
    low, high = FLATTEST, SHARPEST

    def slope(sharpness: float) -> float:
        return float(np.mean((_sigmoid(sharpness * gap) - probability) * gap))

    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def reliability(gap: Floats, probability: Floats, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return the reliability diagram of sigma(r_w - r_l), folded so that the model's favourite is always first.

    Which side a file calls chosen is arbitrary, so confidence is max(q, 1 - q), in 10 equal bins from .5 to 1, and
    accuracy is the probability that the model's favourite is the preferred side. Empty bins are left out.
    """
    confidence = _sigmoid(np.abs(gap))
    right = np.where(gap > 0, probability, np.where(gap < 0, 1 - probability, 0.5))
    edges = np.linspace(0.5, 1.0, bins + 1)
    index = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    found: list[ReliabilityBin] = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            low, high = float(edges[number]), float(edges[number + 1])
            confident, accurate = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(ReliabilityBin(low, high, int(inside.sum()), confident, accurate))
    return tuple(found)


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean over pairs of |accuracy - confidence| of their bin (Naeini et al. 2015)."""
    total = sum(entry.pairs for entry in bins)
    return sum(entry.pairs * abs(entry.accuracy - entry.confidence) for entry in bins) / total if total else math.nan


def accuracy_by(pairs: JudgedPairs, values: Floats, groups: int = GROUPS) -> tuple[tuple[float, Share], ...]:
    """Return (mean value, accuracy) of up to `groups` equally large groups of pairs, by rising value.

    Equal values stay together, so there are fewer groups where few values occur: margins are often 0 to 3.
    """
    if values.size == 0:
        return ()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, groups + 1)[1:-1]))
    index = np.searchsorted(edges, values, side="left")
    members = [index == number for number in np.unique(index)]
    return tuple((float(values[m].mean()), share(hits(pairs.gap[m]), pairs.prompt[m])) for m in members)


def normalisation(scores: Sequence[float]) -> tuple[float, float]:
    """Return the mean and standard deviation that bring the scores of SFT samples to mean 0 and deviation 1.

    A Bradley-Terry score has a free constant, and its scale depends on the loss and the data: without this
    the same kl_coef would mean something else for every reward model.

    Raises:
        TrainingError: Fewer than two scores, a score that is not finite, or no spread.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size < 2:
        raise TrainingError(f"{values.size} SFT samples to normalise scores on; raise reward.normalisation_prompts")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise TrainingError(f"{bad} of {values.size} scores of SFT samples are not finite; lower reward.learning_rate")
    mean, std = float(values.mean()), float(values.std())
    if std < MIN_STD * max(1.0, abs(mean)):
        raise TrainingError(
            f"the reward model gives all {values.size} SFT samples the same score ({mean:.6g}, deviation {std:.2g}); "
            "it has learned nothing that tells them apart: check the pairs, or raise reward.learning_rate or reward.epochs"
        )
    return mean, std


def _cross_fitted_ece(pairs: JudgedPairs) -> float:
    """Fit the temperature on one half of the prompts, measure on the other, both ways, and pool."""
    half = np.unique(pairs.prompt, return_inverse=True)[1] % 2 == 0
    if half.all():
        return math.nan
    scaled = pairs.gap.copy()
    for part in (half, ~half):
        scaled[part] = pairs.gap[part] / fit_temperature(pairs.gap[~part], pairs.probability[~part])
    return expected_calibration_error(reliability(scaled, pairs.probability))


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -values))


def without_nan(value: Any) -> Any:
    """Return nested plain values with null for what is not a number."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
