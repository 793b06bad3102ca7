"""What is measured about each annotator. Figures without a value say why; nothing here is a verdict by itself."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.labels.agreement import NOBODY_SHARED
from rlhf.labels.answerlog import PURPOSES, RANKED, VERDICTS
from rlhf.labels.bias import (
    NO_ORDER,
    SAME_LENGTH,
    Shown,
    first_wins,
    length_slope,
    longer_wins,
)
from rlhf.labels.figures import Figure, Floats, median, ratio, statistic
from rlhf.labels.judged import Judged
from rlhf.labels.ranktable import Ints, Ranks, RankTable, sums_by
from rlhf.labels.reliability import PRIOR_ACCURACY, PRIOR_VOTES
from rlhf.records import MAX_CANDIDATES

TOO_FAST = 100.0
"""Characters of text shown, per second of work, that nobody reads."""
_FACTORIALS = np.array([math.factorial(size) for size in range(MAX_CANDIDATES + 1)], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class AnnotatorFigures:
    """One annotator's figures. Shares lie from 0 to 1; n counts tasks unless the figure's unit says otherwise.

    Attributes:
        annotator_id: Who.
        ranked: Tasks ranked, those counted that look like tasks (gold, repeat) and those kept as surplus.
        cannot_judge: Tasks answered so.
        skipped: Tasks skipped.
        surplus: Of all these, how many came when the task had enough answers.
        agreement: With the others who ranked the same task, on pairs that both ordered strictly.
        gold: Agreement with the key of gold items, ties counting half.
        training: The same for training items.
        consistency: Agreement with oneself, on tasks that came again in another order.
        reliability: The accuracy of the one-coin model (see `reliability`).
        seconds_per_1000: Median seconds of work per 1000 characters shown.
        too_fast: Answers given faster than 100 characters per second.
        timed: Answers whose time is known.
        unchanged: Share of rankings that are the order shown.
        unchanged_by_chance: The share that an order drawn at random would give.
        ties: Share of pairs called equal.
        first_wins: Share of strictly ordered pairs won by what was shown earlier; 0.5 without a position effect.
        longer_wins: Share won by the longer text.
        length_slope: The logistic slope of that (see `bias.length_slope`); 0 without a length effect.
    """

    annotator_id: str
    ranked: int
    cannot_judge: int
    skipped: int
    surplus: int
    agreement: Figure
    gold: Figure
    training: Figure
    consistency: Figure
    reliability: Figure
    seconds_per_1000: Figure
    too_fast: int
    timed: int
    unchanged: Figure
    unchanged_by_chance: float | None
    ties: Figure
    first_wins: Figure
    longer_wins: Figure
    length_slope: Figure


def measure_annotators(judged: Judged) -> dict[str, AnnotatorFigures]:
    """Return the figures of everybody who gave one of the answers selected, by annotator id."""
    sums, counts = _personal_sums(judged), _counts(judged)
    numbers = judged.log.annotators.items()
    return {who: _figures(who, counts[number], judged, sums, number) for who, number in numbers if counts[number].any()}


def no_figures(annotator_id: str) -> AnnotatorFigures:
    """Return the figures of somebody who gave no answer."""
    none = Figure(None, unit="tasks", reason="there is no answer yet")
    measured = dict.fromkeys(AnnotatorFigures.__slots__, none)
    counts = dict.fromkeys(("ranked", "cannot_judge", "skipped", "surplus", "too_fast", "timed"), 0)
    values: dict[str, Any] = {**measured, **counts, "annotator_id": annotator_id, "unchanged_by_chance": None}
    return AnnotatorFigures(**values)


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the annotators' figures add up, of every ranking: (rankings, 2), sum and count.

    `chance` is the chance of each ranking to be as shown; `pace`, `pace_of` and `too_fast` are of every answer whose time
    is known.
    """

    others: Floats
    first: Floats
    longer: Floats
    ties: Floats
    unchanged: Floats
    chance: Floats
    right: Floats
    items: dict[str, tuple[Ints, Floats]]
    pace: Floats
    pace_of: Ints
    too_fast: Ints


def _personal_sums(judged: Judged) -> _Sums:
    table, shown = judged.table, judged.shown
    pairs = (table.size * (table.size - 1) / 2).astype(np.float64)
    tied = pairs - _strict_pairs(table)
    votes, model = judged.votes, judged.model
    known = ~np.isnan(model.right)
    rankings = len(table.prompt)
    right = np.stack(
        [
            sums_by(votes.row[known], model.right[known], rankings),
            sums_by(votes.row[known], np.ones(int(known.sum())), rankings),
        ],
        axis=1,
    )
    characters = judged.log.tasks.characters[judged.log.answers.task[judged.latest]]
    ranked = judged.log.answers.verdict[judged.latest] == RANKED
    timed = ranked & ~np.isnan(judged.seconds) & (characters > 0)
    seconds, read = judged.seconds[timed].astype(np.float64), characters[timed]
    return _Sums(
        others=judged.with_others,
        first=first_wins(table, shown),
        longer=longer_wins(table, shown),
        ties=np.stack([tied, pairs], axis=1),
        unchanged=_unchanged(table, shown),
        chance=1.0 / _FACTORIALS[table.size],
        right=right,
        items={name: _against(judged, name) for name in ("gold", "training", "repeat")},
        pace=1000.0 * seconds / read,
        pace_of=judged.log.answers.annotator[judged.latest][timed],
        too_fast=(read > TOO_FAST * seconds).astype(np.int64),
    )


