"""Whom a reward model agrees with, on prompts it was not trained on: people, sources, and where it agrees with nobody.

Every ranking is a vote on each pair of candidates that it orders strictly; the model is right about a vote when it scores
the preferred candidate higher (half right where it scores both alike). Intervals know that votes on one prompt are
correlated (`rlhf.reward.calibration.share`).
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rlhf.labels.aggregate import group_by_prompt, pair_chances
from rlhf.records import CandidateSet, PromptText, Ranking
from rlhf.reward.calibration import Share, hits, share, without_nan

LISTED = 200
UNKNOWN = "unknown"


@dataclass(frozen=True)
class ScoreSpread:
    """Normalised scores of one source's candidates: mean, standard deviation, and the 5th, 50th and 95th percentile."""

    candidates: int
    mean: float
    std: float
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Disagreement:
    """A prompt on which model and people differ.

    `disagreement` is the mean over the pairs of |p_people - p_model|, between 0 and 1: the share of votes for one side
    (ties half), and sigma(score difference) at the calibrated temperature. `shares` are the candidates' Borda shares.
    """

    prompt_id: str
    prompt: PromptText
    disagreement: float
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Trust:
    """The report; `new_annotators` are those whose rankings were kept out of training altogether."""

    accuracy_by_annotator: dict[str, Share]
    known_annotators: Share
    new_annotators: Share
    accuracy_by_source: dict[str, Share]
    scores_by_source: dict[str, ScoreSpread]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; what is undefined (NaN) becomes null."""
        return without_nan(dataclasses.asdict(self))


@dataclass(frozen=True)
class _Vote:
    prompt: int
    annotator: str
    sources: frozenset[str]
    gap: float


def measure_trust(
    sets: Sequence[CandidateSet],
    rankings: Sequence[Ranking],
    scores: Mapping[str, Sequence[float]],
    *,
    apart: Collection[str] = (),
) -> Trust:
    """Hold a reward model's scores against single annotators and sources.

    Args:
        sets: Candidates of prompts that were not trained on; without stated sources they are of source `unknown`.
        rankings: The rankings of these prompts.
        scores: By prompt id, the normalised score of each candidate.
        apart: Annotators whose rankings were not trained on.
    """
    votes = _votes(sets, rankings, scores)
    by_person: dict[str, list[_Vote]] = defaultdict(list)
    by_source: dict[str, list[_Vote]] = defaultdict(list)
    for vote in votes:
        by_person[vote.annotator].append(vote)
        for source in vote.sources:
            by_source[source].append(vote)
    spread: dict[str, list[float]] = defaultdict(list)
    for item in sets:
        for source, score in zip(_sources(item), scores[item.prompt_id], strict=True):
            spread[source].append(score)
    return Trust(
        accuracy_by_annotator={name: _share(by_person[name]) for name in sorted(by_person)},
        known_annotators=_share([vote for vote in votes if vote.annotator not in apart]),
        new_annotators=_share([vote for vote in votes if vote.annotator in apart]),
        accuracy_by_source={name: _share(by_source[name]) for name in sorted(by_source)},
        scores_by_source={name: _spread(spread[name]) for name in sorted(spread)},
    )


def find_disagreements(
    sets: Sequence[CandidateSet],
    rankings: Sequence[Ranking],
    scores: Mapping[str, Sequence[float]],
    sharpness: float,
    limit: int = LISTED,
) -> list[Disagreement]:
    """Return the prompts on which model and people disagree most, the worst first.

    Args:
        sets: Candidates of prompts that were not trained on.
        rankings: Their rankings.
        scores: By prompt id, the normalised score of each candidate.
        sharpness: Score difference to log-odds: the scores' divisor over the calibrated temperature.
        limit: How many to return.
    """
    by_prompt = group_by_prompt(sets, rankings)
    chances = pair_chances(by_prompt, "equal")
    found: list[Disagreement] = []
    for item in sets:
        if item.prompt_id not in chances:
            continue
        couples = list(combinations(range(len(item.responses)), 2))
        own = np.array(scores[item.prompt_id])
        gaps = np.array([own[first] - own[second] for first, second in couples])
        people = np.array(chances[item.prompt_id])
        model = np.exp(-np.logaddexp(0, -gaps * sharpness))
        wins = np.zeros(len(own))
        for (first, second), chance in zip(couples, people.tolist(), strict=True):
            wins[first] += chance
            wins[second] += 1 - chance
        found.append(
            Disagreement(
                item.prompt_id,
                item.prompt,
                float(np.abs(people - model).mean()),
                item.responses,
                tuple(own.tolist()),
                tuple((wins / (len(own) - 1)).tolist()),
            )
        )
    return sorted(found, key=lambda row: (-row.disagreement, row.prompt_id))[:limit]


def _votes(
    sets: Sequence[CandidateSet], rankings: Sequence[Ranking], scores: Mapping[str, Sequence[float]]
) -> list[_Vote]:
    known = {item.prompt_id: (number, item) for number, item in enumerate(sets)}
    votes: list[_Vote] = []
    for ranking in rankings:
        number, item = known[ranking.prompt_id]
        own, sources = scores[ranking.prompt_id], _sources(item)
        for first, second in combinations(range(len(own)), 2):
            difference = ranking.ranks[second] - ranking.ranks[first]
            if difference:
                gap = (own[first] - own[second]) * math.copysign(1.0, difference)
                votes.append(_Vote(number, ranking.annotator, frozenset((sources[first], sources[second])), gap))
    return votes


def _sources(item: CandidateSet) -> Sequence[str]:
    return [source or UNKNOWN for source in item.sources] or [UNKNOWN] * len(item.responses)


def _share(votes: Sequence[_Vote]) -> Share:
    gaps = np.array([vote.gap for vote in votes], dtype=np.float64)
    return share(hits(gaps), np.array([vote.prompt for vote in votes], dtype=np.int64))


def _spread(scores: Sequence[float]) -> ScoreSpread:
    low, median, high = np.quantile(scores, (0.05, 0.5, 0.95)).tolist()
    return ScoreSpread(len(scores), float(np.mean(scores)), float(np.std(scores)), low, median, high)
