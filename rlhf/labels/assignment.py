"""Assignment: who works on what, and in which order."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, exists, func, literal_column, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.drafts import TaskView, has_answered, insert_draft, own_draft, read_view
from rlhf.labels.items import hand_out_training, hand_out_unseen, training_left
from rlhf.labels.publishing import PURPOSE
from rlhf.labels.schema import annotators, answers, drafts, rounds, slots, tasks
from rlhf.labels.slots import LEASE_S, fill_free, free_expired, renew_lease
from rlhf.labels.store import Store

COUNTED = 2000
QUEUE_ORDER = (tasks.c.round, tasks.c.started.desc(), tasks.c.position, tasks.c.id)


@dataclass(frozen=True, slots=True)
class Progress:
    """An annotator's own figures; repeat and gold items count as what they look like.

    `available` stops at `COUNTED`: nobody needs to know more exactly, and counting costs.
    """

    ranked: int
    cannot_judge: int
    skipped: int
    surplus: int
    available: int
    training_left: int


def claim(store: Store, annotator: Annotator, *, round: int | None = None) -> TaskView | None:
    """Return the annotator's task at hand, or the next one, or None when there is nothing to do.

    Training items come first, and gold and repeat items where it is their turn. Among tasks, those that others have
    started come first (so that prompts get complete), then the order of publication. Nobody gets a task twice,
    or one that he skipped. Who is paused or has reached his limit gets nothing new.
    """
    views = claim_many(store, annotator, limit=1, round=round)
    return views[0] if views else None


def claim_many(store: Store, annotator: Annotator, *, limit: int, round: int | None = None) -> list[TaskView]:
    """Return up to `limit` tasks for the annotator: those he holds, then newly leased ones.

    Raises:
        LabelError: The annotator is not active.
    """
    if not annotator.active:
        raise LabelError(f"{annotator.pseudonym} is not active and gets no tasks")
    with store.transaction(chained=False) as connection:
        now = store.clock()
        # Two tabs of one person must not take two tasks at once.
        me = connection.execute(
            select(annotators).where(annotators.c.id == annotator.id).with_for_update(key_share=True)
        ).one()
        free_expired(connection, now)
        held = _held_tasks(connection, annotator.id, round)[:limit]
        for task_id in held:
            renew_lease(connection, task_id, annotator.id, now)
        more = limit - len(held)
        taken = _take_next(connection, me, more, round, now) if more and not me.paused else []
        return [read_view(connection, task_id, annotator.id) for task_id in [*held, *taken]]


def why_none(store: Store, annotator: Annotator, *, round: int | None = None) -> Literal["paused", "limit", "done"]:
    """Say why `claim` gave nothing."""
    with store.reading() as connection:
        me = connection.execute(select(annotators).where(annotators.c.id == annotator.id)).one()
        if me.paused:
            return "paused"
        return "limit" if _room(connection, me, round) == 0 else "done"


def renew(store: Store, annotator: Annotator, submission_id: str) -> bool:
    """Renew the lease without a change; return whether the annotator still holds the slot."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(own_draft(annotator.id, submission_id)).first()
        return row is not None and renew_lease(connection, row.task_id, annotator.id, store.clock())


