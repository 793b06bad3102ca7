"""Do annotators agree? Figures for rankings with ties, each with an interval, or with the reason why there is none.

Most are computed from the pairs of candidates of a prompt, coded in candidate order (not display order) as first
better, tie, second better. With b annotators for the first, w for the second and t who tie them, the pairs of annotators
are counted, not listed: b(b-1)/2 + w(w-1)/2 + t(t-1)/2 agree, bw oppose each other, t(b+w) differ by a tie.

Sums are taken by prompt, so that 100,000 prompts take seconds; `figures` says how the intervals come about.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.labels.figures import Figure, Floats, block_of, bootstrap_mean, interval, ratio, resampled_sums, statistic
from rlhf.labels.ranktable import Ints, Ranks, RankTable, sums_by, table_of
from rlhf.records import Ranking

NOBODY_SHARED = "no prompt was ranked by two annotators"

Rankings = Iterable[Ranking] | RankTable


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement figures of a set of rankings."""

    strict: Figure
    tie_aware: Figure
    alpha: Figure
    alpha_ordinal: Figure
    kendalls_w: Figure
    kendalls_tau: Figure
    by_annotator: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Votes:
    """The codes of all rankings of K candidates, counted by prompt.

    Attributes:
        prompts: The prompts that have rankings of K candidates, ascending.
        rows: The table's rows, sorted by prompt.
        codes: Their codes (rows, pairs).
        place: For each of `rows`, the index of its prompt in `prompts`.
        starts: Where each prompt's rows begin.
        raters: How many rankings each prompt has.
        better: How many put the pair's first candidate above the second (prompts, pairs).
        worse: How many put it below.
    """

    prompts: Ints
    rows: Ints
    codes: Ranks
    place: Ints
    starts: Ints
    raters: Ints
    better: NDArray[np.int32]
    worse: NDArray[np.int32]


def measure_agreement(rankings: Iterable[Ranking], seed: int = 0) -> Agreement:
    """Return all agreement figures."""
    table, _, annotators = table_of(rankings)
    return measure_table(table, annotators, seed)


def measure_table(table: RankTable, annotators: list[str], seed: int = 0) -> Agreement:
    """Return all agreement figures of a table, whose annotators have these names."""
    parts = list(count_votes(table))
    alone = agreement_with_others(parts, table)
    return Agreement(
        strict=_pair_figure(parts, table, strict=True, seed=seed),
        tie_aware=_pair_figure(parts, table, strict=False, seed=seed),
        alpha=_nominal_alpha(parts, table, seed),
        alpha_ordinal=ordinal_alpha(table, seed),
        kendalls_w=kendalls_w(table, seed),
        kendalls_tau=_tau_figure(parts, table, seed),
        by_annotator={name: own_figure(table, alone, annotators.index(name), seed) for name in sorted(annotators)},
    )


def pairwise_agreement(rankings: Rankings, *, strict: bool, only: str | None = None, seed: int = 0) -> Figure:
    """Return how often two annotators of the same prompt order a pair of its candidates alike.

    Args:
        rankings: The rankings.
        strict: Count only pairs that both ordered strictly, alike or not (the figure that the literature quotes,
            63 to 77 %). Otherwise all pairs count: alike 1, a tie against an order 1/2, opposite 0.
        only: Compare this annotator with the others; without it, everybody with everybody.
        seed: Seeds the bootstrap.
    """
    if only is None:
        table = _as_table(rankings)
        return _pair_figure(list(count_votes(table)), table, strict=strict, seed=seed)
    if isinstance(rankings, RankTable):
        raise TypeError("a table has no names; use agreement_with_others")
    table, _, names = table_of(rankings)
    if only not in names:
        return Figure(None, reason=NOBODY_SHARED)
    alone = agreement_with_others(list(count_votes(table)), table, strict=strict)
    return own_figure(table, alone, names.index(only), seed)


