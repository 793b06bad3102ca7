"""Drafts: what an annotator has so far of a task, and what he sees of it.

A draft stays with its annotator until he submits, whatever becomes of the slot; an answer that he corrects is a draft
again until then.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.publishing import task_responses
from rlhf.labels.schema import answers, canonical_json, drafts, edits, tasks, texts
from rlhf.labels.slots import renew_lease
from rlhf.labels.store import Store
from rlhf.records import PromptText, parse_prompt

MAX_DRAFT_BYTES = 256 * 1024


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
        row = connection.execute(own_draft(annotator.id, submission_id)).first()
        if row is None:
            return False
        values = {
            "state": body,
            "updated_at": now,
            "first_action_at": row.first_action_at or now,
            "active_seconds": max(row.active_seconds, active_seconds),
        }
        connection.execute(update(drafts).where(drafts.c.submission_id == submission_id).values(**values))
        renew_lease(connection, row.task_id, annotator.id, now)
        return True


def drop_correction(store: Store, annotator: Annotator, submission_id: str) -> None:
    """Forget a correction that was begun; the answer stays as it is."""
    with store.transaction(chained=False) as connection:
        row = connection.execute(own_draft(annotator.id, submission_id)).first()
        if row is not None and has_answered(connection, row.task_id, annotator.id):
            connection.execute(delete(drafts).where(drafts.c.submission_id == submission_id))


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


def open_correction(store: Store, annotator: Annotator) -> TaskView | None:
    """Return the correction that the annotator worked on last, if that is what he did last before reloading."""
    with store.reading() as connection:
        query = select(drafts.c.task_id).where(drafts.c.annotator_id == annotator.id)
        task_id = connection.execute(query.order_by(drafts.c.updated_at.desc()).limit(1)).scalar()
        if task_id is None or not has_answered(connection, task_id, annotator.id):
            return None
        return read_view(connection, task_id, annotator.id)


def keep_as_draft(connection: Connection, answer: Any, now: float) -> None:
    """Make a draft of an answer, as the annotator gave it."""
    comment, edit = (
        connection.execute(select(table.c.text).where(table.c.answer_id == answer.id)).scalar() or ""
        for table in (texts, edits)
    )
    state = answer_as_draft(answer, comment, edit)
    insert_draft(connection, answer.task_id, answer.annotator_id, answer.display_order, state, now)


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


def insert_draft(
    connection: Connection, task_id: int, annotator_id: str, order: str, state: dict[str, Any], now: float
) -> None:
    """Give the annotator a draft of a task, with an identity of its own."""
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


def own_draft(annotator_id: str, submission_id: str) -> Any:
    """Return the query of a draft, which finds nothing where it is somebody else's."""
    return select(drafts).where(drafts.c.submission_id == submission_id, drafts.c.annotator_id == annotator_id)
