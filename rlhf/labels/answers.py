"""Answers: checked, idempotent, append-only. Nothing that a person sent in good faith is thrown away."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, current_guidelines
from rlhf.labels.disputes import add_annotator_where_disputed
from rlhf.labels.drafts import TaskView, keep_as_draft, latest_answer, read_view
from rlhf.labels.events import answer_digest, append, text_digest
from rlhf.labels.items import key_as_shown, rank_agreement
from rlhf.labels.schema import answers, canonical_json, drafts, edits, slots, tasks, texts
from rlhf.labels.slots import give_up_slot, lease_again, take_slot
from rlhf.labels.store import Store, read_meta
from rlhf.labels.submissions import MAX_COMMENT, Submission, submission_columns
from rlhf.records import Ranking

UNDO_S = 60
"""Seconds after a submit in which it can be taken back."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a training item teaches: the right ranks as shown, why, and how many pairs were ordered like that."""

    ranks: tuple[int, ...]
    explanation: str
    agreement: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission; `surplus` means stored, and not needed any more."""

    answer_id: int
    task_id: int
    version: int
    verdict: str
    surplus: bool
    repeated: bool
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """One line of an annotator's own history."""

    task_id: int
    version: int
    verdict: str
    submitted_at: float
    surplus: bool
    excerpt: str
    ranks: tuple[int, ...]


def submit(store: Store, annotator: Annotator, submission: Submission) -> Receipt:
    """Store an answer; the same submission again returns the first result.

    The answer counts if the annotator holds a slot or a free one is left; otherwise it is kept as surplus. An
    answer to a task that was answered before is a new version. A skip gives the slot back.

    Raises:
        LabelError: The task was not handed to this annotator, or the verdict, reason or flags are unknown.
        DataError: The ranks, strengths or flags do not fit the task.
    """
    with store.transaction() as connection:
        known = connection.execute(select(answers).where(answers.c.submission_id == submission.submission_id)).first()
        if known is not None:
            if known.annotator_id != annotator.id:
                raise LabelError("this submission belongs to somebody else; reload the page")
            return _receipt(connection, known, repeated=True)
        draft = connection.execute(
            select(drafts).where(
                drafts.c.submission_id == submission.submission_id, drafts.c.annotator_id == annotator.id
            )
        ).first()
        if draft is None:
            raise LabelError("this task was not handed to you, or was answered in another tab; reload the page")
        connection.execute(delete(drafts).where(drafts.c.submission_id == submission.submission_id))
        content = submission_columns(submission, json.loads(draft.display_order), annotator)
        row = {
            **content,
            "display_order": draft.display_order,
            "shown_at": draft.shown_at,
            "first_action_at": draft.first_action_at,
            "active_seconds": submission.active_seconds,
        }
        written = {"comment": submission.comment, "edit": submission.edit}
        return store_answer(store, connection, draft.task_id, annotator, row, **written)


def store_answer(
    store: Store,
    connection: Connection,
    task_id: int,
    annotator: Annotator,
    row: dict[str, Any],
    comment: str = "",
    edit: str = "",
) -> Receipt:
    """Write a checked answer with its event, slot and free texts, inside the open transaction."""
    now = store.clock()
    purpose = connection.execute(select(tasks.c.purpose).where(tasks.c.id == task_id)).scalar_one()
    counts = _fill_slot(connection, task_id, annotator.id, row["verdict"], purpose, now)
    answer = write_version(store, connection, task_id, annotator.id, {**row, "surplus": not counts}, comment, edit)
    if counts and purpose == "label" and row["verdict"] == "ranked":
        add_annotator_where_disputed(store, connection, task_id)
    return _receipt(connection, answer, repeated=False)


