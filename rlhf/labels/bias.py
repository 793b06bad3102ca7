"""Do place and length decide, rather than quality? Figures from the stored display orders."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.labels.agreement import mean_ranks
from rlhf.labels.figures import Z_95, Figure, Floats, bootstrap_mean
from rlhf.labels.ranktable import Ints, RankTable, pair_indices, sums_by, table_of
from rlhf.records import MAX_CANDIDATES, CandidateSet, Ranking

NO_ORDER = "no ranking has a stored display order"
SAME_LENGTH = "no two candidates of different length were ordered"
NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True)
class BiasReport:
    """Position and length effects.

    `rank_by_place[d]` is the mean rank, from 0 best to 1 worst, of what was shown at place d (0 is first); with a
    balanced display order and no position bias every entry is 0.5 within its interval. `first_wins` and
    `longer_wins` are shares of strictly ordered pairs. `length_slope` is that of a logistic model: the log odds that a
    candidate beats one of half its length are slope x ln 2.
    """

    rank_by_place: list[Figure]
    first_wins: Figure
    longer_wins: Figure
    length_slope: Figure


@dataclass(frozen=True, slots=True)
class Shown:
    """How the rankings of a table were shown.

    Attributes:
        orders: The candidate at each place; -1 beyond the last, or everywhere where no order is known. (rows, candidates)
        lengths: Characters of each candidate of the row's prompt; 0 beyond the last. (rows, candidates)
    """

    orders: NDArray[np.int8]
    lengths: Ints


def measure_bias(candidate_sets: Iterable[CandidateSet], rankings: Iterable[Ranking], seed: int = 0) -> BiasReport:
    """Return the position and length effects of a set of rankings."""
    rows = list(rankings)
    table, prompts, _ = table_of(rows)
    numbers = {prompt: number for number, prompt in enumerate(prompts)}
    by_prompt = np.zeros((len(prompts), MAX_CANDIDATES), dtype=np.int64)
    for item in candidate_sets:
        if item.prompt_id in numbers:
            by_prompt[numbers[item.prompt_id], : len(item.responses)] = [len(text) for text in item.responses]
    orders = np.full((len(rows), MAX_CANDIDATES), -1, dtype=np.int8)
    for number, row in enumerate(rows):
        orders[number, : len(row.display_order)] = row.display_order
    return bias_of_table(table, Shown(orders, by_prompt[table.prompt]), seed)


def bias_of_table(table: RankTable, shown: Shown, seed: int = 0) -> BiasReport:
    """Return the position and length effects of a table of rankings."""
    return BiasReport(
        rank_by_place=rank_by_place(table, shown, seed),
        first_wins=share_by_prompt(table, first_wins(table, shown), NO_ORDER, seed),
        longer_wins=share_by_prompt(table, longer_wins(table, shown), SAME_LENGTH, seed),
        length_slope=length_slope(table, shown),
    )


def rank_by_place(table: RankTable, shown: Shown, seed: int = 0) -> list[Figure]:
    """Return the mean rank, 0 best to 1 worst, of what was shown at each place."""
    found: list[list[Floats]] = [[] for _ in range(MAX_CANDIDATES)]
    for size, rows in table.by_size():
        rows = rows[shown.orders[rows, 0] >= 0]
        places = np.take_along_axis(mean_ranks(table.ranks[rows, :size]), shown.orders[rows, :size].astype(np.int64), 1)
        for place in range(size):
            found[place].append((places[:, place] - 1) / (size - 1))
    values = [np.concatenate(parts) for parts in found if parts]
    return [bootstrap_mean(entry, seed, unit="rankings") for entry in values if len(entry)]


def first_wins(table: RankTable, shown: Shown) -> Floats:
    """Return for each ranking how many strictly ordered pairs the one shown earlier won, and of how many; (rows, 2)."""
    found = np.zeros((len(table.prompt), 2))
    for size, rows in table.by_size():
        rows = rows[shown.orders[rows, 0] >= 0]
        if not len(rows):
            continue
        first, second = pair_indices(size)
        places = np.argsort(shown.orders[rows, :size], axis=1)
        found[rows] = _wins(table, size, rows, np.sign(places[:, second] - places[:, first]))
    return found


def longer_wins(table: RankTable, shown: Shown) -> Floats:
    """Return for each ranking how many strictly ordered pairs the longer one won, and of how many; (rows, 2)."""
    found = np.zeros((len(table.prompt), 2))
    for size, rows in table.by_size():
        first, second = pair_indices(size)
        lengths = shown.lengths[rows]
        found[rows] = _wins(table, size, rows, np.sign(lengths[:, first] - lengths[:, second]))
    return found


def share_by_prompt(table: RankTable, sums: Floats, reason: str, seed: int = 0) -> Figure:
    """Return the mean over prompts of each prompt's share."""
    wins, counts = (sums_by(table.prompt, column, table.prompts) for column in sums.T)
    decided = counts > 0
    if not decided.any():
        return Figure(None, reason=reason)
    return bootstrap_mean(wins[decided] / counts[decided], seed)


