"""How often is an annotator right? The one-coin model of votes on pairs, fitted by EM.

Each annotator a has one accuracy q_a: with that chance his vote on a pair is the true order, otherwise the opposite one
(Dawid and Skene 1979 with a single parameter per person). The orders and the accuracies are estimated together:

    E   log odds that i beats j  =  sum over the votes of  v logit(q_a),  v = 1 for i, -1 for j, 0 for a tie
    M   q_a  =  (prior mean x strength + expected right votes) / (strength + votes)

A tie is half a vote each way. The prior is a Beta with mean 0.75 and the weight of ten votes: it keeps people with few
answers near the start, and names the solution in which the majority is right rather than wrong. An annotator who is
wrong more often than right gets negative weight: his votes then speak for the opposite.

A pair that has one vote says nothing about whoever gave it (it agrees with itself) and stays out of the M step.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.labels.ranktable import Ints, RankTable, pair_indices, sums_by

PRIOR_ACCURACY = 0.75
PRIOR_VOTES = 10.0
LARGEST_LOG_ODDS = 30.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairVotes:
    """One entry per vote on a pair.

    Attributes:
        annotator: Who voted.
        pair: The index of the pair.
        vote: 1 for the pair's first member, -1 for the second, 0 for a tie.
        row: The ranking that the vote comes from.
        annotators: How many annotators there are.
        first_pair: Where the pairs of each prompt begin; prompt p has those from first_pair[p] to first_pair[p + 1].
    """

    annotator: Ints
    pair: Ints
    vote: NDArray[np.int8]
    row: Ints
    annotators: int
    first_pair: Ints

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return int(self.first_pair[-1])


@dataclass(frozen=True, slots=True)
class OneCoin:
    """The fitted model.

    Attributes:
        accuracy: The chance that a vote of the annotator is right (annotators).
        probability: The chance that the pair's first member is the better one (pairs).
        right: For each vote, the chance that it was right; NaN on pairs with a single vote.
        steps: How many EM steps it took.
    """

    accuracy: Floats
    probability: Floats
    right: Floats
    steps: int


def votes_of(table: RankTable) -> PairVotes:
    """Return the votes on pairs that rankings contain; pairs are numbered by prompt, then as `pair_indices` lists them."""
    counts = np.zeros(table.prompts, dtype=np.int64)
    counts[table.prompt] = table.size * (table.size - 1) // 2
    first_pair = np.concatenate([[0], np.cumsum(counts)])
    annotator: list[Ints] = [np.zeros(0, dtype=np.int64)]
    pair: list[Ints] = [np.zeros(0, dtype=np.int64)]
    row: list[Ints] = [np.zeros(0, dtype=np.int64)]
    vote: list[NDArray[np.int8]] = [np.zeros(0, dtype=np.int8)]
    for size, rows in table.by_size():
        width = len(pair_indices(size)[0])
        vote.append(table.codes(size, rows).ravel())
        pair.append((first_pair[table.prompt[rows]][:, None] + np.arange(width)).ravel())
        annotator.append(np.repeat(table.annotator[rows], width))
        row.append(np.repeat(rows, width))
    parts = (np.concatenate(annotator), np.concatenate(pair), np.concatenate(vote), np.concatenate(row))
    return PairVotes(*parts, table.annotators, first_pair)


def fit_one_coin(
    votes: PairVotes,
    *,
    prior: float = PRIOR_ACCURACY,
    strength: float = PRIOR_VOTES,
    tolerance: float = 1e-4,
    max_steps: int = 200,
) -> OneCoin:
    """Fit the model; the same votes give the same result.

    Args:
        votes: The votes.
        prior: Mean of the accuracies' Beta prior, where they also start.
        strength: Its weight in votes.
        tolerance: Stop when no accuracy moves by more.
        max_steps: Stop then in any case.
    """
    shared = np.bincount(votes.pair, minlength=votes.pairs) > 1
    counted = shared[votes.pair]
    who, which = votes.annotator[counted], votes.pair[counted]
    sign = votes.vote[counted].astype(np.float64)
    number = np.bincount(who, minlength=votes.annotators)
    accuracy = np.full(votes.annotators, prior)
    steps, moved = 0, np.inf
    while moved >= tolerance and steps < max_steps:
        steps += 1
        odds = sums_by(which, sign * _logit(accuracy)[who], votes.pairs)
        # 1/2 + v (p - 1/2) is the chance that a vote is right: p, 1 - p, or one half for a tie.
        right = sums_by(who, 0.5 + sign * (_sigmoid(odds)[which] - 0.5), votes.annotators)
        updated = (prior * strength + right) / (strength + number)
        moved = float(np.abs(updated - accuracy).max(initial=0.0))
        accuracy = updated
    signs = votes.vote.astype(np.float64)
    probability = _sigmoid(sums_by(votes.pair, signs * _logit(accuracy)[votes.annotator], votes.pairs))
    chances = np.where(counted, 0.5 + signs * (probability[votes.pair] - 0.5), np.nan)
    return OneCoin(accuracy, probability, chances, steps)


def weigh_equally(votes: PairVotes) -> Floats:
    """Return the share of each pair's votes that its first member has, a tie being half a vote (pairs)."""
    number = np.bincount(votes.pair, minlength=votes.pairs)
    # Sums of whole numbers are exact: as many votes for one as for the other give one half, to the bit.
    return 0.5 + 0.5 * sums_by(votes.pair, votes.vote.astype(np.float64), votes.pairs) / np.maximum(number, 1)