def undo(store: Store, annotator: Annotator, task_id: int) -> TaskView:
    """Take the annotator's latest answer to a task back; it becomes his draft again.

    The answer stays in the history. Where it corrected an earlier one, that one counts again; otherwise a version
    with the verdict "undone" says that none does, and the task is in his hands again.

    Raises:
        LabelError: There is nothing to take back, more than `UNDO_S` seconds have passed, it was a training item, or the
            task went to somebody else meanwhile.
    """
    with store.transaction() as connection:
        now = store.clock()
        latest = latest_answer(connection, task_id, annotator.id)
        task = connection.execute(select(tasks.c.purpose, tasks.c.state).where(tasks.c.id == task_id)).first()
        if latest is None or task is None or latest.verdict == "undone" or latest.adjudicates:
            raise LabelError("there is no answer of yours to take back; reload the page")
        if now - latest.submitted_at > UNDO_S:
            raise LabelError(f"an answer can be taken back for {UNDO_S} seconds; open it under My work to correct it")
        if task.purpose == "training":
            raise LabelError("a training answer cannot be taken back: its key was shown")
        earlier = _answer_before(connection, latest)
        if earlier is not None:
            texts_before = (_text_of(connection, table, earlier.id) for table in (texts, edits))
            row = {name: getattr(earlier, name) for name in _CONTENT} | {"surplus": earlier.surplus}
            write_version(store, connection, task_id, annotator.id, row, *texts_before)
        else:
            if task.state != "open" or not lease_again(connection, task_id, annotator.id, now):
                raise LabelError("somebody else has this task now; your answer stays as it was")
            blank = {
                "verdict": "undone",
                "ranks": "[]",
                "strengths": "[]",
                "flags": "[]",
                "all_bad": False,
                "reason": "",
            }
            times = {"shown_at": latest.shown_at, "first_action_at": latest.first_action_at, "active_seconds": None}
            row = {**blank, **times, "display_order": latest.display_order, "surplus": False}
            write_version(store, connection, task_id, annotator.id, row)
        # A correction that was begun meanwhile gives way to the answer itself.
        connection.execute(delete(drafts).where(drafts.c.task_id == task_id, drafts.c.annotator_id == annotator.id))
        keep_as_draft(connection, latest, now)
        _keep_seconds(connection, latest)
        return read_view(connection, task_id, annotator.id)


def adjudicate(store: Store, manager: Annotator, task_id: int, ranks: Sequence[int], comment: str = "") -> Receipt:
    """Store a manager's decision on a disputed task: it stands in place of all rankings of the task.

    Args:
        store: The store.
        manager: Who decides.
        task_id: The task.
        ranks: By candidate; 1 is best.
        comment: Why.

    Raises:
        LabelError: The person may not decide, the task is no shared task in use, or the comment is too long.
        DataError: The ranks do not fit.
    """
    if manager.role not in ("manager", "admin"):
        raise LabelError(f"{manager.pseudonym} is {manager.role}; deciding takes a manager")
    if len(comment) > MAX_COMMENT:
        raise LabelError(f"the comment has {len(comment)} characters; use at most {MAX_COMMENT}")
    with store.transaction() as connection:
        task = connection.execute(select(tasks).where(tasks.c.id == task_id, tasks.c.purpose == "label")).first()
        if task is None or task.state == "withdrawn":
            raise LabelError(f"there is no task {task_id} to decide; reload the page")
        if len(ranks) != task.candidate_count:
            raise LabelError(f"{len(ranks)} ranks for {task.candidate_count} responses; rank every response")
        Ranking("task", manager.pseudonym, tuple(ranks))
        row = {
            "verdict": "ranked",
            "ranks": canonical_json(list(ranks)),
            "strengths": "[]",
            "flags": "[]",
            "all_bad": False,
            "reason": "",
            "display_order": canonical_json(list(range(task.candidate_count))),
            "shown_at": None,
            "first_action_at": None,
            "active_seconds": None,
            "adjudicates": True,
            "surplus": False,
        }
        return _receipt(connection, write_version(store, connection, task_id, manager.id, row, comment), repeated=False)