def _figures(annotator_id: str, counts: Ints, judged: Judged, sums: _Sums, number: int) -> AnnotatorFigures:
    rows = judged.table.annotator == number
    mine = sums.pace_of == number
    table = judged.table.take(rows)
    shown = Shown(judged.shown.orders[rows], judged.shown.lengths[rows])
    items = {name: values[who == number] for name, (who, values) in sums.items.items()}
    ranked, cannot_judge, skipped, surplus = counts.tolist()
    return AnnotatorFigures(
        annotator_id=annotator_id,
        ranked=ranked,
        cannot_judge=cannot_judge,
        skipped=skipped,
        surplus=surplus,
        agreement=_ratio(sums.others[rows], NOBODY_SHARED + " with strict orders"),
        gold=_ratio(items["gold"], "no gold item was ranked", "gold items"),
        training=_ratio(items["training"], "no training item was ranked", "training items"),
        consistency=_ratio(items["repeat"], "no task came a second time", "repeats"),
        reliability=_reliability(sums.right[rows]),
        seconds_per_1000=_pace(sums.pace[mine]),
        too_fast=int(sums.too_fast[mine].sum()),
        timed=int(mine.sum()),
        unchanged=_ratio(sums.unchanged[rows], NO_ORDER),
        unchanged_by_chance=float(sums.chance[rows].mean()) if rows.any() else None,
        ties=_ratio(sums.ties[rows], "nothing was ranked"),
        first_wins=_ratio(sums.first[rows], "no two candidates were ordered"),
        longer_wins=_ratio(sums.longer[rows], SAME_LENGTH),
        length_slope=length_slope(table, shown),
    )


def _counts(judged: Judged) -> Ints:
    """Return how many tasks each annotator ranked, could not judge and skipped, and how many of all these are surplus."""
    answers, latest = judged.log.answers, judged.latest
    latest = latest[judged.log.tasks.purpose[answers.task[latest]] != PURPOSES.index("training")]
    people = len(judged.log.annotators)
    who, verdict = answers.annotator[latest], answers.verdict[latest]
    columns = [np.bincount(who[verdict == value], minlength=people) for value in range(len(VERDICTS) - 1)]
    return np.stack([*columns, np.bincount(who[answers.surplus[latest]], minlength=people)], axis=1)


def _strict_pairs(table: RankTable) -> Floats:
    found = np.zeros(len(table.prompt))
    for size, rows in table.by_size():
        found[rows] = (table.codes(size, rows) != 0).sum(axis=1)
    return found


def _unchanged(table: RankTable, shown: Shown) -> Floats:
    """Return for each ranking whether it is 1, 2, 3, ... in the order shown, and whether that is known."""
    found = np.zeros((len(table.prompt), 2))
    for size, rows in table.by_size():
        rows = rows[shown.orders[rows, 0] >= 0]
        ranks = np.take_along_axis(table.ranks[rows, :size], shown.orders[rows, :size].astype(np.int64), 1)
        found[rows, 0] = (ranks == np.arange(1, size + 1)).all(axis=1)
        found[rows, 1] = 1.0
    return found


def _against(judged: Judged, name: str) -> tuple[Ints, Floats]:
    """Return who ranked the items of a purpose, and how much of each agrees with its key or its first answer."""
    answers, facts = judged.log.answers, judged.log.tasks
    rows = judged.of_purpose(name)
    if name == "repeat":
        rows, keys = _first_answers(judged, rows)
    else:
        keys = facts.key[answers.task[rows]]
    rows, keys = rows[keys[:, 0] > 0], keys[keys[:, 0] > 0]
    given, right = judged.as_table(rows, answers.ranks[rows]), judged.as_table(rows, keys)
    sums = np.zeros((len(rows), 2))
    for size, places in given.by_size():
        difference = given.codes(size, places).astype(np.float64) - right.codes(size, places)
        sums[places, 0] = 1.0 - np.abs(difference).mean(axis=1) / 2.0
        sums[places, 1] = 1.0
    return answers.annotator[rows], sums


def _first_answers(judged: Judged, rows: Ints) -> tuple[Ints, Ranks]:
    """Return the repeats among `rows` whose annotator ranked the first time too, and how."""
    answers, facts = judged.log.answers, judged.log.tasks
    people = max(len(judged.log.annotators), 1)
    before = judged.latest[answers.verdict[judged.latest] == RANKED]
    pairs = answers.task[before] * people + answers.annotator[before]
    order = np.argsort(pairs)
    wanted = facts.source[answers.task[rows]] * people + answers.annotator[rows]
    places = np.minimum(np.searchsorted(pairs[order], wanted), max(len(pairs) - 1, 0))
    if not len(pairs):
        return rows[:0], answers.ranks[:0]
    known = pairs[order][places] == wanted
    return rows[known], answers.ranks[before[order[places[known]]]]


def _ratio(sums: Floats, reason: str, unit: str = "tasks") -> Figure:
    sums = sums[sums[:, 1] > 0]
    return ratio(sums, unit=unit) if len(sums) else Figure(None, unit=unit, reason=reason)


def _reliability(right: Floats) -> Figure:
    """Return the accuracy with the interval that resampled tasks give, the consensus being as it is."""
    right = right[right[:, 1] > 0]
    if not len(right):
        return Figure(None, unit="tasks", reason=NOBODY_SHARED)

    def accuracy(sums: Floats) -> Floats:
        return (PRIOR_ACCURACY * PRIOR_VOTES + sums[:, 0]) / (PRIOR_VOTES + sums[:, 1])

    return statistic(right, accuracy, unit="tasks")


def _pace(values: Floats) -> Figure:
    return median(values) if len(values) else Figure(None, unit="answers", reason="no answer has a known time")
