"""Do annotators agree? Figures for rankings with ties, each with an interval, or with the reason why there is none.

All are computed from the pairs of candidates of a prompt, coded in candidate order (not display order) as first
better, tie, second better. Intervals are 95 % percentile bootstraps over prompts: answers to one prompt are not
independent of each other, prompts are.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rlhf.records import Ranking

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval, from n units; without a value, `reason` says why it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "prompts"
    reason: str = ""

    def __str__(self) -> str:
        """Return the figure as a reader wants it."""
        if self.value is None:
            return f"undefined, because {self.reason}"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (n = {self.n} {self.unit})"
        return f"{self.value:.3f} (95 % interval {self.low:.3f} to {self.high:.3f}, n = {self.n} {self.unit})"


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement figures of a set of rankings."""

    strict: Figure
    tie_aware: Figure
    alpha: Figure
    kendalls_w: Figure
    by_annotator: dict[str, Figure]


def measure_agreement(rankings: Iterable[Ranking], seed: int = 0) -> Agreement:
    """Return all agreement figures."""
    rows = list(rankings)
    names = sorted({row.annotator for row in rows})
    return Agreement(
        strict=pairwise_agreement(rows, strict=True, seed=seed),
        tie_aware=pairwise_agreement(rows, strict=False, seed=seed),
        alpha=krippendorff_alpha(rows, seed=seed),
        kendalls_w=kendalls_w(rows, seed=seed),
        by_annotator={name: pairwise_agreement(rows, strict=True, only=name, seed=seed) for name in names},
    )


def pairwise_agreement(rankings: Iterable[Ranking], *, strict: bool, only: str | None = None, seed: int = 0) -> Figure:
    """Return how often two annotators of the same prompt order a pair of its candidates alike.

    Args:
        rankings: The rankings.
        strict: Count only pairs that both ordered strictly, alike or not (the figure that the literature quotes,
            63 to 77 %). Otherwise all pairs count: alike 1, a tie against an order 1/2, opposite 0.
        only: Compare this annotator with the others; without it, everybody with everybody.
        seed: Seeds the bootstrap.
    """
    sums: list[tuple[float, float]] = []
    for codes in _codes_by_prompt(rankings).values():
        total = count = 0.0
        for (one, a), (two, b) in combinations(codes, 2):
            if only is not None and only not in (one, two):
                continue
            counted = (a != 0) & (b != 0) if strict else np.ones(len(a), dtype=bool)
            total += float((1.0 - np.abs(a - b) / 2.0)[counted].sum())
            count += float(counted.sum())
        if count:
            sums.append((total, count))
    if not sums:
        return Figure(None, reason="no prompt was ranked by two annotators" + (" with strict orders" if strict else ""))
    table = np.array(sums)
    draws = _resample(len(table), seed) @ table
    return _figure(table[:, 0].sum() / table[:, 1].sum(), draws[:, 0] / draws[:, 1], len(table))


def krippendorff_alpha(rankings: Iterable[Ranking], seed: int = 0) -> Figure:
    """Return Krippendorff's alpha (2011), nominal, on pairs coded first better / tie / second better.

    alpha = 1 - observed / expected disagreement, from the coincidence matrix: each prompt's pair is a unit, each
    annotator of it a coder; units with one coder do not enter.
    """
    matrices: list[NDArray[np.float64]] = []
    for codes in _codes_by_prompt(rankings).values():
        if len(codes) < 2:
            continue
        # counts[unit, value] of the values -1, 0, 1
        counts = np.stack([sum((code == value).astype(float) for _, code in codes) for value in (-1, 0, 1)], axis=1)
        together = counts.T @ counts - np.diag(counts.sum(axis=0))
        matrices.append(together / (len(codes) - 1))
    if not matrices:
        return Figure(None, reason="no prompt was ranked by two annotators")
    table = np.stack(matrices)
    value = float(_alpha(table.sum(axis=0)[None])[0])
    if np.isnan(value):
        return Figure(None, n=len(table), reason="all answers are the same, so that chance agreement is complete")
    draws = np.einsum("bp,pij->bij", _resample(len(table), seed), table)
    return _figure(value, _alpha(draws), len(table))


