"""Many rankings become preference pairs, by a named policy.

A ranking is a vote on each pair of its candidates, a tie half a vote each way. What a pair's votes come to depends on how
far each annotator is believed:
    equal      p(i over j) = (wins of i + ties / 2) / n, everybody alike
    agreement  the same share, each vote with the logit of its annotator's agreement with the others' majority; for
               few answers, where more cannot be estimated (the weighting of crowd-kit's Wawa)
    one_coin   the posterior of the one-coin model fitted by EM (`rlhf.labels.reliability`), a chance rather than a share:
               three that agree say more than one alone
    auto       one_coin from `ENOUGH_VOTES` shared votes per annotator (median), agreement below, equal where nobody ranked
               what another did

A pair's margin is the mean, over the rankings, of the signed strength between the two: the sum of the steps that
separate them (1 slightly, 2 better, 3 much better; 2 where a step was not graded). Rankings marked "all bad" count:
their order is as good as any other. A flag is on a response where at least half of its annotators set it. Where a
manager decided, only the decision counts, and it is certain.

Policies (what a trainer does with an uncertain pair):
    hard      the majority's side, weight 1; exact ties dropped
    soft      the likelier side with its probability as the label, weight 1; exact ties kept with probability 1/2
    weighted  the majority's side, weight |2p - 1|; exact ties dropped
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.errors import DataError, report_all
from rlhf.labels.ranktable import table_of
from rlhf.labels.reliability import (
    PairVotes,
    fit_one_coin,
    median_shared_votes,
    votes_of,
    weigh_by_agreement,
    weigh_equally,
)
from rlhf.records import CandidateSet, PreferencePair, Ranking

Policy = Literal["hard", "soft", "weighted"]
POLICIES: tuple[Policy, ...] = ("hard", "soft", "weighted")
Belief = Literal["equal", "agreement", "one_coin", "auto"]
BELIEFS: tuple[Belief, ...] = ("equal", "agreement", "one_coin", "auto")
ENOUGH_VOTES = 100
"""Simulated with 20 annotators who are all alike, one_coin finds half a percentage point of pairs less than agreement at 44
shared votes each, a third at 89, less than a tenth from 180 on; with three adversaries it finds 0.5 to 2 points more."""
UNGRADED_STEP = 2


def aggregate(
    candidate_sets: Iterable[CandidateSet],
    rankings: Iterable[Ranking],
    policy: Policy,
    *,
    belief: Belief = "equal",
    min_probability: float = 0.5,
) -> list[PreferencePair]:
    """Return the preference pairs of every ranked prompt, in the order of `candidate_sets`.

    Args:
        candidate_sets: The candidates that were ranked; sets without a ranking give no pair.
        rankings: All rankings, any number per prompt.
        policy: See the module's docstring.
        belief: How far each annotator is believed; see there.
        min_probability: Pairs whose likelier side has a smaller probability are dropped.

    Raises:
        DataError: The policy, belief or threshold is unknown, or a ranking does not fit its candidates.
    """
    for name, value, known in (("policy", policy, POLICIES), ("belief", belief, BELIEFS)):
        if value not in known:
            raise DataError(f"aggregation {name} is {value!r}; use one of {', '.join(known)}")
    if not 0.5 <= min_probability <= 1.0:
        raise DataError(f"min_probability is {min_probability}; give a number from 0.5 to 1")
    sets = list(candidate_sets)
    by_prompt = group_by_prompt(sets, rankings)
    chances = pair_chances(by_prompt, belief)
    pairs: list[PreferencePair] = []
    for item in sets:
        votes = by_prompt.get(item.prompt_id, [])
        if votes:
            couples = combinations(range(len(item.responses)), 2)
            flags = [_flags(votes, candidate) for candidate in range(len(item.responses))]
            found = (
                _pair(item, votes, couple, chance, flags, policy)
                for couple, chance in zip(couples, chances[item.prompt_id], strict=True)
                if max(chance, 1.0 - chance) >= min_probability and (chance != 0.5 or policy == "soft")
            )
            pairs += found
    return pairs


def pair_chances(by_prompt: Mapping[str, Sequence[Ranking]], belief: Belief) -> dict[str, list[float]]:
    """Return p(i over j) of each prompt's pairs i < j, in the order of `itertools.combinations`."""
    decided = {name: rows for name, rows in by_prompt.items() if rows[0].adjudicated}
    counted = [row for name, rows in by_prompt.items() if name not in decided for row in rows]
    chances = {name: _shares(rows) for name, rows in decided.items()}
    if not counted:
        return chances
    table, prompts, _ = table_of(counted)
    votes = votes_of(table)
    probability = _believed(votes, belief).tolist()
    bounds = votes.first_pair.tolist()
    return chances | {name: probability[bounds[row] : bounds[row + 1]] for row, name in enumerate(prompts)}


