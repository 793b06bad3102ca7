"""Export and import of rankings. An export is a pure function of the database at an event: same event, same bytes.

Which tasks are in use at an event, the publications up to it say, and which answer of a person counts, its versions up to
it. Only texts that were erased since are missing: they go to a file of their own.
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from rlhf.data.judgements import Columns
from rlhf.data.rankings import import_rankings as read_rankings
from rlhf.errors import DataError, LabelError, report_all
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import store_answer
from rlhf.labels.events import SYSTEM, append, head, head_at
from rlhf.labels.publishing import PURPOSE, current_answer_ids, published_sets
from rlhf.labels.schema import annotators, answers, canonical_json, edits, events, slots, tasks, texts
from rlhf.labels.slots import add_slot
from rlhf.labels.store import Store
from rlhf.labels.submissions import FLAGS
from rlhf.records import Ranking, to_json

RANKINGS_FILE, TEXTS_FILE, MANIFEST_FILE = "rankings.jsonl", "texts.jsonl", "export.json"
CONTENT = "the latest ranking of every annotator of every published task; no skips, surplus, training, gold or repeats"


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """Names the data of an export exactly; `event` and `head_hash` are what `verify` can be held against.

    `content` says in words which answers are in it; `sha256` is the hash of the rankings, `texts_sha256` that of what
    people wrote, which an erasure changes.
    """

    round: int
    event: int
    head_hash: str
    sha256: str
    rankings: int
    prompts: int
    annotators: int
    kinds: dict[str, int]
    adjudicated: int
    texts_sha256: str
    content: str = CONTENT


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did; `known` rankings had been imported before, `dropped` were left out, by reason."""

    rankings: int
    known: int
    dropped: dict[str, int] = field(default_factory=dict[str, int])


def read_export(store: Store, *, round: int = 0, event: int | None = None) -> tuple[list[Ranking], ExportManifest]:
    """Return the rankings of a round that count, as of an event (default: the last), and what names them.

    They are ordered by prompt, then pseudonym. Skips, "cannot judge", surplus and withdrawn tasks stay out, and so do
    training, gold and repeat items.

    Raises:
        LabelError: There is no such event.
    """
    rankings, _, manifest = _read(store, round, event)
    return rankings, manifest


def export_rankings(store: Store, folder: Path, *, round: int = 0, event: int | None = None) -> ExportManifest:
    """Write rankings.jsonl, texts.jsonl and export.json into an existing folder; return the manifest."""
    rankings, written, manifest = _read(store, round, event)
    (folder / RANKINGS_FILE).write_bytes(export_bytes(rankings))
    (folder / TEXTS_FILE).write_bytes(_text_bytes(written))
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return manifest


def _read(store: Store, round: int, event: int | None) -> tuple[list[Ranking], list[dict[str, Any]], ExportManifest]:
    with store.reading() as connection:
        state = head(connection) if event is None else head_at(connection, event)
        in_use = _published_at(connection, round, state.event)
        query = (
            select(answers, tasks.c.prompt_id, tasks.c.content_hash, annotators.c.pseudonym, annotators.c.kind)
            .add_columns(texts.c.text.label("comment"), edits.c.text.label("edit"))
            .join(tasks, tasks.c.id == answers.c.task_id)
            .join(annotators, annotators.c.id == answers.c.annotator_id)
            .join(texts, texts.c.answer_id == answers.c.id, isouter=True)
            .join(edits, edits.c.answer_id == answers.c.id, isouter=True)
            .where(answers.c.id.in_(current_answer_ids(state.event)), answers.c.verdict == "ranked")
            .where(tasks.c.round == round, tasks.c.purpose == PURPOSE)
        )
        rows = [row for row in connection.execute(query) if (row.prompt_id, row.content_hash) in in_use]
    # In Python: databases sort text by rules of their own.
    rows.sort(key=lambda row: (row.prompt_id, row.pseudonym))
    rankings = [_ranking(row) for row in rows]
    written = [_written(row) for row in rows if row.comment or row.edit]
    manifest = ExportManifest(
        round=round,
        event=state.event,
        head_hash=state.hash,
        sha256=hashlib.sha256(export_bytes(rankings)).hexdigest(),
        rankings=len(rankings),
        prompts=len({item.prompt_id for item in rankings}),
        annotators=len({item.annotator for item in rankings}),
        kinds=dict(sorted(Counter(item.kind for item in rankings).items())),
        adjudicated=sum(item.adjudicated for item in rankings),
        texts_sha256=hashlib.sha256(_text_bytes(written)).hexdigest(),
    )
    return rankings, written, manifest


def _published_at(connection: Connection, round: int, event: int) -> set[tuple[str, str]]:
    """Return (prompt id, content hash) of the tasks that the last publication of a round, as of an event, has in use."""
    query = select(events.c.payload).where(events.c.kind == "publish", events.c.seq <= event)
    for payload in connection.execute(query.order_by(events.c.seq.desc())).scalars():
        content = json.loads(payload)
        if content["round"] == round:
            return {(prompt_id, digest) for prompt_id, digest in content["tasks"]}
    return set()


