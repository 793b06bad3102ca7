"""Assignment: who works on what. Slots are filled, never counted, so that the overlap cannot be exceeded.

A slot is free, leased (somebody reads and orders right now) or done. Autosave renews the lease. A lease that ran
out makes the slot free for others; the draft stays with its annotator.

Slots of shared tasks are made when the tasks are published. Those of training, gold and repeat items are made when the
item is handed out, belong to one annotator, and never run out.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, exists, func, insert, literal_column, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.items import hand_out_training, hand_out_unseen, training_left
from rlhf.labels.publishing import PURPOSE, task_responses
from rlhf.labels.schema import annotators, answers, canonical_json, drafts, edits, rounds, slots, tasks, texts
from rlhf.labels.store import Store
from rlhf.records import PromptText, parse_prompt

LEASE_S = 20 * 60
MAX_DRAFT_BYTES = 256 * 1024
COUNTED = 2000
QUEUE_ORDER = (tasks.c.round, tasks.c.started.desc(), tasks.c.position, tasks.c.id)


@dataclass(frozen=True, slots=True)
class TaskView:
    """What one annotator sees of one task: no model, no other person's answer, no candidate numbers.

    `responses` are in the order in which they are shown; whatever comes back about them is in that order too.
    `version` is that of the answer being corrected, 0 for a first answer; `draft` is what was saved last.
    """

    task_id: int
    prompt: PromptText
    responses: tuple[str, ...]
    submission_id: str
    draft: dict[str, Any]
    version: int
    active_seconds: float
    prompt_id: str
    training: bool = False


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
        _free_expired(connection, now)
        held = _held_tasks(connection, annotator.id, round)[:limit]
        for task_id in held:
            _renew(connection, task_id, annotator.id, now)
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


def save_draft(
    store: Store,
    annotator: Annotator,
    submission_id: str,
    draft: dict[str, Any],
    *,
    active_seconds: float = 0.0,
) -> bool:
    """Store what the annotator has so far and renew the lease.

    Returns:
        Whether there is something to save to: False after the answer was submitted, for instance from another tab.

    Raises:
        LabelError: The draft is unreasonably large.
    """
    body = canonical_json(draft)
    if len(body.encode()) > MAX_DRAFT_BYTES:
        raise LabelError(f"the draft has {len(body.encode())} bytes; shorten the comment")
    with store.transaction(chained=False) as connection:
        now = store.clock()
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        if row is None:
            return False
        values = {
            "state": body,
            "updated_at": now,
            "first_action_at": row.first_action_at or now,
            "active_seconds": max(row.active_seconds, active_seconds),
        }
        connection.execute(update(drafts).where(drafts.c.submission_id == submission_id).values(**values))
        _renew(connection, row.task_id, annotator.id, now)
        return True


def renew(store: Store, annotator: Annotator, submission_id: str) -> bool:
    """Renew the lease without a change; return whether the annotator still holds the slot."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        return row is not None and _renew(connection, row.task_id, annotator.id, store.clock())


