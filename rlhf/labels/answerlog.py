"""All answers of a store as columns, kept up to date by reading only what is new: answers are never changed.

300,000 answers take about 30 MB here, and a refresh reads the answers since the last one. What tasks hold is read once
per task: its texts' lengths, not the texts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from rlhf.labels.ranktable import Ints, Ranks
from rlhf.labels.schema import answers, tasks
from rlhf.records import MAX_CANDIDATES

VERDICTS = ("ranked", "cannot_judge", "skipped", "undone")
PURPOSES = ("label", "training", "gold", "repeat")
RANKED, CANNOT_JUDGE, UNDONE = (VERDICTS.index(name) for name in ("ranked", "cannot_judge", "undone"))
LABEL = PURPOSES.index("label")
NEVER = -1
CHUNK = 2000


@dataclass(slots=True)
class AnswerColumns:
    """One entry per version of an answer, in the order in which they were written.

    `seconds` is the time of work that the page reported, at most the time from showing to submitting; NaN where none
    is known. `ranks` hold 0 beyond a task's last candidate, `orders` -1.
    """

    task: Ints
    annotator: Ints
    verdict: NDArray[np.int8]
    surplus: NDArray[np.bool_]
    adjudicates: NDArray[np.bool_]
    ranks: Ranks
    orders: Ranks
    seconds: NDArray[np.float32]
    submitted_at: NDArray[np.float64]


@dataclass(slots=True)
class TaskColumns:
    """One entry per task id; ids that do not exist have round -1."""

    round: NDArray[np.int32]
    purpose: NDArray[np.int8]
    source: Ints
    characters: NDArray[np.int32]
    lengths: NDArray[np.int32]
    key: Ranks
    withdrawn: NDArray[np.bool_]


class AnswerLog:
    """The columns of a store's answers and tasks, as of an event; not safe to use from two threads at once."""

    def __init__(self) -> None:
        self.event = 0
        self.answers = AnswerColumns(*(_empty(AnswerColumns, 0)))
        self.tasks = TaskColumns(*(_empty(TaskColumns, 0)))
        self.annotators: dict[str, int] = {}
        self._last_task = 0

    def update(self, connection: Connection, event: int) -> None:
        """Read what was written up to `event`, the chain's end in this transaction."""
        if event == self.event:
            return
        self._read_tasks(connection)
        self._read_answers(connection, event)
        withdrawn = connection.execute(select(tasks.c.id).where(tasks.c.state == "withdrawn")).scalars().all()
        self.tasks.withdrawn = np.zeros(len(self.tasks.round), dtype=np.bool_)
        self.tasks.withdrawn[np.array(withdrawn, dtype=np.int64)] = True
        self.event = event

    def _read_tasks(self, connection: Connection) -> None:
        newest = connection.execute(select(func.max(tasks.c.id))).scalar() or 0
        if newest == self._last_task:
            return
        grown = TaskColumns(*(_empty(TaskColumns, newest + 1)))
        for entry in fields(TaskColumns):
            getattr(grown, entry.name)[: len(self.tasks.round)] = getattr(self.tasks, entry.name)
        columns = (tasks.c.id, tasks.c.round, tasks.c.purpose, tasks.c.source, tasks.c.key)
        query = select(*columns, tasks.c.prompt, tasks.c.responses).where(tasks.c.id > self._last_task)
        for row in connection.execute(query.order_by(tasks.c.id), execution_options={"yield_per": CHUNK}):
            lengths = [len(text) for text in json.loads(row.responses)]
            grown.round[row.id] = row.round
            grown.purpose[row.id] = PURPOSES.index(row.purpose)
            grown.source[row.id] = row.source or 0
            grown.characters[row.id] = _prompt_length(json.loads(row.prompt)) + sum(lengths)
            grown.lengths[row.id, : len(lengths)] = lengths
            key: list[int] = json.loads(row.key) if row.key else []
            grown.key[row.id, : len(key)] = key
        self.tasks, self._last_task = grown, newest

    def _read_answers(self, connection: Connection, event: int) -> None:
        columns = (
            answers.c.task_id,
            answers.c.annotator_id,
            answers.c.verdict,
            answers.c.surplus,
            answers.c.adjudicates,
        )
        work = (answers.c.active_seconds, answers.c.shown_at, answers.c.submitted_at)
        query = (
            select(*columns, answers.c.ranks, answers.c.display_order, *work)
            .where(answers.c.event > self.event, answers.c.event <= event)
            .order_by(answers.c.event)
        )
        ranks, orders = _parser(0), _parser(-1)
        parts = [self.answers]
        result = connection.execute(query, execution_options={"yield_per": CHUNK})
        for rows in result.partitions(CHUNK):
            parts.append(self._columns(rows, ranks, orders))
        if len(parts) > 1:
            joined = (np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(AnswerColumns))
            self.answers = AnswerColumns(*joined)

    def _columns(
        self, rows: Sequence[Any], ranks: Callable[[str], bytes], orders: Callable[[str], bytes]
    ) -> AnswerColumns:
        known = self.annotators
        return AnswerColumns(
            task=np.array([row.task_id for row in rows], dtype=np.int64),
            annotator=np.array([known.setdefault(row.annotator_id, len(known)) for row in rows], dtype=np.int64),
            verdict=np.array([VERDICTS.index(row.verdict) for row in rows], dtype=np.int8),
            surplus=np.array([row.surplus for row in rows], dtype=np.bool_),
            adjudicates=np.array([bool(row.adjudicates) for row in rows], dtype=np.bool_),
            ranks=_joined([ranks(row.ranks) for row in rows]),
            orders=_joined([orders(row.display_order) for row in rows]),
            seconds=np.array([_seconds(row) for row in rows], dtype=np.float32),
            submitted_at=np.array([row.submitted_at for row in rows], dtype=np.float64),
        )


