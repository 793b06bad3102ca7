"""Many rankings become preference pairs, by a named policy.

For candidates i and j of one prompt, with n rankings: p(i over j) = (wins of i + ties / 2) / n. A pair's margin is
the mean, over the rankings, of the signed strength between the two: the sum of the steps that separate them (1
slightly, 2 better, 3 much better; 2 where a step was not graded). Rankings marked "all bad" count: their order is as
good as any other. Where a manager decided, only the decision counts.

Policies (what a trainer does with an uncertain pair):
    hard      the majority's side, weight 1; exact ties dropped
    soft      the likelier side with its probability as the label, weight 1; exact ties kept with probability 1/2
    weighted  the majority's side, weight |2p - 1|; exact ties dropped
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from rlhf.errors import DataError, report_all
from rlhf.records import CandidateSet, PreferencePair, Ranking

Policy = Literal["hard", "soft", "weighted"]
POLICIES: tuple[Policy, ...] = ("hard", "soft", "weighted")
UNGRADED_STEP = 2


def aggregate(
    candidate_sets: Iterable[CandidateSet],
    rankings: Iterable[Ranking],
    policy: Policy,
    *,
    min_probability: float = 0.5,
) -> list[PreferencePair]:
    """Return the preference pairs of every ranked prompt, in the order of `candidate_sets`.

    Args:
        candidate_sets: The candidates that were ranked; sets without a ranking give no pair.
        rankings: All rankings, any number per prompt.
        policy: See the module's docstring.
        min_probability: Pairs whose likelier side has a smaller probability are dropped.

    Raises:
        DataError: The policy or threshold is unknown, or a ranking does not fit its candidates.
    """
    if policy not in POLICIES:
        raise DataError(f"aggregation policy is {policy!r}; use one of {', '.join(POLICIES)}")
    if not 0.5 <= min_probability <= 1.0:
        raise DataError(f"min_probability is {min_probability}; give a number from 0.5 to 1")
    sets = list(candidate_sets)
    by_prompt = group_by_prompt(sets, rankings)
    pairs: list[PreferencePair] = []
    for item in sets:
        votes = by_prompt.get(item.prompt_id, [])
        if votes:
            couples = combinations(range(len(item.responses)), 2)
            found = (_pair(item, votes, first, second, policy, min_probability) for first, second in couples)
            pairs += [pair for pair in found if pair is not None]
    return pairs


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
    item: CandidateSet, votes: Sequence[Ranking], first: int, second: int, policy: Policy, min_probability: float
) -> PreferencePair | None:
    wins = sum(_vote(ranking, first, second) for ranking in votes)
    strength = sum(_strength(ranking, first, second) for ranking in votes)
    if 2 * wins < len(votes):
        first, second, wins, strength = second, first, len(votes) - wins, -strength
    probability = wins / len(votes)
    if probability < min_probability or (probability == 0.5 and policy != "soft"):
        return None
    return PreferencePair(
        prompt_id=item.prompt_id,
        prompt=item.prompt,
        chosen=item.responses[first],
        rejected=item.responses[second],
        weight=2.0 * probability - 1.0 if policy == "weighted" else 1.0,
        margin=strength / len(votes),
        probability=probability,
        votes=len(votes),
        chosen_index=first,
        rejected_index=second,
        split=item.split,
    )


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
