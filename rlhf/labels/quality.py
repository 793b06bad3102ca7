"""The quality figures of a store: of each annotator, of each round, of each task; kept up to date while people work."""

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rlhf.labels.agreement import Agreement, measure_table
from rlhf.labels.answerlog import CANNOT_JUDGE, LABEL, RANKED
from rlhf.labels.bias import BiasReport, bias_of_table
from rlhf.labels.figures import Figure, Floats, bootstrap_mean
from rlhf.labels.judged import Judged
from rlhf.labels.personal import AnnotatorFigures, measure_annotators, no_figures
from rlhf.labels.ranktable import Ints
from rlhf.labels.remembered import Rounds
from rlhf.labels.store import Store

__all__ = ["AnnotatorFigures", "Measures", "all_figures", "annotator_figures", "measures"]

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Measures:
    """What is known about a round, or about all.

    Attributes:
        event: The event that it is as of.
        annotators: The figures of everybody who answered, by annotator id.
        agreement: Between annotators; its `by_annotator` is empty.
        bias: Position and length effects.
        seconds: Mean seconds of work per task.
        tasks: The ids of the tasks that were ranked by two or more, those that are agreed upon least first.
        task_agreement: Of each of `tasks`, with ties.
        task_rankings: How many rankings each of them has.
        decided: The ids of tasks that a manager decided.
        hours: The hours since 1970 in which answers came, ascending.
        per_hour: How many slots they filled; an answer counts once, where it was first given.
        position_spread: Of each task that was ranked, how unevenly its candidates stood at the places: the difference
            between the most and the fewest times, 1 where it is as even as it can be.
    """

    event: int
    annotators: Mapping[str, AnnotatorFigures]
    agreement: Agreement
    bias: BiasReport
    seconds: Figure
    tasks: Ints
    task_agreement: Floats
    task_rankings: Ints
    decided: frozenset[int]
    hours: Ints
    per_hour: Ints
    position_spread: Ints

    def accuracy(self, annotator_id: str) -> float | None:
        """Return the annotator's accuracy by the one-coin model."""
        found = self.annotators.get(annotator_id)
        return found.reliability.value if found else None


def annotator_figures(store: Store, annotator_id: str, round: int | None = None) -> AnnotatorFigures:
    """Return one annotator's figures, of a round or of all."""
    return all_figures(store, round).get(annotator_id) or no_figures(annotator_id)


def all_figures(store: Store, round: int | None = None) -> Mapping[str, AnnotatorFigures]:
    """Return the figures of everybody who answered, by annotator id; see `measures`."""
    return measures(store, round).annotators


def measures(store: Store, round: int | None = None) -> Measures:
    """Return what is measured about a round, or about all.

    It is computed again when there is something new; in a large store at most as often as keeps this below a twentieth of
    the time (see `remembered`).
    """
    rounds = _STORES.get(store)
    if rounds is None:
        rounds = _STORES.setdefault(store, Rounds(measure_round))
    return rounds.get(store, round)


def measure_round(judged: Judged) -> Measures:
    """Compute the figures of the answers selected."""
    sums = judged.by_task
    shared = np.flatnonzero(sums[:, 1] > 0)
    agreement = sums[shared, 0] / sums[shared, 1]
    rankings: Ints = np.bincount(judged.table.prompt, minlength=judged.table.prompts)[shared]
    # Those with more rankings first among equals: their disagreement is better founded.
    order = np.lexsort((judged.tasks[shared], -rankings, agreement.round(9)))
    hours, per_hour = _per_hour(judged)
    seconds = judged.seconds[~np.isnan(judged.seconds) & judged.is_task(judged.latest)].astype(np.float64)
    return Measures(
        event=judged.log.event,
        annotators=measure_annotators(judged),
        agreement=measure_table(judged.table, []),
        bias=bias_of_table(judged.table, judged.shown),
        seconds=bootstrap_mean(seconds, unit="answers"),
        tasks=judged.tasks[shared][order],
        task_agreement=agreement[order],
        task_rankings=rankings[order],
        decided=frozenset(judged.decided.tolist()),
        hours=hours,
        per_hour=per_hour,
        position_spread=position_spread(judged),
    )


def position_spread(judged: Judged) -> Ints:
    """Return for each task ranked the difference between the most and the fewest times that a candidate had a place."""
    found = np.zeros(judged.table.prompts, dtype=np.int64)
    for size, rows in judged.table.by_size():
        orders = judged.shown.orders[rows, :size].astype(np.int64)
        known = orders[:, 0] >= 0
        prompts, place = np.unique(judged.table.prompt[rows[known]], return_inverse=True)
        cells = (place[:, None] * size + np.arange(size)) * size + orders[known]
        counts = np.bincount(cells.ravel(), minlength=len(prompts) * size * size).reshape(len(prompts), size * size)
        found[prompts] = counts.max(axis=1) - counts.min(axis=1)
    return found


def _per_hour(judged: Judged) -> tuple[Ints, Ints]:
    answers = judged.log.answers
    rows = judged.first
    fills = (answers.verdict[rows] == RANKED) | (answers.verdict[rows] == CANNOT_JUDGE)
    rows = rows[fills & ~answers.surplus[rows] & (judged.log.tasks.purpose[answers.task[rows]] == LABEL)]
    at: NDArray[np.int64] = np.floor(answers.submitted_at[rows] / HOUR_S).astype(np.int64)
    return np.unique(at, return_counts=True)


# By store, and only as long as it is in use: no value refers to its key.
_STORES: "WeakKeyDictionary[Store, Rounds[Measures]]" = WeakKeyDictionary()