def _shares(votes: Sequence[Ranking]) -> list[float]:
    couples = combinations(range(len(votes[0].ranks)), 2)
    return [sum(_vote(ranking, *couple) for ranking in votes) / len(votes) for couple in couples]


def _believed(votes: PairVotes, belief: Belief) -> NDArray[np.float64]:
    if belief == "auto":
        enough = median_shared_votes(votes)
        belief = "one_coin" if enough >= ENOUGH_VOTES else "agreement" if enough else "equal"
    if belief == "one_coin":
        return fit_one_coin(votes).probability
    return weigh_by_agreement(votes) if belief == "agreement" else weigh_equally(votes)


def borda(rankings: Sequence[Ranking]) -> list[float]:
    """Return each candidate's mean share of the others that it beats, ties counting half: 1 is best (Borda 1781)."""
    size = len(rankings[0].ranks)
    return [
        sum(_vote(ranking, first, second) for ranking in rankings for second in range(size) if second != first)
        / (len(rankings) * (size - 1))
        for first in range(size)
    ]


def consensus(rankings: Sequence[Ranking]) -> tuple[int, ...]:
    """Return the ranks (1 best, equal numbers are ties) of one prompt's candidates by Borda score."""
    scores = [round(score, 12) for score in borda(rankings)]
    levels = sorted(set(scores), reverse=True)
    return tuple(levels.index(score) + 1 for score in scores)


def group_by_prompt(candidate_sets: Sequence[CandidateSet], rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    """Return the rankings of each prompt, after holding them against the candidates.

    Raises:
        DataError: A ranking names an unknown prompt or orders another number of candidates.
    """
    sizes = {item.prompt_id: len(item.responses) for item in candidate_sets}
    groups: dict[str, list[Ranking]] = defaultdict(list)
    problems: list[str] = []
    for ranking in rankings:
        size = sizes.get(ranking.prompt_id)
        if size is None:
            problems.append(f"ranking by {ranking.annotator}: prompt {ranking.prompt_id} has no candidates")
        elif size != len(ranking.ranks):
            problems.append(
                f"ranking by {ranking.annotator}: {len(ranking.ranks)} ranks, prompt {ranking.prompt_id} has "
                f"candidates 0-{size - 1}"
            )
        else:
            groups[ranking.prompt_id].append(ranking)
    report_all(DataError, problems, f"{len(problems)} rankings do not fit their candidates")
    return {prompt_id: _decided(group) for prompt_id, group in groups.items()}


def _decided(group: list[Ranking]) -> list[Ranking]:
    """Return the decisions of managers where there are any: they settle what the others disputed."""
    return [ranking for ranking in group if ranking.adjudicated] or group


def _pair(
    item: CandidateSet,
    votes: Sequence[Ranking],
    couple: tuple[int, int],
    chance: float,
    flags: list[str],
    policy: Policy,
) -> PreferencePair:
    first, second = couple if chance >= 0.5 else couple[::-1]
    probability = max(chance, 1.0 - chance)
    return PreferencePair(
        prompt_id=item.prompt_id,
        prompt=item.prompt,
        chosen=item.responses[first],
        rejected=item.responses[second],
        weight=2.0 * probability - 1.0 if policy == "weighted" else 1.0,
        margin=sum(_strength(ranking, first, second) for ranking in votes) / len(votes),
        probability=probability,
        votes=len(votes),
        ties=sum(ranking.ranks[first] == ranking.ranks[second] for ranking in votes) / len(votes),
        chosen_index=first,
        rejected_index=second,
        chosen_flags=flags[first],
        rejected_flags=flags[second],
        split=item.split,
    )


def _flags(votes: Sequence[Ranking], candidate: int) -> str:
    """Return the flags that at least half of the annotators set on a response, joined by commas."""
    found = Counter(flag for ranking in votes if ranking.flags for flag in set(ranking.flags[candidate]))
    return ",".join(sorted(flag for flag, count in found.items() if 2 * count >= len(votes)))


def _vote(ranking: Ranking, first: int, second: int) -> float:
    difference = ranking.ranks[second] - ranking.ranks[first]
    return 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0


def _strength(ranking: Ranking, first: int, second: int) -> float:
    """Return the signed sum of the steps between two candidates; positive where the first is better."""
    low, high = sorted((ranking.ranks[first], ranking.ranks[second]))
    grades = ranking.strengths or (0,) * max(ranking.ranks)
    steps = [grade or UNGRADED_STEP for grade in grades]
    total = float(sum(steps[low - 1 : high - 1]))
    return total if ranking.ranks[first] <= ranking.ranks[second] else -total