def krippendorff_alpha(rankings: Rankings, seed: int = 0) -> Figure:
    """Return Krippendorff's alpha (2011), nominal, on pairs coded first better / tie / second better.

    alpha = 1 - observed / expected disagreement, from the coincidence matrix: each prompt's pair is a unit, each
    annotator of it a coder; units with one coder do not enter.
    """
    table = _as_table(rankings)
    return _nominal_alpha(list(count_votes(table)), table, seed)


def ordinal_alpha(rankings: Rankings, seed: int = 0) -> Figure:
    """Return Krippendorff's alpha (2011), ordinal, on ranks: each candidate is a unit; ties share their mean rank.

    The squared difference of ranks c < k is (n_c / 2 + n_(c+1) + ... + n_k / 2)^2, with n the number of times that a rank
    was given. The coincidence matrices are summed by group of prompts at once (see `figures`).
    """
    table = _as_table(rankings)
    raters = np.bincount(table.prompt, minlength=table.prompts)
    shared = np.cumsum(raters > 1) - 1  # a new number for each prompt with two annotators
    count = int(shared[-1]) + 1 if len(shared) else 0
    if not count:
        return Figure(None, reason=NOBODY_SHARED)
    groups = block_of(count, seed)
    values = 2 * int(table.size.max()) - 1
    sums = np.zeros((int(groups.max()) + 1, values, values))
    for size, rows in table.by_size():
        rows = rows[raters[table.prompt[rows]] > 1]
        numbers = shared[table.prompt[rows]]
        index = np.rint(2 * mean_ranks(table.ranks[rows, :size])).astype(np.int64) - 2
        order = np.lexsort((numbers, groups[numbers]))
        ends = np.flatnonzero(np.diff(groups[numbers][order])) + 1
        for part in np.split(order, ends):
            if len(part):
                sums[groups[numbers[part[0]]]] += _coincidences(numbers[part], index[part], values)
    value = float(_alpha_ordinal(sums.sum(axis=0)[None])[0])
    if np.isnan(value):
        return Figure(None, n=count, reason="all candidates have the same rank, so that chance agreement is complete")
    flat = resampled_sums(sums.reshape(len(sums), -1), seed)
    return interval(value, _alpha_ordinal(flat.reshape(-1, values, values)), count)


def kendalls_w(rankings: Rankings, seed: int = 0) -> Figure:
    """Return the mean over prompts of Kendall's coefficient of concordance, corrected for ties (Kendall 1948).

    W = 12 S / (m^2 (n^3 - n) - m sum T): m annotators, n candidates, S the squared deviations of the rank sums, T
    the sum of t^3 - t over an annotator's groups of t tied candidates. Prompts on which everybody ties all
    candidates have no W.
    """
    table = _as_table(rankings)
    raters = np.bincount(table.prompt, minlength=table.prompts)
    if not (raters > 1).any():
        return Figure(None, reason=NOBODY_SHARED)
    found = np.full(table.prompts, np.nan)
    for size, rows in table.by_size():
        rows = rows[raters[table.prompt[rows]] > 1]
        rows = rows[np.argsort(table.prompt[rows], kind="stable")]
        prompts, starts, counts = np.unique(table.prompt[rows], return_index=True, return_counts=True)
        if not len(prompts):
            continue
        ranks = table.ranks[rows, :size]
        sums = np.add.reduceat(mean_ranks(ranks), starts, axis=0)
        deviations = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        tied = (ranks[:, :, None] == ranks[:, None, :]).sum(axis=2)  # the size of each candidate's group
        ties = np.add.reduceat(
            (tied**2 - 1).sum(axis=1), starts
        )  # sum of t^2 - 1 over candidates = of t^3 - t over groups
        below = counts**2 * (size**3 - size) - counts * ties
        found[prompts] = np.where(below > 0, 12.0 * deviations / np.where(below > 0, below, 1), np.nan)
    values = found[np.isfinite(found)]
    if not len(values):
        return Figure(None, n=int((raters > 1).sum()), reason="every shared prompt was ranked as one big tie")
    return bootstrap_mean(values, seed)


def kendalls_tau(rankings: Rankings, seed: int = 0) -> Figure:
    """Return the mean over prompts of `tau_by_prompt`."""
    table = _as_table(rankings)
    return _tau_figure(list(count_votes(table)), table, seed)