def kendalls_w(rankings: Iterable[Ranking], seed: int = 0) -> Figure:
    """Return the mean over prompts of Kendall's coefficient of concordance, corrected for ties (Kendall 1948).

    W = 12 S / (m^2 (n^3 - n) - m sum T): m annotators, n candidates, S the squared deviations of the rank sums, T
    the sum of t^3 - t over an annotator's groups of t tied candidates. Prompts on which everybody ties all
    candidates have no W.
    """
    groups: dict[str, list[Ranking]] = defaultdict(list)
    for row in rankings:
        groups[row.prompt_id].append(row)
    shared = [rows for rows in groups.values() if len(rows) > 1]
    if not shared:
        return Figure(None, reason="no prompt was ranked by two annotators")
    values = np.array([w for rows in shared if (w := _concordance(rows)) is not None])
    if not len(values):
        return Figure(None, n=len(shared), reason="every shared prompt was ranked as one big tie")
    weights = _resample(len(values), seed) / len(values)
    return _figure(float(values.mean()), weights @ values, len(values))


def bootstrap_mean(values: Sequence[float], seed: int = 0, unit: str = "prompts") -> Figure:
    """Return the mean of independent values with its bootstrap interval."""
    table = np.asarray(values, dtype=np.float64)
    if not len(table):
        return Figure(None, unit=unit, reason=f"there are no {unit}")
    figure = _figure(float(table.mean()), _resample(len(table), seed) @ table / len(table), len(table))
    return Figure(figure.value, figure.low, figure.high, figure.n, unit)


def _codes_by_prompt(rankings: Iterable[Ranking]) -> dict[str, list[tuple[str, NDArray[np.int64]]]]:
    groups: dict[str, list[tuple[str, NDArray[np.int64]]]] = defaultdict(list)
    for row in rankings:
        ranks = np.array(row.ranks)
        first, second = np.triu_indices(len(ranks), 1)
        groups[row.prompt_id].append((row.annotator, np.sign(ranks[second] - ranks[first])))
    return groups


def _alpha(coincidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return alpha of each coincidence matrix in a stack; NaN where only one value occurs."""
    marginals = coincidences.sum(axis=2)
    total = marginals.sum(axis=1)
    observed = total - np.trace(coincidences, axis1=1, axis2=2)
    expected = total**2 - (marginals**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1.0 - (total - 1.0) * observed / expected, np.nan)


def _concordance(rows: Sequence[Ranking]) -> float | None:
    ranks = np.stack([_mean_ranks(row.ranks) for row in rows])
    raters, size = ranks.shape
    sums = ranks.sum(axis=0)
    deviations = float(((sums - sums.mean()) ** 2).sum())
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in ranks))
    denominator = raters**2 * (size**3 - size) - raters * ties
    return 12.0 * deviations / denominator if denominator > 0 else None


def _mean_ranks(ranks: Sequence[int]) -> NDArray[np.float64]:
    """Return ranks 1..n in which tied candidates share the mean of the places they take."""
    values = np.array(ranks)
    below = (values[None, :] < values[:, None]).sum(axis=1)
    same = (values[None, :] == values[:, None]).sum(axis=1)
    return below + (same + 1) / 2.0


def _resample(size: int, seed: int) -> NDArray[np.float64]:
    """Return how often each of `size` prompts is drawn, in each of the resamples: (resamples, size)."""
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1.0 / size), size=RESAMPLES).astype(float)


def _figure(value: float, draws: NDArray[np.float64], n: int) -> Figure:
    usable = draws[np.isfinite(draws)]
    if n < 2 or not len(usable):
        return Figure(float(value), n=n)
    low, high = np.percentile(usable, INTERVAL)
    return Figure(float(value), float(low), float(high), n)
