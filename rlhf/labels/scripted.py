"""Scripted annotators, for demonstrations, tests and simulations: they write through a person's calls.

Each response's true score gets Gumbel noise; the order of noisy scores is then a draw from the Plackett-Luce model
with worths exp(score / noise) (Luce 1959; Yellott 1977). The noise is set so that two careful annotators agree as
often as people do: the share of pairs, both ordered strictly, on which they agree. Every record is marked
`kind="scripted"`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim_many
from rlhf.labels.drafts import TaskView
from rlhf.labels.publishing import published_sets
from rlhf.labels.store import Store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet, PromptText, prompt_to_text

Score = Callable[[PromptText, str], float]
Manner = Literal["careful", "random", "adversarial"]

BATCH = 25
SIMULATED_RESPONSES = 20_000
BISECTIONS = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Noise:
    """Calibrated noise: Gumbel scale, the gap under which two neighbours tie, the gaps that grade a step."""

    scale: float
    tie_gap: float
    grades: tuple[float, float]
    agreement: float


@dataclass(frozen=True, slots=True)
class ScriptedReport:
    """What the scripted annotators did; `agreement` is what their noise was calibrated to reach."""

    annotators: int
    answers: int
    noise: Noise


def run_scripted(
    store: Store,
    score: Score,
    *,
    annotators: int,
    agreement: float = 0.73,
    tie_rate: float = 0.08,
    random: float = 0.0,
    adversarial: float = 0.0,
    flip_rate: float = 0.0,
    round: int = 0,
    seed: int = 0,
) -> ScriptedReport:
    """Let scripted annotators work off a round's open slots.

    Args:
        store: The store, with the round published.
        score: The hidden true score of a response.
        annotators: How many there are; at least the overlap, or slots stay open.
        agreement: Target share of strictly ordered pairs on which two careful annotators agree, above 0.5 to 1.
        tie_rate: Share of neighbours, in the noisy order, that are called equal.
        random: Share of annotators who order at random.
        adversarial: Share of annotators who give the reversed order.
        flip_rate: Chance that a careful annotator's answer is reversed.
        round: The round.
        seed: Equal seeds, tasks and scores give equal answers.

    Raises:
        LabelError: There is no annotator, or a share is outside its range.
    """
    if annotators < 1:
        raise LabelError(f"{annotators} scripted annotators; ask for at least one")
    _check(agreement, tie_rate, random, adversarial, flip_rate)
    people = [ensure_annotator(store, f"scripted {number + 1}", "scripted") for number in range(annotators)]
    manners = dict(zip([person.id for person in people], assign_manners(annotators, random, adversarial), strict=True))
    scores = _score_all(score, published_sets(store, round))
    noise = calibrate(
        [np.array(list(row.values())) for row in scores.values()], agreement, tie_rate=tie_rate, seed=seed
    )

    def answer(person: Annotator, view: TaskView) -> None:
        row = scores[view.prompt_id]
        shown = np.array([row[response] for response in view.responses])
        rng = _generator(seed, person, view)
        ranks, strengths = draw_answer(shown, noise, manners[person.id], flip_rate, rng)
        submit(store, person, Submission(view.submission_id, "ranked", ranks=ranks, strengths=strengths))

    done = _work_off(store, people, round, answer)
    log.info("%d scripted annotators gave %d rankings", annotators, done)
    return ScriptedReport(annotators, done, noise)


def assign_manners(count: int, random: float, adversarial: float) -> list[Manner]:
    """Return each annotator's manner; the shares are rounded to whole annotators."""
    bad, lost = int(count * adversarial + 0.5), int(count * random + 0.5)
    adversaries: list[Manner] = ["adversarial"] * bad
    guessers: list[Manner] = ["random"] * lost
    careful: list[Manner] = ["careful"] * count
    return (adversaries + guessers + careful)[:count]


