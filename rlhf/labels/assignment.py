"""Assignment: who works on what. Slots are filled, never counted, so that the overlap cannot be exceeded.

A slot is free, leased (somebody reads and orders right now) or done. Autosave renews the lease. A lease that ran
out makes the slot available to others; the draft stays with its annotator.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, or_, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.publishing import current_answer_ids, task_responses
from rlhf.labels.schema import answers, canonical_json, drafts, slots, tasks, texts
from rlhf.labels.store import Store
from rlhf.records import PromptText, parse_prompt

LEASE_S = 20 * 60
MAX_DRAFT_BYTES = 64 * 1024


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


@dataclass(frozen=True, slots=True)
class Progress:
    """An annotator's own figures."""

    ranked: int
    cannot_judge: int
    skipped: int
    surplus: int
    available: int


def claim(store: Store, annotator: Annotator, *, round: int | None = None) -> TaskView | None:
    """Return the annotator's task at hand, or the next one, or None when there is nothing to do.

    Tasks that others have started come first (so that prompts get complete), then higher priority, then the
    seeded order of publication. Nobody gets a task twice, or one that he skipped.
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
    with store.transaction() as connection:
        now = store.clock()
        held = _held_tasks(connection, annotator.id, round)[:limit]
        for task_id in held:
            _renew(connection, task_id, annotator.id, now)
        taken = _lease(connection, annotator.id, limit - len(held), round, now) if len(held) < limit else []
        return [read_view(connection, task_id, annotator.id) for task_id in [*held, *taken]]


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
    with store.transaction() as connection:
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
    with store.transaction() as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        return row is not None and _renew(connection, row.task_id, annotator.id, store.clock())


def release(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Give a leased slot back (the page was closed); the draft stays."""
    with store.transaction() as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        if row is not None:
            mine = (slots.c.task_id == row.task_id, slots.c.annotator_id == annotator.id, slots.c.status == "leased")
            connection.execute(update(slots).where(*mine).values(expires_at=store.clock()))


def open_answer(store: Store, annotator: Annotator, task_id: int) -> TaskView:
    """Return a task the annotator answered, with that answer as the draft, to be corrected.

    Raises:
        LabelError: The annotator did not answer this task.
    """
    with store.transaction() as connection:
        latest = latest_answer(connection, task_id, annotator.id)
        if latest is None:
            raise LabelError("this task is not among your answers; reload the page")
        known = connection.execute(
            select(drafts.c.task_id).where(drafts.c.task_id == task_id, drafts.c.annotator_id == annotator.id)
        ).first()
        if known is None:
            comment = connection.execute(select(texts.c.text).where(texts.c.answer_id == latest.id)).scalar()
            state = answer_as_draft(latest, comment or "")
            _insert_draft(connection, task_id, annotator.id, latest.display_order, state, store.clock())
        return read_view(connection, task_id, annotator.id)