def tau_by_prompt(rankings: Rankings) -> Floats:
    """Return for each prompt the mean of Kendall's tau-b (1945) over all pairs of its annotators; NaN where undefined."""
    table = _as_table(rankings)
    return _tau(list(count_votes(table)), table.prompts)


def mean_ranks(ranks: Ranks) -> Floats:
    """Return ranks 1..n of each row, in which tied candidates share the mean of the places they take."""
    below = (ranks[:, None, :] < ranks[:, :, None]).sum(axis=2)
    same = (ranks[:, None, :] == ranks[:, :, None]).sum(axis=2)
    return below + (same + 1) / 2.0


def count_votes(table: RankTable) -> Iterator[Votes]:
    """Yield the counted codes, for each number of candidates."""
    for size, rows in table.by_size():
        rows = rows[np.argsort(table.prompt[rows], kind="stable")]
        prompts, starts, raters = np.unique(table.prompt[rows], return_index=True, return_counts=True)
        codes = table.codes(size, rows)
        better = np.add.reduceat(codes > 0, starts, axis=0, dtype=np.int32)
        worse = np.add.reduceat(codes < 0, starts, axis=0, dtype=np.int32)
        yield Votes(prompts, rows, codes, np.repeat(np.arange(len(prompts)), raters), starts, raters, better, worse)


def pair_sums(parts: Iterable[Votes], prompts: int, *, strict: bool) -> Floats:
    """Return for each prompt how much pairs of annotators agree in all and how many comparisons that is; (prompts, 2)."""
    table = np.zeros((prompts, 2))
    for part in parts:
        raters = part.raters[:, None]
        tied = raters - part.better - part.worse
        alike = _couples(part.better) + _couples(part.worse)
        if strict:
            count = alike + part.better * part.worse
        else:
            alike = alike + _couples(tied) + tied * (raters - tied) / 2
            count = _couples(raters) * np.ones_like(tied)
        table[part.prompts, 0] = alike.sum(axis=1)
        table[part.prompts, 1] = count.sum(axis=1)
    return table


def agreement_with_others(parts: Iterable[Votes], table: RankTable, *, strict: bool = True) -> Floats:
    """Return for each ranking how much it agrees with the others of its prompt, and how many comparisons that is."""
    found = np.zeros((len(table.prompt), 2))
    for part in parts:
        better, worse = part.better[part.place], part.worse[part.place]
        raters = part.raters[part.place][:, None]
        same = np.where(part.codes > 0, better, np.where(part.codes < 0, worse, raters - better - worse)) - 1
        if strict:
            decided = part.codes != 0
            alike, count = np.where(decided, same, 0), np.where(decided, better + worse - 1, 0)
        else:
            other = np.where(part.codes > 0, worse, np.where(part.codes < 0, better, 0))
            alike, count = same + (raters - 1 - same - other) / 2, np.broadcast_to(raters - 1, same.shape)
        found[part.rows] = np.stack([alike.sum(axis=1), count.sum(axis=1)], axis=1)
    return found


def own_figure(table: RankTable, with_others: Floats, annotator: int, seed: int = 0) -> Figure:
    """Return one annotator's agreement with the others, from the sums of `agreement_with_others`."""
    mine = table.annotator == annotator
    prompts, place = np.unique(table.prompt[mine], return_inverse=True)
    sums = np.stack([sums_by(place, column, len(prompts)) for column in with_others[mine].T], axis=1)
    sums = sums[sums[:, 1] > 0]
    return ratio(sums, seed) if len(sums) else Figure(None, reason=f"{NOBODY_SHARED} with strict orders")


def _as_table(rankings: Rankings) -> RankTable:
    return rankings if isinstance(rankings, RankTable) else table_of(rankings)[0]


def _couples(count: NDArray[np.int32] | Ints) -> Floats:
    return count * (count - 1) / 2.0