def calibrate(
    scores: Sequence[NDArray[np.float64]], agreement: float, *, tie_rate: float = 0.0, seed: int = 0
) -> Noise:
    """Find the noise at which two careful annotators agree on `agreement` of the pairs both order strictly.

    Bisection on the Gumbel scale with common random numbers, on the tasks' own true scores. Responses whose true
    scores are equal agree by chance only, so that a very high target may be out of reach; `Noise.agreement` says
    what was reached.

    Args:
        scores: The true scores of each task's responses.
        agreement: The target, above 0.5, at most 1.
        tie_rate: Share of neighbours called equal.
        seed: Seeds the simulation.
    """
    table, valid = _pad(scores)
    repeats = max(1, SIMULATED_RESPONSES // max(1, int(valid.sum())))
    table, valid = np.tile(table, (repeats, 1)), np.tile(valid, (repeats, 1))
    gumbel = np.random.default_rng(seed).gumbel(size=(2, *table.shape))
    spread = float(np.std(table[valid])) or 1.0
    low, high = -12.0, 8.0  # of log2(scale / spread)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _simulate(table, valid, gumbel, spread * 2.0**middle, tie_rate).agreement > agreement:
            low = middle
        else:
            high = middle
    return _simulate(table, valid, gumbel, spread * 2.0 ** ((low + high) / 2), tie_rate)


def draw_answer(
    scores: NDArray[np.float64], noise: Noise, manner: Manner, flip_rate: float, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return one answer's ranks and step strengths, in the order of `scores`."""
    noisy = scores + noise.scale * rng.gumbel(size=scores.shape)
    if manner == "random":
        noisy = noise.scale * rng.gumbel(size=scores.shape)
    if (manner == "adversarial") != (rng.random() < flip_rate):
        noisy = -noisy
    order = np.argsort(-noisy, kind="stable")
    ranks = np.ones(len(scores), dtype=int)
    strengths: list[int] = []
    for better, worse in pairwise(order):
        gap = noisy[better] - noisy[worse]
        tied = gap < noise.tie_gap
        ranks[worse] = ranks[better] + (0 if tied else 1)
        if not tied:
            strengths.append(1 + int(gap > noise.grades[0]) + int(gap > noise.grades[1]))
    return tuple(ranks.tolist()), tuple(strengths)


def _check(agreement: float, *shares: float) -> None:
    if not 0.5 < agreement <= 1.0:
        raise LabelError(f"scripted agreement is {agreement}; give a share above 0.5, at most 1")
    if any(not 0.0 <= share <= 1.0 for share in shares):
        raise LabelError(f"scripted shares are {shares}; each lies from 0 to 1")


def _work_off(
    store: Store, people: Sequence[Annotator], round: int, answer: Callable[[Annotator, TaskView], None]
) -> int:
    """Let the annotators work in turns, a batch each, until nothing is left for anybody; return the answers given.

    A batch is one transaction: a durable write per answer would only wait for the disk.
    """
    done = 0
    waiting = list(people)
    while waiting:
        for person in list(waiting):
            with store.transaction():
                views = claim_many(store, person, limit=BATCH, round=round)
                for view in views:
                    answer(person, view)
            done += len(views)
            if not views:
                waiting.remove(person)
    return done


def _score_all(score: Score, candidate_sets: Sequence[CandidateSet]) -> dict[str, dict[str, float]]:
    """Return the true score of every response, by prompt id and text."""
    return {
        item.prompt_id: {response: score(item.prompt, response) for response in item.responses}
        for item in candidate_sets
    }


def _generator(seed: int, person: Annotator, view: TaskView) -> np.random.Generator:
    key = f"{person.pseudonym}\n{view.prompt_id}\n{prompt_to_text(view.prompt)}"
    return np.random.default_rng([seed % 2**32, *key.encode()])


def _pad(scores: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    width = max((len(row) for row in scores), default=2)
    table = np.zeros((max(len(scores), 1), width))
    valid = np.zeros(table.shape, dtype=bool)
    for index, row in enumerate(scores):
        table[index, : len(row)] = row
        valid[index, : len(row)] = True
    return table, valid


def _simulate(
    table: NDArray[np.float64],
    valid: NDArray[np.bool_],
    gumbel: NDArray[np.float64],
    scale: float,
    tie_rate: float,
) -> Noise:
    """Return the noise of this scale with the agreement of two simulated annotators."""
    noisy = np.where(valid, table + scale * gumbel, -np.inf)
    ordered = -np.sort(-noisy, axis=-1)
    with np.errstate(invalid="ignore"):
        gaps = ordered[..., :-1] - ordered[..., 1:]
    inside = gaps[np.isfinite(gaps)]
    if not inside.size:
        return Noise(scale, 0.0, (0.0, 0.0), 1.0)
    tie_gap = float(np.quantile(inside, tie_rate)) if tie_rate else 0.0
    strict = inside[inside >= tie_gap]
    grades = (float(np.quantile(strict, 1 / 3)), float(np.quantile(strict, 2 / 3)))
    ranks = _ranks(noisy, gaps, tie_gap)
    width = table.shape[1]
    left, right = np.triu_indices(width, 1)
    signs = np.sign(ranks[..., right] - ranks[..., left])
    both = (signs[0] != 0) & (signs[1] != 0) & valid[:, left] & valid[:, right]
    same: NDArray[np.bool_] = signs[0][both] == signs[1][both]
    agreement = float(same.mean()) if same.size else 1.0
    return Noise(scale, tie_gap, grades, agreement)


def _ranks(noisy: NDArray[np.float64], gaps: NDArray[np.float64], tie_gap: float) -> NDArray[np.int64]:
    order = np.argsort(-noisy, axis=-1, kind="stable")
    steps = np.concatenate([np.ones((*gaps.shape[:-1], 1)), np.where(gaps < tie_gap, 0, 1)], axis=-1)
    levels = np.cumsum(steps, axis=-1).astype(np.int64)
    ranks = np.empty_like(levels)
    np.put_along_axis(ranks, order, levels, axis=-1)
    return ranks