def length_slope(table: RankTable, shown: Shown) -> Figure:
    """Return the slope b of P(i over j) = 1 / (1 + exp(-b ln(length i / length j))), over strictly ordered pairs.

    Newton's method for the maximum likelihood; the interval is b +- 1.96 s with the variance that allows for the
    dependence of a prompt's pairs: the squared sums of a prompt's scores over the squared information (Liang and Zeger 1986).
    """
    ratios: list[Floats] = []
    prompts: list[Ints] = []
    for size, rows in table.by_size():
        first, second = pair_indices(size)
        logs = np.log(np.maximum(shown.lengths[rows, :size], 1))
        # Signed so that the winner comes first.
        won = table.codes(size, rows).astype(np.float64) * (logs[:, first] - logs[:, second])
        row, pair = np.nonzero(won)
        ratios.append(won[row, pair])
        prompts.append(table.prompt[rows][row])
    won = np.concatenate(ratios) if ratios else np.zeros(0)
    if not len(won):
        return Figure(None, reason=SAME_LENGTH)
    if (won > 0).all() or (won < 0).all():
        which = "longer" if won[0] > 0 else "shorter"
        return Figure(
            None, n=len(won), unit="pairs", reason=f"the {which} candidate won every time: no slope is large enough"
        )
    slope = _fit_slope(won)
    below = _sigmoid(-slope * won)  # the chance of what did not happen
    information = (won**2 * below * (1.0 - below)).sum()
    scores = sums_by(np.concatenate(prompts), won * below, table.prompts)
    reach = Z_95 * float(np.sqrt((scores**2).sum()) / information)
    shared = len(np.unique(np.concatenate(prompts)))
    if shared < 2:
        return Figure(slope, n=shared)
    return Figure(slope, slope - reach, slope + reach, shared)


def _fit_slope(won: Floats) -> float:
    unit = float(np.sqrt((won**2).mean()))
    won = won / unit
    slope = 0.0
    for _ in range(NEWTON_STEPS):
        below = _sigmoid(-slope * won)
        step = float((won * below).sum() / (won**2 * below * (1.0 - below)).sum())
        # The likelihood is concave; a bounded step cannot leap over its top for ever.
        slope += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-9:
            break
    return slope / unit


def _sigmoid(odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -500, 500)))


def _wins(table: RankTable, size: int, rows: Ints, leads: NDArray[np.int64]) -> Floats:
    """Count won and decided pairs, where `leads` is 1 for a pair whose first candidate leads, -1 for its second."""
    outcome = table.codes(size, rows) * leads
    return np.stack([(outcome > 0).sum(axis=1), (outcome != 0).sum(axis=1)], axis=1).astype(np.float64)
