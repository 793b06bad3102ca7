"""Many rankings as arrays: what the quality figures are computed from, for ten prompts as for a hundred thousand."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rlhf.records import MAX_CANDIDATES, Ranking

Ints = NDArray[np.int64]
Ranks = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class RankTable:
    """One row per ranking.

    Attributes:
        prompt: The index of the row's prompt, 0 to `prompts` - 1.
        annotator: The index of the row's annotator.
        size: How many candidates were ranked.
        ranks: By candidate, 1 is best; 0 beyond the prompt's candidates. (rows, MAX_CANDIDATES)
        prompts: How many prompts there are.
        annotators: How many annotators there are.
    """

    prompt: Ints
    annotator: Ints
    size: Ints
    ranks: Ranks
    prompts: int
    annotators: int

    def by_size(self) -> Iterator[tuple[int, Ints]]:
        """Yield each number of candidates with the rows that have it."""
        for size in np.unique(self.size).tolist():
            yield size, np.flatnonzero(self.size == size)

    def take(self, rows: NDArray[np.bool_] | Ints) -> "RankTable":
        """Return some of the rows; prompts and annotators keep their numbers."""
        return RankTable(
            self.prompt[rows], self.annotator[rows], self.size[rows], self.ranks[rows], self.prompts, self.annotators
        )

    def codes(self, size: int, rows: Ints) -> Ranks:
        """Return for each pair of candidates i < j: 1 where i is better, 0 in a tie, -1 where j is; (rows, pairs)."""
        first, second = pair_indices(size)
        return pair_codes(self.ranks[rows], first, second)


def sums_by(index: Ints, values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the sum of the values of each index from 0 to `size` - 1."""
    return np.bincount(index, values, size).astype(np.float64)


def pair_codes(ranks: Ranks, first: Ints, second: Ints) -> Ranks:
    """Return 1 where the first of a pair is better, 0 in a tie, -1 where the second is."""
    return np.sign(ranks[:, second] - ranks[:, first])


@lru_cache(maxsize=16)
def pair_indices(size: int) -> tuple[Ints, Ints]:
    """Return the first and the second candidate of all pairs."""
    first, second = np.triu_indices(size, 1)
    return first, second


def table_of(rankings: Iterable[Ranking]) -> tuple[RankTable, list[str], list[str]]:
    """Return rankings as a table, with the prompt ids and annotators in the order of their first appearance."""
    prompts: dict[str, int] = {}
    annotators: dict[str, int] = {}
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    flat = bytearray()
    for row in rankings:
        size = len(row.ranks)
        columns[0].append(prompts.setdefault(row.prompt_id, len(prompts)))
        columns[1].append(annotators.setdefault(row.annotator, len(annotators)))
        columns[2].append(size)
        flat += bytes(row.ranks) + bytes(MAX_CANDIDATES - size)
    prompt, annotator, sizes = (np.array(column, dtype=np.int64) for column in columns)
    ranks = np.frombuffer(bytes(flat), dtype=np.int8).reshape(-1, MAX_CANDIDATES)
    table = RankTable(prompt, annotator, sizes, ranks, len(prompts), len(annotators))
    return table, list(prompts), list(annotators)
