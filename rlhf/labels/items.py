"""Items that measure or teach annotators: training with feedback, gold items with a known answer, repeats.

Training items come before an annotator's first task and tell him afterwards what the key says. Gold items (the answer is
known) and repeats (a task that he ranked before, in another order) look like any task. None of them enters an export.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, exists, func, insert, literal_column, select, update

from rlhf.errors import DataError, LabelError, report_all
from rlhf.jsonl import read_rows
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.publishing import round_row, task_row
from rlhf.labels.schema import answers, canonical_json, slots, tasks
from rlhf.labels.slots import display_orders
from rlhf.labels.store import Store
from rlhf.records import MAX_SHOWN, CandidateSet, Ranking, from_json

KnownPurpose = Literal["training", "gold"]
REPEAT_AFTER = 10
"""Answers between a task and its repeat."""
MAX_EXPLANATION = 4000


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A candidate set with its right order: `ranks[i]` of candidate i, 1 is best; `explanation` is shown in training."""

    candidates: CandidateSet
    ranks: tuple[int, ...]
    explanation: str = ""


def read_known(path: Path) -> list[KnownItem]:
    """Read training or gold items: JSON lines of a candidate set with `ranks` and, if wanted, `explanation`.

    Raises:
        DataError: Lists each bad line.
    """
    items: list[KnownItem] = []
    problems: list[str] = []
    lines: dict[tuple[Any, ...], int] = {}
    for number, row in read_rows(path):
        try:
            item = _known_item(row)
            content = (item.candidates.prompt_id, item.candidates.prompt, item.candidates.responses)
            if lines.setdefault(content, number) != number:
                raise DataError(f"the same item as in line {lines[content]}; keep one")
            items.append(item)
        except DataError as error:
            problems.append(f"{path.name} line {number}: {error}")
    report_all(DataError, problems, f"{path}: {len(problems)} bad items")
    return items


def publish_known(store: Store, items: Sequence[KnownItem], *, purpose: KnownPurpose, round: int = 0) -> int:
    """Make `items` the training or gold items of a round, in this order; return how many are new.

    Items that are not in the list any more are withdrawn; what people answered stays in the store.
    """
    with store.transaction() as connection:
        seed = _seed(connection, store, round)
        same = (tasks.c.round == round, tasks.c.purpose == purpose)
        known = {
            (row.prompt_id, row.content_hash): row.id
            for row in connection.execute(select(tasks.c.id, tasks.c.prompt_id, tasks.c.content_hash).where(*same))
        }
        rows: list[dict[str, Any]] = []
        for position, item in enumerate(items):
            key = canonical_json(list(item.ranks))
            facts = {"position": position, "key": key, "explanation": item.explanation, "state": "open"}
            rows.append(task_row(item.candidates, round, seed, purpose) | facts)
        new = [row for row in rows if (row["prompt_id"], row["content_hash"]) not in known]
        connection.execute(update(tasks).where(*same).values(state="withdrawn"))
        again = [
            {"task": known[key], "place": row["position"], "right": row["key"], "why": row["explanation"]}
            for row in rows
            if (key := (row["prompt_id"], row["content_hash"])) in known
        ]
        if again:
            values: dict[str, Any] = {
                "position": bindparam("place"),
                "key": bindparam("right"),
                "explanation": bindparam("why"),
            }
            connection.execute(
                update(tasks).where(tasks.c.id == bindparam("task")).values(state="open", **values), again
            )
        if new:
            content = [[row["prompt_id"], row["content_hash"]] for row in new]
            append(connection, "items", SYSTEM, {"round": round, "purpose": purpose, "tasks": content}, store.clock())
            connection.execute(insert(tasks), [{**row, "published_at": store.clock()} for row in new])
        return len(new)


def hand_out_training(
    connection: Connection, annotator_id: str, round: int | None, now: float
) -> tuple[int, str] | None:
    """Return the next training item and the order in which to show it, None where all are done."""
    row = connection.execute(_unseen("training", annotator_id, round).limit(1)).first()
    return None if row is None else (row.id, _own_slot(connection, row, annotator_id))


def training_left(connection: Connection, annotator_id: str, round: int | None) -> int:
    """Return how many training items the annotator has not answered."""
    unseen = _unseen("training", annotator_id, round).order_by(None).subquery()
    open_ones = (
        select(func.count())
        .select_from(slots)
        .join(tasks)
        .where(slots.c.annotator_id == annotator_id, slots.c.status == "leased", tasks.c.purpose == "training")
    )
    if round is not None:
        open_ones = open_ones.where(tasks.c.round == round)
    left = connection.execute(select(func.count()).select_from(unseen)).scalar_one()
    return left + connection.execute(open_ones).scalar_one()


def hand_out_unseen(connection: Connection, annotator_id: str, round: int | None, now: float) -> tuple[int, str] | None:
    """Return a gold or repeat item and its order, where the annotator's turn for one has come.

    Whether it has is drawn from the round's seed, the annotator and the number of his answers: the same whenever asked.
    """
    settings = None if round is None else round_row(connection, round)
    if settings is None or settings.gold_share + settings.repeat_share == 0:
        return None
    given = (
        select(func.count(answers.c.task_id.distinct()))
        .join(tasks)
        .where(answers.c.annotator_id == annotator_id, tasks.c.round == round, tasks.c.purpose != "training")
    )
    number = connection.execute(given).scalar_one()
    draw = _draw(settings.seed, annotator_id, number)
    if draw < settings.gold_share:
        row = connection.execute(_unseen("gold", annotator_id, round).limit(1)).first()
        return None if row is None else (row.id, _own_slot(connection, row, annotator_id))
    if draw < settings.gold_share + settings.repeat_share:
        return _make_repeat(connection, annotator_id, settings, now)
    return None