def weigh_by_agreement(votes: PairVotes, *, prior: float = PRIOR_ACCURACY, strength: float = PRIOR_VOTES) -> Floats:
    """Return the same share, each vote weighted with the logit of its annotator's agreement with the others' majority.

    Agreement on a pair is 1, 1/2 for a tie, or 0; pairs on which the others are divided do not count. It is drawn to the
    prior as in `fit_one_coin`. Who contradicts the others more often than not has negative weight.
    """
    sign = votes.vote.astype(np.float64)
    others = np.sign(sums_by(votes.pair, sign, votes.pairs)[votes.pair] - sign)
    counted = others != 0
    agreed = sums_by(votes.annotator[counted], 0.5 + 0.5 * (sign * others)[counted], votes.annotators)
    number = np.bincount(votes.annotator[counted], minlength=votes.annotators)
    weight = _logit((prior * strength + agreed) / (strength + number))[votes.annotator]
    total = sums_by(votes.pair, np.abs(weight), votes.pairs)
    return 0.5 + 0.5 * sums_by(votes.pair, weight * sign, votes.pairs) / np.where(total > 0, total, 1.0)


def median_shared_votes(votes: PairVotes) -> float:
    """Return how many votes an annotator has on pairs that others voted on too, the median of all annotators."""
    shared = np.bincount(votes.pair, minlength=votes.pairs)[votes.pair] > 1
    return float(np.median(np.bincount(votes.annotator[shared], minlength=votes.annotators)))


def weighted_scores(ranks: NDArray[np.int8], accuracy: Floats) -> Floats:
    """Return the mean chance of each candidate of one prompt to beat another one, given its rankings.

    Args:
        ranks: One row per ranking, by candidate; 1 is best.
        accuracy: Of the annotator of each row.
    """
    codes = np.sign(ranks[:, None, :].astype(np.int64) - ranks[:, :, None])
    chance = _sigmoid(np.einsum("r,rij->ij", _logit(accuracy), codes.astype(np.float64)))
    np.fill_diagonal(chance, 0.0)
    return chance.sum(axis=1) / (ranks.shape[1] - 1)


def _logit(accuracy: Floats) -> Floats:
    return np.log(accuracy / (1.0 - accuracy))


def _sigmoid(odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)))
