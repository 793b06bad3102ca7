"""The hash chain: every event carries the hash of the one before, so that a changed past shows."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Row, insert, select

from rlhf.errors import LabelError
from rlhf.labels.schema import answers, canonical_json, edits, events, tasks, texts
from rlhf.labels.store import Store

GENESIS = "0" * 64
SYSTEM = "system"

# What an answer's event vouches for; the surrogate key and the event's own number are not content.
ANSWER_CONTENT = [column.name for column in answers.c if column.name not in ("id", "event")]
# Columns that came later enter a digest only where they hold something, so that earlier digests stay true.
LATER_CONTENT = {"confidence", "edit_of", "edit_digest", "adjudicates"}


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the number of the last event (0: none yet) and its hash."""

    event: int
    hash: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of walking the chain."""

    head: Head
    answers: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def head(connection: Connection) -> Head:
    """Return the end of the chain."""
    row = connection.execute(select(events.c.seq, events.c.hash).order_by(events.c.seq.desc()).limit(1)).first()
    return Head(row.seq, row.hash) if row else Head(0, GENESIS)


def head_at(connection: Connection, number: int) -> Head:
    """Return the chain's state after event `number`.

    Raises:
        LabelError: There is no such event.
    """
    if number == 0:
        return Head(0, GENESIS)
    row = connection.execute(select(events.c.seq, events.c.hash).where(events.c.seq == number)).first()
    if row is None:
        raise LabelError(f"there is no event {number}; the last is {head(connection).event}")
    return Head(row.seq, row.hash)


def append(connection: Connection, kind: str, actor: str, payload: dict[str, Any], at: float) -> int:
    """Add an event inside the open write transaction; return its number."""
    last = head(connection)
    body = canonical_json(payload)
    number = last.event + 1
    row = {"seq": number, "at": at, "kind": kind, "actor": actor, "payload": body, "previous": last.hash}
    connection.execute(insert(events).values(**row, hash=_event_hash(row)))
    return number


def answer_digest(row: Any) -> str:
    """Return the digest of an answer's content, given its row as a mapping."""
    content = {name: row[name] for name in ANSWER_CONTENT if name not in LATER_CONTENT or row[name] is not None}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def text_digest(salt: str, nonce: str, text: str) -> str:
    """Return the digest that stands for a free text in the chain; without salt and nonce it tells nothing."""
    return hashlib.sha256(f"{salt}:{nonce}:{text}".encode()).hexdigest()


def task_hash(prompt: Any, responses: list[str]) -> str:
    """Return the content hash of a task: what an annotator reads, in candidate order."""
    return hashlib.sha256(canonical_json([prompt, responses]).encode()).hexdigest()


def verify(store: Store, against: Path | None = None) -> Verification:
    """Walk the chain and compare it with the answers, texts and tasks it vouches for.

    Whoever can write the file can also rewrite the whole chain. That shows only against a head hash kept
    elsewhere: `against` names an export's manifest (export.json).

    Raises:
        LabelError: The file given by `against` cannot be read.
    """
    earlier = read_head(against) if against else None
    with store.reading() as connection:
        rows = connection.execute(select(events).order_by(events.c.seq)).all()
        problems = _chain_problems(rows)
        vouched = {row.seq: _payload(row).get("digest") for row in rows if row.kind == "answer"}
        found = connection.execute(select(answers).order_by(answers.c.id)).mappings().all()
        problems += _answer_problems(vouched, found)
        problems += _text_problems(connection, store.salt())
        problems += _task_problems(connection, rows)
        hashes = {0: GENESIS, **{row.seq: row.hash for row in rows}}
        if earlier and earlier.event not in hashes:
            problems.append(
                f"{against} is as of event {earlier.event}, this history ends at {len(rows)}: the past was rewritten, or "
                "the manifest is another store's"
            )
        elif earlier and hashes[earlier.event] != earlier.hash:
            problems.append(
                f"event {earlier.event}: its hash differs from the one in {against}; the past was rewritten"
            )
        return Verification(head(connection), len(found), tuple(problems))


def read_head(path: Path) -> Head:
    """Read the head out of an export manifest.

    Raises:
        LabelError: The file is missing or holds no event number and hash.
    """
    if not path.is_file():
        raise LabelError(f"{path}: no such file; give the export.json of an earlier export")
    try:
        row: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        row = None
    fields = cast(dict[str, Any], row) if isinstance(row, dict) else {}
    event, head_hash = fields.get("event"), fields.get("head_hash")
    if type(event) is not int or event < 0 or not isinstance(head_hash, str):
        raise LabelError(f"{path}: not an export manifest; give the export.json of an earlier export")
    return Head(event, head_hash)


def _payload(row: Any) -> dict[str, Any]:
    """Return an event's payload, {} where tampering left something else."""
    try:
        payload: Any = json.loads(row.payload)
    except ValueError:
        return {}
    return cast(dict[str, Any], payload) if isinstance(payload, dict) else {}


def _event_hash(row: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()


def _chain_problems(rows: Any) -> list[str]:
    problems: list[str] = []
    previous = GENESIS
    for number, row in enumerate(rows, start=1):
        content = {name: getattr(row, name) for name in ("seq", "at", "kind", "actor", "payload", "previous")}
        if row.seq != number:
            problems.append(f"event {number} is missing (found {row.seq})")
            break
        if row.previous != previous:
            problems.append(f"event {number}: does not follow the event before it")
        if row.hash != _event_hash(content):
            problems.append(f"event {number}: its content was changed")
        previous = row.hash
    return problems


def _answer_problems(vouched: dict[int, Any], found: Any) -> list[str]:
    problems: list[str] = []
    for row in found:
        if row["event"] not in vouched:
            problems.append(f"answer {row['id']}: no event vouches for it")
        elif vouched.pop(row["event"]) != answer_digest(row):
            problems.append(f"answer {row['id']}: its content was changed")
    problems += [f"event {number}: its answer is gone" for number in vouched]
    return problems


def _text_problems(connection: Connection, salt: str) -> list[str]:
    problems: list[str] = []
    for table, digest in ((texts, answers.c.comment_digest), (edits, answers.c.edit_digest)):
        query = select(table, digest.label("digest")).join(answers, answers.c.id == table.c.answer_id)
        problems += [
            f"answer {row.answer_id}: its free text was changed"
            for row in connection.execute(query)
            if text_digest(salt, row.nonce, row.text) != row.digest
        ]
    return problems


def _task_problems(connection: Connection, rows: list[Row[Any]] | Any) -> list[str]:
    published = {
        (payload.get("round"), prompt_id, content)
        for payload in (_payload(row) for row in rows if row.kind in ("publish", "items"))
        for prompt_id, content in payload.get("tasks", [])
    }
    problems: list[str] = []
    for row in connection.execute(select(tasks)):
        if task_hash(json.loads(row.prompt), json.loads(row.responses)) != row.content_hash:
            problems.append(f"task {row.id} (prompt {row.prompt_id}): its texts were changed")
        elif (row.round, row.prompt_id, row.content_hash) not in published:
            problems.append(f"task {row.id} (prompt {row.prompt_id}): no event published it")
    return problems
