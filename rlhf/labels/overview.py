"""What whoever manages the labels wants to see: how far a round is, when it ends, where annotators disagree."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, case, func, or_, select

from rlhf.labels.figures import Figure, bootstrap_mean
from rlhf.labels.publishing import PURPOSE, current_answer_ids, task_responses
from rlhf.labels.quality import HOUR_S, Measures
from rlhf.labels.reliability import PRIOR_ACCURACY, weighted_scores
from rlhf.labels.schema import annotators, answers, drafts, people, slots, tasks, texts
from rlhf.labels.store import Store
from rlhf.records import PromptText, parse_prompt

DAY_S = 24 * HOUR_S
PACE_DAYS = 7
FEWEST_DAYS = 3
PAGE = 10


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """How far a round is, in tasks and in slots; `leased` slots are in somebody's hands now, `left` are to be filled."""

    round: int
    tasks: int
    complete: int
    started: int
    untouched: int
    closed: int
    slots: int
    filled: int
    leased: int
    left: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a round will be complete, if people go on as they do.

    Attributes:
        left: Slots to fill.
        work_hours: Hours of work that they take.
        per_day: Slots filled per day, over the last days.
        days: Days until all are filled.
    """

    left: int
    work_hours: Figure
    per_day: Figure
    days: Figure


@dataclass(frozen=True, slots=True)
class Closing:
    """What is lost when a round is closed now: slots that stay empty, and who works on what.

    `working` names the people who hold a task at this moment; `drafts` counts begun answers, whose authors may still submit
    them, as surplus.
    """

    tasks: int
    slots: int
    untouched: int
    working: tuple[str, ...]
    drafts: int


@dataclass(frozen=True, slots=True)
class Voice:
    """One annotator's ranking of a disputed task, in candidate order."""

    pseudonym: str
    ranks: tuple[int, ...]
    flags: tuple[tuple[str, ...], ...]
    all_bad: bool
    comment: str
    accuracy: float
    confidence: int | None


@dataclass(frozen=True, slots=True)
class Dispute:
    """A task on which annotators disagree; `consensus` weighs them by their accuracy, `decision` is a manager's."""

    task_id: int
    prompt_id: str
    prompt: PromptText
    responses: tuple[str, ...]
    agreement: float | None
    voices: tuple[Voice, ...]
    consensus: tuple[int, ...]
    decision: tuple[int, ...]
    decision_comment: str


def round_progress(store: Store, round: int) -> RoundProgress:
    """Count a round's tasks and slots, in one pass over its slots."""
    held = (slots.c.status == "leased") & or_(slots.c.expires_at.is_(None), slots.c.expires_at > store.clock())
    by_task = (
        select(
            tasks.c.state.label("state"),
            tasks.c.started.label("started"),
            func.count().label("slots"),
            _number(slots.c.status == "done").label("filled"),
            _number(held).label("leased"),
        )
        .select_from(slots)
        .join(tasks, tasks.c.id == slots.c.task_id)
        .where(tasks.c.round == round, tasks.c.purpose == PURPOSE, tasks.c.state != "withdrawn")
        .group_by(tasks.c.id, tasks.c.state, tasks.c.started)
        .subquery()
    )
    done, open_now = by_task.c.filled == by_task.c.slots, by_task.c.state == "open"
    begun = or_(by_task.c.started, by_task.c.filled > 0)
    query = select(
        func.count(),
        _number(done),
        _number(begun & ~done),
        _number(~begun),
        _number(~open_now),
        *(func.coalesce(func.sum(column), 0) for column in (by_task.c.slots, by_task.c.filled)),
        func.coalesce(func.sum(case((open_now, by_task.c.leased), else_=0)), 0),
        func.coalesce(func.sum(case((open_now, by_task.c.slots - by_task.c.filled), else_=0)), 0),
    ).select_from(by_task)
    with store.reading() as connection:
        return RoundProgress(round, *(int(value) for value in connection.execute(query).one()))


def forecast(progress: RoundProgress, measured: Measures, now: float) -> Forecast:
    """Say when the round will be complete, from the slots filled in the last days (24 hours each, back from now).

    The pace's interval is a bootstrap over days; that of the days left follows from it.
    """
    work = _scaled(measured.seconds, progress.left / HOUR_S)
    if not progress.left:
        done = Figure(None, unit="days", reason="nothing is left to fill")
        return Forecast(0, work, done, done)
    per_day = _pace(measured, now)
    if per_day.value is None:
        return Forecast(progress.left, work, per_day, per_day)
    low = high = None
    # With a pace of 0 within its interval, no number of days is large enough.
    if per_day.low and per_day.high:
        low, high = progress.left / per_day.high, progress.left / per_day.low
    return Forecast(progress.left, work, per_day, Figure(progress.left / per_day.value, low, high, per_day.n, "days"))


def closing(store: Store, round: int) -> Closing:
    """Say what closing a round now would leave undone."""
    progress = round_progress(store, round)
    live = (tasks.c.round == round, tasks.c.state == "open")
    held = (
        select(people.c.name, annotators.c.pseudonym)
        .select_from(slots)
        .join(tasks, tasks.c.id == slots.c.task_id)
        .join(annotators, annotators.c.id == slots.c.annotator_id)
        .join(people, people.c.annotator_id == annotators.c.id, isouter=True)
        .where(*live, slots.c.status == "leased")
        .where(or_(slots.c.expires_at.is_(None), slots.c.expires_at > store.clock()))
        .distinct()
    )
    begun = select(func.count()).select_from(drafts).join(tasks).where(*live, drafts.c.state != "{}")
    with store.reading() as connection:
        names = sorted(row.name or row.pseudonym for row in connection.execute(held))
        count = connection.execute(begun).scalar_one()
    unfinished = progress.tasks - progress.complete - progress.closed
    return Closing(max(unfinished, 0), progress.left, progress.untouched, tuple(names), count)


