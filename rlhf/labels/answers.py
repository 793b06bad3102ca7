"""Answers: checked, idempotent, append-only. Nothing that a person sent in good faith is thrown away."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from sqlalchemy import Connection, delete, insert, select

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, current_guidelines
from rlhf.labels.assignment import give_up_slot, latest_answer, take_slot
from rlhf.labels.events import answer_digest, append, text_digest
from rlhf.labels.schema import answers, canonical_json, drafts, tasks, texts
from rlhf.labels.store import Store, read_meta
from rlhf.records import Ranking

Verdict = Literal["ranked", "cannot_judge", "skipped"]
FLAGS = ("harmful", "false", "off_task", "refusal", "personal_data")
SKIP_REASONS = ("upsetting", "unfamiliar", "language", "broken", "other")
MAX_COMMENT = 4000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person's click sends. `ranks` and `flags` are in the order in which the responses were shown."""

    submission_id: str
    verdict: Verdict = "ranked"
    ranks: tuple[int, ...] = ()
    strengths: tuple[int, ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    all_bad: bool = False
    reason: str = ""
    comment: str = ""
    active_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission; `surplus` means stored, and not needed any more."""

    answer_id: int
    task_id: int
    version: int
    verdict: str
    surplus: bool
    repeated: bool


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
            return _receipt(known, repeated=True)
        draft = connection.execute(
            select(drafts).where(
                drafts.c.submission_id == submission.submission_id, drafts.c.annotator_id == annotator.id
            )
        ).first()
        if draft is None:
            raise LabelError("this task was not handed to you, or was answered in another tab; reload the page")
        connection.execute(delete(drafts).where(drafts.c.submission_id == submission.submission_id))
        content = _content(submission, json.loads(draft.display_order), annotator)
        row = {
            **content,
            "display_order": draft.display_order,
            "shown_at": draft.shown_at,
            "first_action_at": draft.first_action_at,
            "active_seconds": submission.active_seconds,
        }
        return store_answer(store, connection, draft.task_id, annotator, row, submission.comment)


def store_answer(
    store: Store, connection: Connection, task_id: int, annotator: Annotator, row: dict[str, Any], comment: str = ""
) -> Receipt:
    """Write a checked answer with its event, slot and free text, inside the open transaction."""
    now = store.clock()
    earlier = latest_answer(connection, task_id, annotator.id)
    nonce = secrets.token_hex(16)
    comment = comment.strip()
    row = {
        **row,
        "task_id": task_id,
        "annotator_id": annotator.id,
        "version": earlier.version + 1 if earlier else 1,
        "supersedes": earlier.id if earlier else None,
        "guidelines": current_guidelines(connection)[0] or None,
        "submitted_at": now,
        "surplus": not _fill_slot(connection, task_id, annotator.id, row["verdict"], now),
        "comment_digest": text_digest(read_meta(connection, "salt"), nonce, comment) if comment else "",
    }
    payload = {"task": task_id, "annotator": annotator.id, "version": row["version"], "digest": answer_digest(row)}
    row["event"] = append(connection, "answer", annotator.id, payload, now)
    answer_id = connection.execute(insert(answers).values(**row).returning(answers.c.id)).scalar_one()
    if comment:
        values = {"answer_id": answer_id, "annotator_id": annotator.id, "nonce": nonce, "text": comment}
        connection.execute(insert(texts).values(**values))
    return Receipt(answer_id, task_id, row["version"], row["verdict"], row["surplus"], repeated=False)


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
        .order_by(answers.c.submitted_at.desc(), answers.c.id.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [_past(row) for row in connection.execute(query)]


def to_candidates(order: Sequence[int], shown: Sequence[T]) -> list[T]:
    """Bring values from the order in which responses were shown into candidate order."""
    values = dict(zip(order, shown, strict=True))
    return [values[candidate] for candidate in range(len(order))]


def _fill_slot(connection: Connection, task_id: int, annotator_id: str, verdict: str, now: float) -> bool:
    """Settle the slot of an answer; return whether the answer counts."""
    if verdict == "skipped":
        give_up_slot(connection, task_id, annotator_id)
        return True
    state = connection.execute(select(tasks.c.state).where(tasks.c.id == task_id)).scalar_one()
    return state == "open" and take_slot(connection, task_id, annotator_id, now)


def _content(submission: Submission, order: list[int], annotator: Annotator) -> dict[str, Any]:
    """Check a submission; return its columns, in candidate order."""
    if submission.verdict not in get_args(Verdict):
        raise LabelError(f"verdict is {submission.verdict!r}; use one of {', '.join(get_args(Verdict))}")
    if submission.verdict == "skipped" and submission.reason not in SKIP_REASONS:
        raise LabelError(f"reason is {submission.reason!r}; a skip needs one of {', '.join(SKIP_REASONS)}")
    if submission.verdict != "skipped" and submission.reason:
        raise LabelError(f"reason is {submission.reason!r}; only a skip has a reason")
    if len(submission.comment) > MAX_COMMENT:
        raise LabelError(f"the comment has {len(submission.comment)} characters; use at most {MAX_COMMENT}")
    ranks, flags, strengths = [], [], []
    if submission.verdict == "ranked":
        ranks, flags, strengths = _ranking_content(submission, order, annotator)
    return {
        "submission_id": submission.submission_id,
        "verdict": submission.verdict,
        "ranks": canonical_json(ranks),
        "strengths": canonical_json(strengths),
        "flags": canonical_json(flags),
        "all_bad": submission.all_bad and submission.verdict == "ranked",
        "reason": submission.reason,
    }


def _ranking_content(submission: Submission, order: list[int], annotator: Annotator) -> tuple[list[int], Any, Any]:
    if len(submission.ranks) != len(order):
        raise LabelError(f"{len(submission.ranks)} ranks for {len(order)} responses; rank every response")
    if submission.flags and len(submission.flags) != len(order):
        raise LabelError(f"{len(submission.flags)} flag lists for {len(order)} responses")
    unknown = sorted({flag for entry in submission.flags for flag in entry} - set(FLAGS))
    if unknown:
        raise LabelError(f"flag is {unknown[0]!r}; use some of {', '.join(FLAGS)}")
    ranks = to_candidates(order, submission.ranks)
    # Flags are stored once each, in one order; [] for everything says that nothing was flagged.
    shown_flags = submission.flags or [()] * len(order)
    flags = [[flag for flag in FLAGS if flag in entry] for entry in to_candidates(order, shown_flags)]
    # The record's own checks hold for the store as well: ranks 1..m without gaps, one strength per step.
    Ranking("task", annotator.pseudonym, tuple(ranks), tuple(submission.strengths))
    return ranks, flags if any(flags) else [], list(submission.strengths)


def _receipt(row: Any, *, repeated: bool) -> Receipt:
    return Receipt(row.id, row.task_id, row.version, row.verdict, row.surplus, repeated)


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