def _pair_figure(parts: list[Votes], table: RankTable, *, strict: bool, seed: int) -> Figure:
    sums = pair_sums(parts, table.prompts, strict=strict)
    sums = sums[sums[:, 1] > 0]
    if not len(sums):
        return Figure(None, reason=NOBODY_SHARED + (" with strict orders" if strict else ""))
    return ratio(sums, seed)


def _nominal_alpha(parts: list[Votes], table: RankTable, seed: int) -> Figure:
    matrices = np.zeros((table.prompts, 9))
    shared = np.zeros(table.prompts, dtype=bool)
    for part in parts:
        several = part.raters > 1
        raters = part.raters[several]
        better, worse = part.better[several], part.worse[several]
        counts = np.stack([worse, raters[:, None] - better - worse, better], axis=1).astype(np.float64)
        together = np.einsum("nap,nbp->nab", counts, counts)
        together[:, range(3), range(3)] -= counts.sum(axis=2)
        matrices[part.prompts[several]] = (together / (raters - 1)[:, None, None]).reshape(-1, 9)
        shared[part.prompts[several]] = True
    if not shared.any():
        return Figure(None, reason=NOBODY_SHARED)
    figure = statistic(matrices[shared], _alpha, seed)
    if figure.value is None or np.isnan(figure.value):
        return Figure(None, n=figure.n, reason="all answers are the same, so that chance agreement is complete")
    return figure


def _alpha(sums: Floats) -> Floats:
    """Return alpha of each coincidence matrix in a stack; NaN where only one value occurs."""
    coincidences = sums.reshape(-1, 3, 3)
    marginals = coincidences.sum(axis=2)
    total = marginals.sum(axis=1)
    observed = total - np.trace(coincidences, axis1=1, axis2=2)
    expected = total**2 - (marginals**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1.0 - (total - 1.0) * observed / expected, np.nan)


def _coincidences(prompts: Ints, index: Ints, values: int) -> Floats:
    """Return the coincidence matrix of some prompts; `index` holds each ranking's values (rows, candidates)."""
    _, place, raters = np.unique(prompts, return_inverse=True, return_counts=True)
    size = int(index.shape[1])
    cells = (place[:, None] * size + np.arange(size)) * values + index
    counts = np.bincount(cells.ravel(), minlength=len(raters) * size * values).reshape(-1, values).astype(np.float64)
    weighted = counts / np.repeat(raters - 1, size)[:, None]
    return counts.T @ weighted - np.diag(weighted.sum(axis=0))


def _alpha_ordinal(coincidences: Floats) -> Floats:
    marginals = coincidences.sum(axis=2)
    middle = np.cumsum(marginals, axis=1) - marginals / 2
    squared = (middle[:, :, None] - middle[:, None, :]) ** 2
    observed = (coincidences * squared).sum(axis=(1, 2))
    expected = (marginals[:, :, None] * marginals[:, None, :] * squared).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1.0 - (marginals.sum(axis=1) - 1.0) * observed / expected, np.nan)


def _tau_figure(parts: list[Votes], table: RankTable, seed: int) -> Figure:
    values = _tau(parts, table.prompts)
    if not any((part.raters > 1).any() for part in parts):
        return Figure(None, reason=NOBODY_SHARED)
    values = values[np.isfinite(values)]
    return bootstrap_mean(values, seed) if len(values) else Figure(None, reason="no prompt has two orders beside ties")


def _tau(parts: list[Votes], prompts: int) -> Floats:
    """Tau-b of two rankings is the cosine of their codes; its mean over all pairs comes from the sum of unit vectors."""
    found = np.full(prompts, np.nan)
    for part in parts:
        lengths = np.sqrt((part.codes != 0).sum(axis=1))
        ordered = lengths > 0  # who ties all candidates has no tau with anybody
        units = part.codes / np.where(ordered, lengths, 1.0)[:, None]
        squared = (np.add.reduceat(units, part.starts, axis=0) ** 2).sum(axis=1)
        count = np.add.reduceat(ordered, part.starts, dtype=np.int64)
        pairs = count * (count - 1)
        found[part.prompts] = np.where(pairs > 0, (squared - count) / np.maximum(pairs, 1), np.nan)
    return found