def current_rows(columns: AnswerColumns, rows: NDArray[np.bool_]) -> Ints:
    """Return, of some rows, the last of each task and annotator."""
    return np.sort(_unique_rows(columns, np.flatnonzero(rows)[::-1]))


def first_rows(columns: AnswerColumns, rows: NDArray[np.bool_]) -> Ints:
    """Return, of some rows, the first of each task and annotator."""
    return np.sort(_unique_rows(columns, np.flatnonzero(rows)))


def _unique_rows(columns: AnswerColumns, places: Ints) -> Ints:
    pairs = columns.task[places] * (int(columns.annotator.max(initial=0)) + 1) + columns.annotator[places]
    return places[np.unique(pairs, return_index=True)[1]]


def _empty(kind: type[AnswerColumns] | type[TaskColumns], size: int) -> list[Any]:
    shapes: dict[str, tuple[Any, Any]] = {
        "verdict": (np.int8, 0),
        "surplus": (np.bool_, False),
        "adjudicates": (np.bool_, False),
        "seconds": (np.float32, np.nan),
        "submitted_at": (np.float64, 0.0),
        "round": (np.int32, NEVER),
        "purpose": (np.int8, NEVER),
        "characters": (np.int32, 0),
        "withdrawn": (np.bool_, False),
    }
    wide: dict[str, tuple[Any, Any]] = {
        "ranks": (np.int8, 0),
        "orders": (np.int8, -1),
        "lengths": (np.int32, 0),
        "key": (np.int8, 0),
    }
    made: list[Any] = []
    for entry in fields(kind):
        if entry.name in wide:
            made.append(np.full((size, MAX_CANDIDATES), wide[entry.name][1], dtype=wide[entry.name][0]))
        else:
            dtype, value = shapes.get(entry.name, (np.int64, 0))
            made.append(np.full(size, value, dtype=dtype))
    return made


def _parser(filler: int) -> Callable[[str], bytes]:
    """Return a function from JSON lists of small numbers to bytes of one width; equal texts are parsed once."""
    known: dict[str, bytes] = {}

    def parse(text: str) -> bytes:
        found = known.get(text)
        if found is None:
            values: list[int] = json.loads(text)
            padded = values + [filler] * (MAX_CANDIDATES - len(values))
            found = known[text] = np.array(padded, dtype=np.int8).tobytes()
        return found

    return parse


def _joined(parts: list[bytes]) -> Ranks:
    return np.frombuffer(b"".join(parts), dtype=np.int8).reshape(-1, MAX_CANDIDATES)


def _prompt_length(prompt: Any) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)


def _seconds(row: Any) -> float:
    """Return the seconds of work: what the page says, but no more than went by."""
    if row.active_seconds is None:
        return np.nan
    return row.active_seconds if row.shown_at is None else min(row.active_seconds, row.submitted_at - row.shown_at)