def release(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Give a leased slot of a shared task back (the page was closed); the draft stays."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(own_draft(annotator.id, submission_id)).first()
        if row is not None:
            mine = (slots.c.task_id == row.task_id, slots.c.annotator_id == annotator.id, slots.c.status == "leased")
            connection.execute(
                update(slots).where(*mine, slots.c.expires_at.is_not(None)).values(expires_at=store.clock())
            )


def progress(store: Store, annotator: Annotator, *, round: int | None = None) -> Progress:
    """Return the annotator's own figures."""
    with store.reading() as connection:
        later = answers.alias("later")
        superseded = exists().where(
            later.c.task_id == answers.c.task_id,
            later.c.annotator_id == answers.c.annotator_id,
            later.c.version > answers.c.version,
        )
        query = (
            select(answers.c.verdict, answers.c.surplus, func.count())
            .join(tasks)
            .where(answers.c.annotator_id == annotator.id, ~superseded, tasks.c.purpose != "training")
            .group_by(answers.c.verdict, answers.c.surplus)
        )
        counts = connection.execute(query if round is None else query.where(tasks.c.round == round)).all()
        me = connection.execute(select(annotators).where(annotators.c.id == annotator.id)).one()
        by_verdict = dict.fromkeys(("ranked", "cannot_judge", "skipped", "undone"), 0)
        for verdict, _, count in counts:
            by_verdict[verdict] += count
        return Progress(
            ranked=by_verdict["ranked"],
            cannot_judge=by_verdict["cannot_judge"],
            skipped=by_verdict["skipped"],
            surplus=sum(count for _, surplus, count in counts if surplus),
            available=_count_available(connection, me, round),
            training_left=training_left(connection, annotator.id, round),
        )


def _held_tasks(connection: Connection, annotator_id: str, round: int | None) -> list[int]:
    query = (
        select(slots.c.task_id)
        .join(tasks)
        .join(drafts, (drafts.c.task_id == slots.c.task_id) & (drafts.c.annotator_id == slots.c.annotator_id))
        .where(slots.c.annotator_id == annotator_id, slots.c.status == "leased", tasks.c.state == "open")
        .order_by(drafts.c.shown_at, slots.c.task_id)
    )
    if round is not None:
        query = query.where(tasks.c.round == round)
    return list(connection.execute(query).scalars())


def _in_queue(round: int | None) -> list[Any]:
    """Return the conditions on shared tasks that somebody could take; an index holds just these."""
    # Written out, because a planner that sees placeholders cannot know that the partial index fits.
    wanted = {tasks.c.state: "'open'", tasks.c.purpose: f"'{PURPOSE}'"}
    conditions: list[Any] = [column == literal_column(value) for column, value in wanted.items()]
    conditions.append(tasks.c.free > literal_column("0"))
    return conditions if round is None else [*conditions, tasks.c.round == round]


def _unanswered(annotator_id: str) -> Any:
    return ~exists().where(answers.c.task_id == tasks.c.id, answers.c.annotator_id == annotator_id)


def _without_slot(annotator_id: str) -> Any:
    """Return the condition that a task, which may have free slots, is not in the annotator's hands already."""
    return ~exists().where(slots.c.task_id == tasks.c.id, slots.c.annotator_id == annotator_id)


def _room(connection: Connection, me: Any, round: int | None) -> int | None:
    """Return how many more tasks the annotator may have, None for any number; training does not count."""
    limit = me.task_limit
    if limit is None and round is not None:
        limit = connection.execute(select(rounds.c.task_limit).where(rounds.c.round == round)).scalar()
    if limit is None:
        return None
    given = (
        select(func.count())
        .select_from(slots)
        .join(tasks)
        .where(slots.c.annotator_id == me.id, slots.c.status != "free", tasks.c.purpose != "training")
    )
    return max(
        0, limit - connection.execute(given if round is None else given.where(tasks.c.round == round)).scalar_one()
    )


def _take_next(connection: Connection, me: Any, limit: int, round: int | None, now: float) -> list[int]:
    """Hand out up to `limit` tasks: training first, gold or repeat items in their turn, own drafts, then the queue."""
    taken: list[int] = []
    if me.kind != "scripted":
        training = hand_out_training(connection, me.id, round, now)
        if training is not None:
            return [_begin(connection, *training, me.id, now)]
    room = _room(connection, me, round)
    limit = limit if room is None else min(limit, room)
    if limit and me.kind != "scripted":
        unseen = hand_out_unseen(connection, me.id, round, now)
        if unseen is not None:
            taken.append(_begin(connection, *unseen, me.id, now))
    taken += _lease(connection, me.id, limit - len(taken), round, now, resume=True)
    return taken + _lease(connection, me.id, limit - len(taken), round, now, resume=False)


def _lease(
    connection: Connection, annotator_id: str, limit: int, round: int | None, now: float, *, resume: bool
) -> list[int]:
    """Lease slots of shared tasks: those of the annotator's own drafts whose leases ran out, or of the queue."""
    if limit <= 0:
        return []
    query = select(tasks.c.id).where(*_in_queue(round), _without_slot(annotator_id))
    if resume:
        query = query.join(drafts, and_(drafts.c.task_id == tasks.c.id, drafts.c.annotator_id == annotator_id))
        query = query.order_by(drafts.c.updated_at.desc())
    else:
        query = query.where(_unanswered(annotator_id)).order_by(*QUEUE_ORDER)
    taken: list[int] = []
    found = (
        connection.execute(query.limit(limit).with_for_update(skip_locked=True, of=tasks, key_share=True))
        .scalars()
        .all()
    )
    lease = {"status": "leased", "annotator_id": annotator_id, "expires_at": now + LEASE_S}
    for task_id in found:
        if resume and has_answered(connection, task_id, annotator_id):
            continue  # a correction, for which he needs no slot
        slot = fill_free(connection, task_id, lease)
        if slot is not None:
            taken.append(_begin(connection, task_id, slot.display_order, annotator_id, now))
    return taken


def _begin(connection: Connection, task_id: int, order: str, annotator_id: str, now: float) -> int:
    """Give the annotator a draft of a task, unless he has one; one without content takes the new slot's order."""
    mine = (drafts.c.task_id == task_id, drafts.c.annotator_id == annotator_id)
    kept = connection.execute(select(drafts.c.state).where(*mine)).first()
    if kept is None:
        insert_draft(connection, task_id, annotator_id, order, {}, now)
    elif kept.state == "{}":
        connection.execute(update(drafts).where(*mine).values(display_order=order))
    return task_id


def _count_available(connection: Connection, me: Any, round: int | None) -> int:
    """Return how many shared tasks the annotator could still do, those in his hands among them."""
    ones = (
        select(tasks.c.id).where(*_in_queue(round), _without_slot(me.id), _unanswered(me.id)).limit(COUNTED).subquery()
    )
    left = connection.execute(select(func.count()).select_from(ones)).scalar_one()
    held = len(_held_tasks(connection, me.id, round))
    room = _room(connection, me, round)
    return min(COUNTED, held + (left if room is None else min(left, room)))