def disputes(
    store: Store, measured: Measures, *, page: int = 0, decided: bool = False, size: int = PAGE
) -> tuple[list[Dispute], int]:
    """Return a page of the tasks that annotators agree on least, or of those that a manager decided; and how many there are.

    The order comes with the measures; only the texts of this page are read.
    """
    taken = np.isin(measured.tasks, np.fromiter(measured.decided, dtype=np.int64))
    open_ones = (measured.tasks[~taken], measured.task_agreement[~taken])
    # A decided task may have a single ranking, or none.
    agreement = dict(zip(measured.tasks.tolist(), measured.task_agreement.tolist(), strict=True))
    ids: list[int] = sorted(measured.decided, reverse=True) if decided else open_ones[0].tolist()
    if not decided:
        # Tasks that all order alike are no disagreements.
        ids = ids[: int((open_ones[1] < 1.0).sum())]
    shown = ids[page * size : (page + 1) * size]
    with store.reading() as connection:
        found = _read_disputes(connection, shown, measured, agreement)
    return found, len(ids)


def read_disputes(store: Store, measured: Measures, task_ids: Sequence[int]) -> list[Dispute]:
    """Return tasks as `disputes` does, in the given order; all must exist."""
    agreement = dict(zip(measured.tasks.tolist(), measured.task_agreement.tolist(), strict=True))
    with store.reading() as connection:
        return _read_disputes(connection, list(task_ids), measured, agreement)


def weighted_consensus(rankings: Sequence[Sequence[int]], accuracies: Sequence[float]) -> tuple[int, ...]:
    """Return the ranks of one prompt's candidates that its rankings support, weighted by their annotators' accuracy.

    Candidates are ordered by their mean chance to beat another one (see `reliability.weighted_scores`).
    """
    if not rankings:
        return ()
    scores = weighted_scores(np.array(rankings, dtype=np.int8), np.array(accuracies)).round(9)
    levels = np.unique(-scores)
    return tuple((np.searchsorted(levels, -scores) + 1).tolist())


def _number(condition: Any) -> Any:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _scaled(figure: Figure, factor: float) -> Figure:
    if figure.value is None:
        return figure
    low, high = (None if bound is None else bound * factor for bound in (figure.low, figure.high))
    return Figure(figure.value * factor, low, high, figure.n, figure.unit)


def _pace(measured: Measures, now: float) -> Figure:
    ages = np.floor((now - measured.hours * HOUR_S) / DAY_S).astype(np.int64)
    days = 0 if not len(ages) else min(PACE_DAYS, int((now - measured.hours[0] * HOUR_S) // DAY_S))
    if days < FEWEST_DAYS:
        return Figure(None, unit="days", reason=f"answers have come for less than {FEWEST_DAYS} days")
    recent = (ages >= 0) & (ages < days)
    counts = np.bincount(ages[recent], measured.per_hour[recent], days)
    if not counts.sum():
        return Figure(None, unit="days", reason=f"nobody filled a slot in the last {days} days")
    return bootstrap_mean(counts.astype(np.float64), unit="days")


def _read_disputes(
    connection: Connection, ids: list[int], measured: Measures, agreement: dict[int, float]
) -> list[Dispute]:
    columns = (tasks.c.id, tasks.c.prompt_id, tasks.c.prompt, tasks.c.responses)
    rows = {row.id: row for row in connection.execute(select(*columns).where(tasks.c.id.in_(ids)))}
    spoken = (
        select(answers, annotators.c.pseudonym, texts.c.text.label("comment"))
        .join(annotators, annotators.c.id == answers.c.annotator_id)
        .join(texts, texts.c.answer_id == answers.c.id, isouter=True)
        .where(answers.c.task_id.in_(ids), answers.c.verdict == "ranked")
    )
    decision = answers.c.adjudicates.is_(True)
    here = answers.c.task_id.in_(ids)
    current = current_answer_ids().where(here, ~func.coalesce(answers.c.adjudicates, False))
    voices: dict[int, list[Any]] = {task_id: [] for task_id in ids}
    for row in connection.execute(spoken.where(answers.c.id.in_(current)).order_by(annotators.c.pseudonym)):
        voices[row.task_id].append(row)
    standing = spoken.where(decision, answers.c.id.in_(current_answer_ids().where(here)))
    decisions = {row.task_id: row for row in connection.execute(standing.order_by(answers.c.id))}
    return [
        _dispute(rows[task_id], voices[task_id], decisions.get(task_id), measured, agreement.get(task_id))
        for task_id in ids
        if task_id in rows
    ]


def _dispute(row: Any, spoken: list[Any], decision: Any, measured: Measures, agreement: float | None) -> Dispute:
    voices = [
        Voice(
            pseudonym=voice.pseudonym,
            ranks=tuple(json.loads(voice.ranks)),
            flags=tuple(tuple(entry) for entry in json.loads(voice.flags)),
            all_bad=voice.all_bad,
            comment=voice.comment or "",
            accuracy=measured.accuracy(voice.annotator_id) or PRIOR_ACCURACY,
            confidence=voice.confidence,
        )
        for voice in spoken
    ]
    return Dispute(
        task_id=row.id,
        prompt_id=row.prompt_id,
        prompt=parse_prompt(json.loads(row.prompt)),
        responses=tuple(task_responses(row)),
        agreement=agreement,
        voices=tuple(voices),
        consensus=weighted_consensus([voice.ranks for voice in voices], [voice.accuracy for voice in voices]),
        decision=tuple(json.loads(decision.ranks)) if decision is not None else (),
        decision_comment=(decision.comment or "") if decision is not None else "",
    )