def release(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Give a leased slot of a shared task back (the page was closed); the draft stays."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        if row is not None:
            mine = (slots.c.task_id == row.task_id, slots.c.annotator_id == annotator.id, slots.c.status == "leased")
            connection.execute(
                update(slots).where(*mine, slots.c.expires_at.is_not(None)).values(expires_at=store.clock())
            )


def open_answer(store: Store, annotator: Annotator, task_id: int) -> TaskView:
    """Return a task the annotator answered, with that answer as the draft, to be corrected.

    Raises:
        LabelError: The annotator did not answer this task, or it was for training.
    """
    with store.transaction(chained=False) as connection:
        latest = latest_answer(connection, task_id, annotator.id)
        purpose = connection.execute(select(tasks.c.purpose).where(tasks.c.id == task_id)).scalar()
        if latest is None or latest.verdict == "undone":
            raise LabelError("this task is not among your answers; reload the page")
        if purpose == "training":
            raise LabelError("this was a training task; it needs no correction")
        known = connection.execute(
            select(drafts.c.task_id).where(drafts.c.task_id == task_id, drafts.c.annotator_id == annotator.id)
        ).first()
        if known is None:
            keep_as_draft(connection, latest, store.clock())
        return read_view(connection, task_id, annotator.id)


def keep_as_draft(connection: Connection, answer: Any, now: float) -> None:
    """Make a draft of an answer, as the annotator gave it."""
    comment, edit = (
        connection.execute(select(table.c.text).where(table.c.answer_id == answer.id)).scalar() or ""
        for table in (texts, edits)
    )
    state = answer_as_draft(answer, comment, edit)
    _insert_draft(connection, answer.task_id, answer.annotator_id, answer.display_order, state, now)


def drop_correction(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Forget a correction that was begun; the answer stays as it is."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        if row is not None and has_answered(connection, row.task_id, annotator.id):
            connection.execute(delete(drafts).where(drafts.c.submission_id == submission_id))


def open_correction(store: Store, annotator: Annotator) -> TaskView | None:
    """Return the correction that the annotator worked on last, if that is what he did last before reloading."""
    with store.reading() as connection:
        query = select(drafts.c.task_id).where(drafts.c.annotator_id == annotator.id)
        task_id = connection.execute(query.order_by(drafts.c.updated_at.desc()).limit(1)).scalar()
        if task_id is None or not has_answered(connection, task_id, annotator.id):
            return None
        return read_view(connection, task_id, annotator.id)


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


def latest_answer(connection: Connection, task_id: int, annotator_id: str) -> Any:
    """Return the row of the annotator's latest answer to a task, surplus or not, or None."""
    query = select(answers).where(answers.c.task_id == task_id, answers.c.annotator_id == annotator_id)
    return connection.execute(query.order_by(answers.c.version.desc()).limit(1)).first()


def has_answered(connection: Connection, task_id: int, annotator_id: str) -> bool:
    """Say whether the annotator has an answer to a task that he did not take back."""
    latest = latest_answer(connection, task_id, annotator_id)
    return latest is not None and latest.verdict != "undone"


def answer_as_draft(row: Any, comment: str, edit: str = "") -> dict[str, Any]:
    """Return an answer as a draft, in the order in which the candidates were shown."""
    order: list[int] = json.loads(row.display_order)
    ranks, flags = json.loads(row.ranks), json.loads(row.flags)
    return {
        "levels": [ranks[candidate] for candidate in order] if ranks else [],
        "strengths": json.loads(row.strengths),
        "flags": [flags[candidate] for candidate in order] if flags else [],
        "all_bad": row.all_bad,
        "comment": comment,
        "confidence": row.confidence,
        "edit_of": None if row.edit_of is None else order.index(row.edit_of),
        "edit": edit,
    }


def take_slot(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Mark the annotator's slot, or else a free one, as done; return False where there is none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    done = {"status": "done", "annotator_id": annotator_id, "expires_at": None}
    if connection.execute(update(slots).where(*mine).values(**done)).rowcount:
        return True
    _lock_task(connection, task_id)
    _free_expired(connection, now, task_id)
    return _fill_free(connection, task_id, done) is not None


def lease_again(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Turn the annotator's done slot, or else a free one, into a lease; return False where there is none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    lease = {"status": "leased", "annotator_id": annotator_id, "expires_at": now + LEASE_S}
    if connection.execute(update(slots).where(*mine).values(**lease)).rowcount:
        return True
    _lock_task(connection, task_id)
    return _fill_free(connection, task_id, lease) is not None


def give_up_slot(connection: Connection, task_id: int, annotator_id: str) -> None:
    """Make the annotator's slot free again."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    free = update(slots).where(*mine).values(status="free", annotator_id=None, expires_at=None)
    if connection.execute(free).rowcount:
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(free=tasks.c.free + 1))


def read_view(connection: Connection, task_id: int, annotator_id: str) -> TaskView:
    """Return the annotator's view of a task for which he has a draft."""
    query = (
        select(tasks, drafts.c.submission_id, drafts.c.display_order, drafts.c.state.label("draft"))
        .add_columns(drafts.c.active_seconds)
        .join(drafts, drafts.c.task_id == tasks.c.id)
        .where(tasks.c.id == task_id, drafts.c.annotator_id == annotator_id)
    )
    row = connection.execute(query).one()
    responses = task_responses(row)
    order: list[int] = json.loads(row.display_order)
    latest = latest_answer(connection, task_id, annotator_id)
    return TaskView(
        task_id=row.id,
        prompt=parse_prompt(json.loads(row.prompt)),
        responses=tuple(responses[candidate] for candidate in order),
        submission_id=row.submission_id,
        draft=json.loads(row.draft),
        version=latest.version if latest and latest.verdict != "undone" else 0,
        active_seconds=row.active_seconds,
        prompt_id=row.prompt_id,
        training=row.purpose == "training",
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
    mine = (answers.c.task_id == tasks.c.id, answers.c.annotator_id == annotator_id)
    return ~exists().where(*mine)


def _free_expired(connection: Connection, now: float, task_id: int | None = None) -> None:
    """Make the slots free whose leases ran out."""
    query = select(slots.c.task_id, slots.c.slot).where(slots.c.status == "leased", slots.c.expires_at <= now)
    if task_id is not None:
        query = query.where(slots.c.task_id == task_id)
    expired = connection.execute(
        query.order_by(slots.c.task_id).with_for_update(skip_locked=True, key_share=True)
    ).all()
    for owner, slot in expired:
        this = (slots.c.task_id == owner, slots.c.slot == slot)
        connection.execute(update(slots).where(*this).values(status="free", annotator_id=None, expires_at=None))
        connection.execute(update(tasks).where(tasks.c.id == owner).values(free=tasks.c.free + 1))


def _lock_task(connection: Connection, task_id: int) -> None:
    connection.execute(select(tasks.c.id).where(tasks.c.id == task_id).with_for_update(key_share=True))


def _fill_free(connection: Connection, task_id: int, values: dict[str, Any]) -> Any:
    """Give the first free slot of a (locked) task these values; return the slot's row, None where there is none."""
    free = select(slots).where(slots.c.task_id == task_id, slots.c.status == "free").order_by(slots.c.slot).limit(1)
    slot = connection.execute(free).first()
    if slot is not None:
        connection.execute(update(slots).where(slots.c.task_id == task_id, slots.c.slot == slot.slot).values(**values))
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(free=tasks.c.free - 1, started=True))
    return slot


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
    query = select(tasks.c.id).where(*_in_queue(round))
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
        slot = _fill_free(connection, task_id, lease)
        if slot is not None:
            taken.append(_begin(connection, task_id, slot.display_order, annotator_id, now))
    return taken


def _begin(connection: Connection, task_id: int, order: str, annotator_id: str, now: float) -> int:
    """Give the annotator a draft of a task, unless he has one; one without content takes the new slot's order."""
    mine = (drafts.c.task_id == task_id, drafts.c.annotator_id == annotator_id)
    kept = connection.execute(select(drafts.c.state).where(*mine)).first()
    if kept is None:
        _insert_draft(connection, task_id, annotator_id, order, {}, now)
    elif kept.state == "{}":
        connection.execute(update(drafts).where(*mine).values(display_order=order))
    return task_id


def _count_available(connection: Connection, me: Any, round: int | None) -> int:
    """Return how many shared tasks the annotator could still do, those in his hands among them."""
    ones = select(tasks.c.id).where(*_in_queue(round), _unanswered(me.id)).limit(COUNTED).subquery()
    left = connection.execute(select(func.count()).select_from(ones)).scalar_one()
    held = len(_held_tasks(connection, me.id, round))
    room = _room(connection, me, round)
    return min(COUNTED, held + (left if room is None else min(left, room)))


def _insert_draft(
    connection: Connection, task_id: int, annotator_id: str, order: str, state: dict[str, Any], now: float
) -> None:
    connection.execute(
        insert(drafts).values(
            task_id=task_id,
            annotator_id=annotator_id,
            submission_id=secrets.token_hex(16),
            display_order=order,
            state=canonical_json(state),
            shown_at=now,
            active_seconds=0.0,
            updated_at=now,
        )
    )


def _renew(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id, slots.c.status == "leased")
    own = update(slots).where(*mine, slots.c.expires_at.is_(None)).values(status="leased")
    shared = update(slots).where(*mine, slots.c.expires_at.is_not(None)).values(expires_at=now + LEASE_S)
    return connection.execute(shared).rowcount + connection.execute(own).rowcount > 0


def _own_draft(annotator_id: str, submission_id: str) -> Any:
    return select(drafts).where(drafts.c.submission_id == submission_id, drafts.c.annotator_id == annotator_id)