def key_as_shown(task: Any, order: Sequence[int]) -> tuple[int, ...]:
    """Return the known ranks of an item in the order in which its responses were shown."""
    key: list[int] = json.loads(task.key)
    return tuple(key[candidate] for candidate in order)


def rank_agreement(one: Sequence[int], two: Sequence[int]) -> float:
    """Return how alike two rankings order their pairs: alike 1, a tie against an order 1/2, opposite 0; the mean."""
    total = count = 0.0
    for second in range(len(one)):
        for first in range(second):
            a = (one[second] > one[first]) - (one[second] < one[first])
            b = (two[second] > two[first]) - (two[second] < two[first])
            total += 1 - abs(a - b) / 2
            count += 1
    return total / count


def _known_item(row: Any) -> KnownItem:
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, found {type(row).__name__}")
    values: dict[str, Any] = dict(row)  # pyright: ignore[reportUnknownArgumentType]
    ranks, explanation = values.pop("ranks", None), values.pop("explanation", "")
    candidates = from_json(CandidateSet, values)
    if len(candidates.responses) > MAX_SHOWN:
        raise DataError(f"{len(candidates.responses)} candidates; people rank at most {MAX_SHOWN}")
    if ranks is None:
        raise DataError("no ranks: give the right order, such as [1, 3, 2]")
    if not isinstance(explanation, str) or len(explanation) > MAX_EXPLANATION:
        raise DataError(f"explanation is no text of at most {MAX_EXPLANATION} characters")
    key = Ranking(candidates.prompt_id, "key", ranks)
    if len(key.ranks) != len(candidates.responses):
        raise DataError(f"{len(key.ranks)} ranks for {len(candidates.responses)} responses")
    return KnownItem(candidates, key.ranks, explanation)


def _seed(connection: Connection, store: Store, round: int) -> int:
    settings = round_row(connection, round)
    if settings is None:
        raise LabelError(f"{store.place}: round {round} has no tasks; publish the candidates first")
    return settings.seed


def _unseen(purpose: str, annotator_id: str, round: int | None) -> Any:
    mine = exists().where(slots.c.task_id == tasks.c.id, slots.c.annotator_id == annotator_id)
    # The second condition says nothing new; it tells the planner that the index of items will do.
    is_item = tasks.c.purpose != literal_column("'label'")
    query = select(tasks).where(tasks.c.purpose == purpose, is_item, tasks.c.state == "open", ~mine)
    query = query if round is None else query.where(tasks.c.round == round)
    return query.order_by(tasks.c.round, tasks.c.position, tasks.c.id)


def _own_slot(connection: Connection, task: Any, annotator_id: str) -> str:
    """Make a slot of an item for one annotator; it never runs out."""
    connection.execute(select(tasks.c.id).where(tasks.c.id == task.id).with_for_update(key_share=True))
    number = connection.execute(select(func.count()).where(slots.c.task_id == task.id)).scalar_one()
    order = canonical_json(list(display_orders(task.candidate_count, number + 1, task.seed, task.prompt_id)[number]))
    values = {"task_id": task.id, "slot": number, "status": "leased", "annotator_id": annotator_id, "expires_at": None}
    connection.execute(insert(slots).values(display_order=order, **values))
    return order


def _draw(seed: int, annotator_id: str, number: int) -> float:
    digest = hashlib.sha256(f"{seed}:{annotator_id}:{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _make_repeat(connection: Connection, annotator_id: str, settings: Any, now: float) -> tuple[int, str] | None:
    """Make a task again for one annotator: his oldest ranked one that he has not seen again, in reversed order."""
    repeat = tasks.alias("repeat")
    done = exists().where(repeat.c.source == tasks.c.id, repeat.c.owner == annotator_id)
    query = (
        select(tasks, answers.c.display_order)
        .join(answers, answers.c.task_id == tasks.c.id)
        .where(answers.c.annotator_id == annotator_id, answers.c.verdict == "ranked", answers.c.version == 1, ~done)
        .where(tasks.c.round == settings.round, tasks.c.purpose == "label", tasks.c.state == "open")
        .order_by(answers.c.id)
        .limit(REPEAT_AFTER)
    )
    rows = connection.execute(query).all()
    if len(rows) < REPEAT_AFTER:
        return None
    source = rows[0]
    copied = ("round", "prompt_id", "content_hash", "candidate_count", "prompt", "responses", "seed")
    row = {name: getattr(source, name) for name in copied}
    fresh = {"purpose": "repeat", "owner": annotator_id, "source": source.id, "state": "open", "free": 0}
    place = {"priority": 0.0, "position": 0, "started": True, "selection": "random", "published_at": now}
    task_id = connection.execute(insert(tasks).values(**row, **fresh, **place).returning(tasks.c.id)).scalar_one()
    order = canonical_json(json.loads(source.display_order)[::-1])
    slot = {"task_id": task_id, "slot": 0, "status": "leased", "annotator_id": annotator_id, "expires_at": None}
    connection.execute(insert(slots).values(display_order=order, **slot))
    return task_id, order