def export_bytes(rankings: list[Ranking]) -> bytes:
    """Return the rankings as JSON lines, byte for byte the same for equal rankings."""
    return "".join(json.dumps(to_json(item), ensure_ascii=False) + "\n" for item in rankings).encode()


def _text_bytes(written: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written).encode()


def import_rankings(store: Store, path: Path, *, round: int = 0, columns: Columns | None = None) -> Imported:
    """Take the rankings of a file into a published round; importing the same file again changes nothing.

    Annotators get pseudonyms of their own; scripted rankings stay marked as scripted, all others become
    `imported`. Where a task has fewer slots than the file has rankings for it, slots are added.

    Raises:
        DataError: Lists each bad line.
        LabelError: The round was not published.
    """
    with store.transaction() as connection:
        published = {row.prompt_id: row for row in _published(connection, round)}
        if not published:
            raise LabelError(f"{store.place}: round {round} has no tasks; publish the candidates first")
        found = read_rankings(path, published_sets(store, round), columns)
        rankings, dropped = found.records, dict(found.dropped)
        _require_known_flags(path, rankings)
        known = set(connection.execute(select(answers.c.submission_id)).scalars())
        fresh = [item for item in rankings if _import_id(round, item) not in known]
        if not fresh:
            return Imported(0, len(rankings), dropped)
        payload = {"round": round, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rankings": len(fresh)}
        append(connection, "import", SYSTEM, payload, store.clock())
        for item in fresh:
            _import_one(store, connection, published[item.prompt_id], item, round)
        return Imported(len(fresh), len(rankings) - len(fresh), dropped)


def _ranking(row: Any) -> Ranking:
    return Ranking(
        prompt_id=row.prompt_id,
        annotator=row.pseudonym,
        ranks=tuple(json.loads(row.ranks)),
        strengths=tuple(json.loads(row.strengths)),
        flags=tuple(tuple(entry) for entry in json.loads(row.flags)),
        all_bad=row.all_bad,
        kind=row.kind,
        display_order=tuple(json.loads(row.display_order)),
        seconds=row.active_seconds,
        answer_id=f"a-{row.id}",
        confidence=row.confidence,
        adjudicated=bool(row.adjudicates),
    )


def _written(row: Any) -> dict[str, Any]:
    """Return what a person wrote with an answer: why, and a better response that began as candidate `edit_of`."""
    facts = {"answer_id": f"a-{row.id}", "prompt_id": row.prompt_id, "annotator": row.pseudonym}
    return {**facts, "comment": row.comment or "", "edit_of": row.edit_of, "edit": row.edit or ""}


def _require_known_flags(path: Path, rankings: list[Ranking]) -> None:
    used = {flag: item.prompt_id for item in rankings for entry in item.flags for flag in entry}
    problems = [
        f"prompt {used[flag]}: flag is {flag!r}; use some of {', '.join(FLAGS)}" for flag in used if flag not in FLAGS
    ]
    report_all(DataError, problems, f"{path}: {len(problems)} unknown flags")


def _published(connection: Connection, round: int) -> Any:
    return connection.execute(
        select(tasks).where(tasks.c.round == round, tasks.c.purpose == PURPOSE, tasks.c.state != "withdrawn")
    ).all()


def _import_id(round: int, ranking: Ranking) -> str:
    content = canonical_json([round, to_json(ranking)])
    return "import-" + hashlib.sha256(content.encode()).hexdigest()


def _import_one(store: Store, connection: Connection, task: Any, ranking: Ranking, round: int) -> None:
    kind = "scripted" if ranking.kind == "scripted" else "imported"
    annotator = ensure_annotator(store, ranking.annotator, kind)
    order = list(ranking.display_order or range(len(ranking.ranks)))
    flags = [[flag for flag in FLAGS if flag in entry] for entry in ranking.flags]
    row = {
        "submission_id": _import_id(round, ranking),
        "verdict": "ranked",
        "ranks": canonical_json(list(ranking.ranks)),
        "strengths": canonical_json(list(ranking.strengths)),
        "flags": canonical_json(flags if any(flags) else []),
        "all_bad": ranking.all_bad,
        "reason": "",
        "display_order": canonical_json(order),
        "shown_at": None,
        "first_action_at": None,
        "active_seconds": ranking.seconds,
        "confidence": ranking.confidence,
        "adjudicates": True if ranking.adjudicated else None,
    }
    _make_room(connection, task, annotator.id)
    store_answer(store, connection, task.id, annotator, row)


def _make_room(connection: Connection, task: Any, annotator_id: str) -> None:
    """Add a slot where none is free and the annotator holds none."""
    rows = connection.execute(select(slots).where(slots.c.task_id == task.id)).all()
    if not any(row.status == "free" or row.annotator_id == annotator_id for row in rows):
        add_slot(connection, task, len(rows))
