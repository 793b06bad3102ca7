"""Figures with intervals, and the bootstrap behind them, at any number of prompts.

Intervals are 95 % percentile bootstraps over prompts: answers to one prompt depend on each other, prompts do not.

Resampling n prompts needs 1000 x n numbers. Beyond `BLOCKS` prompts these are put into that many groups of equal size,
by a seeded shuffle, and the groups are resampled. Every figure is a function of sums over prompts; the sum over a group
of b independent prompts has b times the variance of one, so that drawing n/b groups gives a sum with the variance of
drawing n prompts. What is lost is precision of the interval's width, which then comes from 500 values: about 3 %
(1 / sqrt(2 x 500)). Up to `BLOCKS` prompts each is its own group and nothing differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
BLOCKS = 500
INTERVAL = (2.5, 97.5)
# Of a standard normal, the same 95 %.
Z_95 = 1.959964

Floats = NDArray[np.float64]


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


def block_of(size: int, seed: int) -> NDArray[np.int64]:
    """Return the group of each of `size` prompts, 0 to min(size, BLOCKS) - 1."""
    if size <= BLOCKS:
        return np.arange(size)
    return np.random.default_rng([seed % 2**32, size]).permutation(size) % BLOCKS


def block_sums(table: Floats, seed: int) -> Floats:
    """Return the sums of the rows of `table` (one per prompt, any shape behind) by group."""
    if len(table) <= BLOCKS:
        return table
    order = np.argsort(block_of(len(table), seed), kind="stable")
    counts = np.bincount(block_of(len(table), seed), minlength=BLOCKS)
    return np.add.reduceat(table[order], np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=0)


def resampled_sums(table: Floats, seed: int) -> Floats:
    """Return the column sums of `table` (one row per prompt) in each resample of its prompts: (RESAMPLES, columns)."""
    blocks = block_sums(table, seed)
    return _draws(len(blocks), seed) @ blocks


def ratio(table: Floats, seed: int = 0, unit: str = "prompts") -> Figure:
    """Return sum of column 0 / sum of column 1 with its interval; one row per prompt, column 1 above 0 somewhere."""
    return statistic(table, lambda sums: sums[:, 0] / sums[:, 1], seed, unit)


def statistic(table: Floats, of_sums: Callable[[Floats], Floats], seed: int = 0, unit: str = "prompts") -> Figure:
    """Return a function of the column sums of `table` with its interval.

    Args:
        table: One row per prompt.
        of_sums: Takes column sums, (any number, columns), and returns one number for each row.
        seed: Seeds the bootstrap.
        unit: What a row is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(of_sums(table.sum(axis=0)[None])[0])
        draws = of_sums(resampled_sums(table, seed))
    return interval(value, draws, len(table), unit)


def bootstrap_mean(values: Sequence[float] | Floats, seed: int = 0, unit: str = "prompts") -> Figure:
    """Return the mean of independent values with its bootstrap interval."""
    table = np.asarray(values, dtype=np.float64)
    if not len(table):
        return Figure(None, unit=unit, reason=f"there are no {unit}")
    return ratio(np.stack([table, np.ones(len(table))], axis=1), seed, unit)


def median(values: Floats, unit: str = "answers") -> Figure:
    """Return the median of independent values; its interval goes from one order statistic to another (binomial)."""
    size = len(values)
    if not size:
        return Figure(None, unit=unit, reason=f"there are no {unit}")
    ordered = np.sort(values)
    # Of `size` tosses of a coin, fewer than `outside` heads come in 2.5 % of all cases.
    outside = int((size - Z_95 * np.sqrt(size)) / 2)
    if outside < 1:
        return Figure(float(np.median(ordered)), n=size, unit=unit)
    return Figure(float(np.median(ordered)), float(ordered[outside - 1]), float(ordered[-outside]), size, unit)


def interval(value: float, draws: Floats, n: int, unit: str = "prompts") -> Figure:
    """Return a figure with the interval of its resampled values; none where there is a single unit."""
    usable = draws[np.isfinite(draws)]
    if n < 2 or not len(usable):
        return Figure(value, n=n, unit=unit)
    low, high = np.percentile(usable, INTERVAL)
    return Figure(value, float(low), float(high), n, unit)


@lru_cache(maxsize=8)
def _draws(size: int, seed: int) -> Floats:
    """Return how often each of `size` groups is drawn, in each of the resamples: (RESAMPLES, size)."""
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1.0 / size), size=RESAMPLES).astype(np.float64)
    drawn.setflags(write=False)
    return drawn
