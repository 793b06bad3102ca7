"""Do place and length decide, rather than quality? Figures from the stored display orders."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf.labels.agreement import Figure, bootstrap_mean
from rlhf.records import CandidateSet, Ranking


@dataclass(frozen=True, slots=True)
class BiasReport:
    """Position and length effects.

    `rank_by_place[d]` is the mean rank, from 0 best to 1 worst, of what was shown at place d (0 is first); with a
    balanced display order and no position bias every entry is 0.5 within its interval. `first_wins` and
    `longer_wins` are shares of strictly ordered pairs.
    """

    rank_by_place: list[Figure]
    first_wins: Figure
    longer_wins: Figure


def measure_bias(candidate_sets: Iterable[CandidateSet], rankings: Iterable[Ranking], seed: int = 0) -> BiasReport:
    """Return the position and length effects of a set of rankings."""
    rows = list(rankings)
    texts = {item.prompt_id: item.responses for item in candidate_sets}
    return BiasReport(
        rank_by_place=_rank_by_place(rows, seed),
        first_wins=_share(_first_wins(rows), "no ranking has a stored display order", seed),
        longer_wins=_share(_longer_wins(rows, texts), "no two candidates of different length were ordered", seed),
    )


def _rank_by_place(rankings: list[Ranking], seed: int) -> list[Figure]:
    by_place: dict[int, list[float]] = defaultdict(list)
    for row in rankings:
        size = len(row.ranks)
        ranks = np.array(row.ranks)
        for place, candidate in enumerate(row.display_order):
            better = int((ranks < ranks[candidate]).sum())
            tied = int((ranks == ranks[candidate]).sum()) - 1
            by_place[place].append((better + tied / 2) / (size - 1))
    return [bootstrap_mean(by_place[place], seed, unit="rankings") for place in sorted(by_place)]


def _first_wins(rankings: list[Ranking]) -> dict[str, list[float]]:
    wins: dict[str, list[float]] = defaultdict(list)
    for row in rankings:
        for earlier, later in combinations(row.display_order, 2):
            if row.ranks[earlier] != row.ranks[later]:
                wins[row.prompt_id].append(float(row.ranks[earlier] < row.ranks[later]))
    return wins


def _longer_wins(rankings: list[Ranking], texts: dict[str, tuple[str, ...]]) -> dict[str, list[float]]:
    wins: dict[str, list[float]] = defaultdict(list)
    for row in rankings:
        lengths = [len(text) for text in texts[row.prompt_id]]
        for one, two in combinations(range(len(lengths)), 2):
            if lengths[one] != lengths[two] and row.ranks[one] != row.ranks[two]:
                longer, shorter = (one, two) if lengths[one] > lengths[two] else (two, one)
                wins[row.prompt_id].append(float(row.ranks[longer] < row.ranks[shorter]))
    return wins


def _share(wins: dict[str, list[float]], reason: str, seed: int) -> Figure:
    """Return the mean over prompts of each prompt's share."""
    if not wins:
        return Figure(None, reason=reason)
    return bootstrap_mean([float(np.mean(values)) for values in wins.values()], seed)