def history(store: Store, annotator: Annotator, *, limit: int = 50) -> list[PastAnswer]:
    """Return the annotator's own latest answers, newest first, one per task."""
    newest = answers.alias("newest")
    later = select(newest.c.id).where(
        newest.c.task_id == answers.c.task_id,
        newest.c.annotator_id == answers.c.annotator_id,
        newest.c.version > answers.c.version,
    )
    query = (
        select(answers, tasks.c.prompt)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .where(answers.c.annotator_id == annotator.id, ~later.exists(), tasks.c.state != "withdrawn")
        .where(answers.c.verdict != "undone", answers.c.adjudicates.is_(None), tasks.c.purpose != "training")
        .order_by(answers.c.submitted_at.desc(), answers.c.id.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [_past(row) for row in connection.execute(query)]


# The columns that hold what an annotator said and how, which a new version may take over from an earlier one.
_CONTENT = (
    "verdict", "ranks", "strengths", "flags", "all_bad", "reason", "display_order", "shown_at", "first_action_at",
    "active_seconds", "confidence", "edit_of",
)  # fmt: skip


def write_version(
    store: Store,
    connection: Connection,
    task_id: int,
    annotator_id: str,
    row: dict[str, Any],
    comment: str = "",
    edit: str = "",
) -> Any:
    """Write the next version of an annotator's answer to a task, with its event and free texts; return its row."""
    now = store.clock()
    earlier = latest_answer(connection, task_id, annotator_id)
    written = {texts: comment.strip(), edits: edit.strip()}
    nonces = {table: secrets.token_hex(16) for table, text in written.items() if text}
    salt = read_meta(connection, "salt")
    digests = {table: text_digest(salt, nonce, written[table]) for table, nonce in nonces.items()}
    row = {
        "submission_id": secrets.token_hex(16),
        "confidence": None,
        "edit_of": None,
        "adjudicates": None,
        **row,
        "task_id": task_id,
        "annotator_id": annotator_id,
        "version": earlier.version + 1 if earlier else 1,
        "supersedes": earlier.id if earlier else None,
        "guidelines": current_guidelines(connection)[0] or None,
        "submitted_at": now,
        "comment_digest": digests.get(texts, ""),
        "edit_digest": digests.get(edits),
    }
    payload = {"task": task_id, "annotator": annotator_id, "version": row["version"], "digest": answer_digest(row)}
    row["event"] = append(connection, "answer", annotator_id, payload, now)
    answer = connection.execute(insert(answers).values(**row).returning(answers)).one()
    for table, nonce in nonces.items():
        values = {"answer_id": answer.id, "annotator_id": annotator_id, "nonce": nonce, "text": written[table]}
        connection.execute(insert(table).values(**values))
    return answer


def _answer_before(connection: Connection, answer: Any) -> Any:
    """Return the version that an answer superseded, None where there is none or it was taken back."""
    if answer.supersedes is None:
        return None
    row = connection.execute(select(answers).where(answers.c.id == answer.supersedes)).one()
    return None if row.verdict == "undone" else row


def _text_of(connection: Connection, table: Table, answer_id: int) -> str:
    return connection.execute(select(table.c.text).where(table.c.answer_id == answer_id)).scalar() or ""


def _keep_seconds(connection: Connection, answer: Any) -> None:
    """Let the clock of a draft go on from where the answer's stopped."""
    mine = (drafts.c.task_id == answer.task_id, drafts.c.annotator_id == answer.annotator_id)
    values = {"active_seconds": answer.active_seconds or 0.0, "first_action_at": answer.first_action_at}
    connection.execute(update(drafts).where(*mine).values(**values))


def _fill_slot(connection: Connection, task_id: int, annotator_id: str, verdict: str, purpose: str, now: float) -> bool:
    """Settle the slot of an answer; return whether the answer counts."""
    if purpose == "label" and verdict == "skipped":
        give_up_slot(connection, task_id, annotator_id)
        return True
    if purpose != "label":
        mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
        connection.execute(update(slots).where(*mine).values(status="done"))
        return True
    state = connection.execute(select(tasks.c.state).where(tasks.c.id == task_id)).scalar_one()
    return state == "open" and take_slot(connection, task_id, annotator_id, now)


def _receipt(connection: Connection, row: Any, *, repeated: bool) -> Receipt:
    feedback = _feedback(connection, row)
    return Receipt(row.id, row.task_id, row.version, row.verdict, row.surplus, repeated, feedback)


def _feedback(connection: Connection, row: Any) -> Feedback | None:
    """Return what a training item teaches; None for all others."""
    query = select(tasks.c.key, tasks.c.explanation).where(tasks.c.id == row.task_id, tasks.c.purpose == "training")
    task = connection.execute(query).first()
    if task is None:
        return None
    key: list[int] = json.loads(task.key)
    ranks: list[int] = json.loads(row.ranks)
    agreement = rank_agreement(key, ranks) if ranks else 0.0
    return Feedback(key_as_shown(task, json.loads(row.display_order)), task.explanation or "", agreement)


def _past(row: Any) -> PastAnswer:
    prompt = json.loads(row.prompt)
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    ranks, order = json.loads(row.ranks), json.loads(row.display_order)
    return PastAnswer(
        task_id=row.task_id,
        version=row.version,
        verdict=row.verdict,
        submitted_at=row.submitted_at,
        surplus=row.surplus,
        excerpt=" ".join(text.split())[:140],
        ranks=tuple(ranks[candidate] for candidate in order) if ranks else (),
    )