def drop_correction(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Forget a correction that was begun; the answer stays as it is."""
    with store.transaction() as connection:
        row = connection.execute(_own_draft(annotator.id, submission_id)).first()
        if row is not None and latest_answer(connection, row.task_id, annotator.id) is not None:
            connection.execute(delete(drafts).where(drafts.c.submission_id == submission_id))


def open_correction(store: Store, annotator: Annotator) -> TaskView | None:
    """Return the correction that the annotator worked on last, if that is what he did last before reloading."""
    with store.reading() as connection:
        query = select(drafts.c.task_id).where(drafts.c.annotator_id == annotator.id)
        task_id = connection.execute(query.order_by(drafts.c.updated_at.desc()).limit(1)).scalar()
        if task_id is None or latest_answer(connection, task_id, annotator.id) is None:
            return None
        return read_view(connection, task_id, annotator.id)


def progress(store: Store, annotator: Annotator, *, round: int | None = None) -> Progress:
    """Return the annotator's own figures."""
    with store.reading() as connection:
        mine = answers.c.annotator_id == annotator.id
        query = select(answers.c.verdict, func.count()).where(mine, answers.c.id.in_(current_answer_ids()))
        if round is not None:
            query = query.where(answers.c.task_id.in_(select(tasks.c.id).where(tasks.c.round == round)))
        counts = {row[0]: row[1] for row in connection.execute(query.group_by(answers.c.verdict))}
        surplus = connection.execute(select(func.count()).where(mine, answers.c.surplus)).scalar_one()
        free = _available(annotator.id, round, store.clock())
        available = connection.execute(select(func.count(slots.c.task_id.distinct())).join(tasks).where(*free))
        held = len(_held_tasks(connection, annotator.id, round))
        return Progress(
            ranked=counts.get("ranked", 0),
            cannot_judge=counts.get("cannot_judge", 0),
            skipped=counts.get("skipped", 0),
            surplus=surplus,
            available=available.scalar_one() + held,
        )


def latest_answer(connection: Connection, task_id: int, annotator_id: str) -> Any:
    """Return the row of the annotator's latest answer to a task, surplus or not, or None."""
    query = select(answers).where(answers.c.task_id == task_id, answers.c.annotator_id == annotator_id)
    return connection.execute(query.order_by(answers.c.version.desc()).limit(1)).first()


def answer_as_draft(row: Any, comment: str) -> dict[str, Any]:
    """Return an answer as a draft, in the order in which the candidates were shown."""
    order = json.loads(row.display_order)
    ranks, flags = json.loads(row.ranks), json.loads(row.flags)
    return {
        "levels": [ranks[candidate] for candidate in order] if ranks else [],
        "strengths": json.loads(row.strengths),
        "flags": [flags[candidate] for candidate in order] if flags else [],
        "all_bad": row.all_bad,
        "comment": comment,
    }


def take_slot(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Mark the annotator's slot, or else a free one, as done; return False where there is none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    done = {"status": "done", "annotator_id": annotator_id, "expires_at": None}
    if connection.execute(update(slots).where(*mine).values(**done)).rowcount:
        return True
    free = select(slots.c.slot).where(slots.c.task_id == task_id, _is_free(now)).order_by(slots.c.slot).limit(1)
    slot = connection.execute(free).scalar()
    if slot is None:
        return False
    connection.execute(update(slots).where(slots.c.task_id == task_id, slots.c.slot == slot).values(**done))
    return True


def give_up_slot(connection: Connection, task_id: int, annotator_id: str) -> None:
    """Make the annotator's slot free again."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    connection.execute(update(slots).where(*mine).values(status="free", annotator_id=None, expires_at=None))


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
        version=latest.version if latest else 0,
        active_seconds=row.active_seconds,
        prompt_id=row.prompt_id,
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


def _is_free(now: float) -> Any:
    return or_(slots.c.status == "free", (slots.c.status == "leased") & (slots.c.expires_at <= now))


def _available(annotator_id: str, round: int | None, now: float) -> list[Any]:
    """Return the conditions on slots that the annotator could take."""
    other = slots.alias("other")
    conditions = [
        tasks.c.state == "open",
        _is_free(now),
        ~exists().where(other.c.task_id == slots.c.task_id, other.c.annotator_id == annotator_id),
        ~exists().where(answers.c.task_id == slots.c.task_id, answers.c.annotator_id == annotator_id),
    ]
    if round is not None:
        conditions.append(tasks.c.round == round)
    return conditions


def _lease(connection: Connection, annotator_id: str, limit: int, round: int | None, now: float) -> list[int]:
    first_slot = func.min(slots.c.slot).label("slot")
    query = (
        select(slots.c.task_id, first_slot)
        .join(tasks)
        .where(*_available(annotator_id, round, now))
        .group_by(slots.c.task_id, tasks.c.started, tasks.c.priority, tasks.c.position)
        .order_by(tasks.c.started.desc(), tasks.c.priority.desc(), tasks.c.position, slots.c.task_id)
        .limit(limit)
    )
    taken: list[int] = []
    for task_id, slot in connection.execute(query).all():
        this = (slots.c.task_id == task_id, slots.c.slot == slot)
        lease = {"status": "leased", "annotator_id": annotator_id, "expires_at": now + LEASE_S}
        connection.execute(update(slots).where(*this).values(**lease))
        connection.execute(update(tasks).where(tasks.c.id == task_id, ~tasks.c.started).values(started=True))
        kept = select(drafts.c.task_id).where(drafts.c.task_id == task_id, drafts.c.annotator_id == annotator_id)
        if connection.execute(kept).first() is None:
            order = connection.execute(select(slots.c.display_order).where(*this)).scalar_one()
            _insert_draft(connection, task_id, annotator_id, order, {}, now)
        taken.append(task_id)
    return taken


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
    return connection.execute(update(slots).where(*mine).values(expires_at=now + LEASE_S)).rowcount > 0


def _own_draft(annotator_id: str, submission_id: str) -> Any:
    return select(drafts).where(drafts.c.submission_id == submission_id, drafts.c.annotator_id == annotator_id)
