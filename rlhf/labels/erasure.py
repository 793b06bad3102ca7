"""Taking back what was stored: a person's name and words, or answers that shall not count. Both leave an event.

The chain of events and answers holds random ids and salted digests only, so it stays whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, list_annotators
from rlhf.labels.answers import write_version
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.publishing import current_answer_ids
from rlhf.labels.schema import annotators, answers, drafts, edits, login_tokens, people, sessions, slots, tasks, texts
from rlhf.labels.slots import give_up_slot
from rlhf.labels.store import Store

MAX_WHY = 500


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed; `answers` rankings stay, under the pseudonym."""

    pseudonym: str
    texts: int
    drafts: int
    answers: int


def find_annotator(store: Store, name: str) -> Annotator:
    """Return the annotator with this name or pseudonym.

    Raises:
        LabelError: There is none, or several people of different kinds have the name.
    """
    found = [person for person in list_annotators(store) if name in (person.name, person.pseudonym)]
    if not found:
        raise LabelError(
            f"{store.place}: nobody is called {name!r}; `rlhf label user {store.place} list` shows everybody"
        )
    if len(found) > 1:
        names = ", ".join(person.pseudonym for person in found)
        raise LabelError(f"{store.place}: {name!r} is the name of {len(found)} annotators; give one of {names}")
    return found[0]


def erase_person(store: Store, annotator: Annotator, actor: str = SYSTEM) -> Erased:
    """Remove a person's name, secrets, sessions, drafts, comments and better answers; the rankings stay.

    What the file still held of the removed rows is overwritten. Earlier exports, backups and copies are not touched.
    """
    mine = annotator.id
    with store.transaction() as connection:
        removed = {table: _clear(connection, table, table.c.annotator_id == mine) for table in (texts, edits, drafts)}
        for table in (sessions, login_tokens, people):
            _clear(connection, table, table.c.annotator_id == mine)
        for task_id in connection.execute(_leases(mine)).scalars().all():
            give_up_slot(connection, task_id, mine)
        connection.execute(update(annotators).where(annotators.c.id == mine).values(active=False))
        kept = connection.execute(select(func.count()).where(answers.c.annotator_id == mine)).scalar_one()
        count = removed[texts] + removed[edits]
        append(connection, "erase", actor, {"annotator": mine, "texts": count}, store.clock())
    store.vacuum()
    return Erased(annotator.pseudonym, count, removed[drafts], kept)


def select_answers(
    connection: Connection,
    *,
    annotator_id: str | None = None,
    answer_ids: Sequence[int] = (),
    round: int | None = None,
) -> list[Any]:
    """Return the answers that count now and fit all that is given."""
    query = (
        select(answers, tasks.c.purpose)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .where(answers.c.id.in_(current_answer_ids()), answers.c.verdict != "undone")
        .order_by(answers.c.id)
    )
    if annotator_id is not None:
        query = query.where(answers.c.annotator_id == annotator_id)
    if answer_ids:
        query = query.where(answers.c.id.in_(answer_ids))
    if round is not None:
        query = query.where(tasks.c.round == round)
    return list(connection.execute(query))


def delete_answers(store: Store, rows: Sequence[Any], why: str, actor: str = SYSTEM) -> int:
    """Let answers count no more, and remove what was written with them; return how many that were.

    Each gets a last version with the verdict "undone"; its slot is free for somebody else.

    Raises:
        LabelError: No reason is given, or it is too long.
    """
    if not why.strip() or len(why) > MAX_WHY:
        raise LabelError(
            f"the reason has {len(why.strip())} characters; give 1 to {MAX_WHY}, it is kept with the event"
        )
    with store.transaction() as connection:
        for row in rows:
            blank = {
                "verdict": "undone",
                "ranks": "[]",
                "strengths": "[]",
                "flags": "[]",
                "all_bad": False,
                "reason": "",
            }
            times = {"shown_at": None, "first_action_at": None, "active_seconds": None}
            content = {**blank, **times, "display_order": row.display_order, "surplus": False}
            write_version(store, connection, row.task_id, row.annotator_id, content)
            if row.purpose == "label":
                give_up_slot(connection, row.task_id, row.annotator_id)
            versions = select(answers.c.id).where(
                answers.c.task_id == row.task_id, answers.c.annotator_id == row.annotator_id
            )
            for table in (texts, edits):
                _clear(connection, table, table.c.answer_id.in_(versions))
        if rows:
            payload = {"answers": [row.id for row in rows], "why": why.strip()}
            append(connection, "delete", actor, payload, store.clock())
    return len(rows)


def _clear(connection: Connection, table: Any, condition: ColumnElement[bool]) -> int:
    return connection.execute(delete(table).where(condition)).rowcount


def _leases(annotator_id: str) -> Any:
    shared = (slots.c.annotator_id == annotator_id, slots.c.status == "leased", slots.c.expires_at.is_not(None))
    return select(slots.c.task_id).where(*shared)
