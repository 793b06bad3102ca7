"""Publishing: candidate sets become tasks with slots; the state of a round; closing it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from rlhf.errors import LabelError, LabelsAtRiskError
from rlhf.labels.events import SYSTEM, append, task_hash
from rlhf.labels.schema import annotators, answers, canonical_json, slots, tasks
from rlhf.labels.store import Store
from rlhf.records import CandidateSet, prompt_to_json

PURPOSE = "label"


@dataclass(frozen=True, slots=True)
class Published:
    """What a call of `publish` did."""

    tasks: int
    new: int
    withdrawn: int
    slots: int


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """How far a round of labeling is; `answers` counts current rankings by annotator kind."""

    round: int
    tasks: int
    slots: int
    filled: int
    leased: int
    closed: int
    skipped: int
    surplus: int
    answers: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all slots are filled, or a manager closed the rest."""
        return self.tasks > 0 and (self.filled == self.slots or self.closed == self.tasks)


def publish(
    store: Store,
    candidate_sets: Sequence[CandidateSet],
    *,
    overlap: int,
    round: int = 0,
    seed: int = 0,
    priorities: Mapping[str, float] | None = None,
    discard_answers: bool = False,
) -> Published:
    """Make `candidate_sets` the tasks of a round, each with `overlap` slots; a repeat changes nothing.

    A task of the round that is not in the list any more, or has other texts, is withdrawn: it is shown to
    nobody and leaves the export, and its answers stay in the store. A larger overlap adds slots.

    Args:
        store: The store.
        candidate_sets: One per prompt.
        overlap: How many annotators rank each task.
        round: The round's number.
        seed: Seeds the order of the tasks and the order in which each slot shows the candidates.
        priorities: By prompt id; higher comes first.
        discard_answers: Allow to withdraw tasks that people answered.

    Raises:
        LabelsAtRiskError: People answered a task that would be withdrawn.
        LabelError: The overlap is below 1 or below that of the tasks published before, or a prompt comes twice.
    """
    if overlap < 1:
        raise LabelError(f"overlap is {overlap}; at least one annotator must rank each task")
    _refuse_repeats(candidate_sets)
    with store.transaction() as connection:
        now = store.clock()
        wanted = [_task_row(item, round, seed, now) for item in candidate_sets]
        known = {(row.prompt_id, row.content_hash): row for row in _round_tasks(connection, round)}
        keys = {(row["prompt_id"], row["content_hash"]) for row in wanted}
        leaving = [row for key, row in known.items() if key not in keys and row.state != "withdrawn"]
        if not discard_answers:
            _refuse_loss(connection, round, leaving)
        new = [row for row in wanted if (row["prompt_id"], row["content_hash"]) not in known]
        returning = [known[key].id for key in keys if key in known and known[key].state == "withdrawn"]
        _set_state(connection, [row.id for row in leaving], "withdrawn")
        _set_state(connection, returning, "open")
        if new or leaving or returning:
            content = sorted([row["prompt_id"], row["content_hash"]] for row in wanted)
            payload = {"round": round, "overlap": overlap, "seed": seed, "tasks": content}
            append(connection, "publish", SYSTEM, payload, now)
        if new:
            connection.execute(insert(tasks), new)
        _set_order(connection, round, seed, priorities or {})
        count = _ensure_slots(connection, round, keys, overlap)
        return Published(len(wanted), len(new), len(leaving), count)


def close_round(store: Store, round: int) -> int:
    """Close what is still open in a round; return how many tasks that were.

    Leases end; whoever submits afterwards still has the answer stored, as surplus.
    """
    with store.transaction() as connection:
        rows = [row.id for row in _round_tasks(connection, round) if row.state == "open"]
        _set_state(connection, rows, "closed")
        if rows:
            append(connection, "close", SYSTEM, {"round": round, "tasks": len(rows)}, store.clock())
        return len(rows)


def list_rounds(store: Store) -> list[int]:
    """Return the numbers of all published rounds."""
    with store.reading() as connection:
        return list(connection.execute(select(tasks.c.round).distinct().order_by(tasks.c.round)).scalars())


def published_sets(store: Store, round: int) -> list[CandidateSet]:
    """Return the candidate sets of a round that are not withdrawn, by prompt id; who made what is not stored."""
    with store.reading() as connection:
        rows = [row for row in _round_tasks(connection, round) if row.state != "withdrawn"]
    sets = [CandidateSet(row.prompt_id, json.loads(row.prompt), tuple(task_responses(row))) for row in rows]
    return sorted(sets, key=lambda item: item.prompt_id)


def round_status(store: Store, round: int) -> RoundStatus:
    """Return how far a round is."""
    with store.reading() as connection:
        live = (tasks.c.round == round, tasks.c.state != "withdrawn")
        by_state = select(tasks.c.state, func.count()).where(*live).group_by(tasks.c.state)
        states = {row[0]: row[1] for row in connection.execute(by_state)}
        by_status = select(slots.c.status, func.count()).join(tasks).where(*live).group_by(slots.c.status)
        by_slot = {row[0]: row[1] for row in connection.execute(by_status)}
        rows = connection.execute(
            select(annotators.c.kind, answers.c.verdict, answers.c.surplus, func.count())
            .select_from(answers)
            .join(tasks, tasks.c.id == answers.c.task_id)
            .join(annotators, annotators.c.id == answers.c.annotator_id)
            .where(*live, answers.c.id.in_(current_answer_ids()))
            .group_by(annotators.c.kind, answers.c.verdict, answers.c.surplus)
        ).all()
        late = (
            select(func.count())
            .select_from(answers)
            .join(tasks, tasks.c.id == answers.c.task_id)
            .where(*live, answers.c.surplus)
        )
        surplus = connection.execute(late).scalar_one()
    ranked: dict[str, int] = {}
    for kind, verdict, _, count in rows:
        if verdict == "ranked":
            ranked[kind] = ranked.get(kind, 0) + count
    return RoundStatus(
        round=round,
        tasks=sum(states.values()),
        slots=sum(by_slot.values()),
        filled=by_slot.get("done", 0),
        leased=by_slot.get("leased", 0),
        closed=states.get("closed", 0),
        skipped=sum(count for _, verdict, _, count in rows if verdict == "skipped"),
        surplus=surplus,
        answers=ranked,
    )


def current_answer_ids(up_to_event: int | None = None) -> Any:
    """Select the ids of the answers that count: the latest version that was not surplus, per task and annotator."""
    query = select(func.max(answers.c.id)).where(~answers.c.surplus)
    if up_to_event is not None:
        query = query.where(answers.c.event <= up_to_event)
    return query.group_by(answers.c.task_id, answers.c.annotator_id)


def display_orders(candidates: int, count: int, seed: int, prompt_id: str) -> list[tuple[int, ...]]:
    """Return `count` orders in which to show the candidates; entry d of an order is the candidate shown at place d.

    Within every block of `candidates` orders each candidate stands at each place exactly once (a Latin square:
    the rotations of one random permutation, in random order).
    """
    orders: list[tuple[int, ...]] = []
    rng = np.random.default_rng([seed % 2**32, *prompt_id.encode()])
    while len(orders) < count:
        base = rng.permutation(candidates)
        orders += [tuple(np.roll(base, int(shift)).tolist()) for shift in rng.permutation(candidates)]
    return orders[:count]


def _refuse_repeats(candidate_sets: Iterable[CandidateSet]) -> None:
    seen: set[str] = set()
    for item in candidate_sets:
        if item.prompt_id in seen:
            raise LabelError(f"prompt {item.prompt_id} has two candidate sets; a round holds one task per prompt")
        seen.add(item.prompt_id)


def _task_row(item: CandidateSet, round: int, seed: int, now: float) -> dict[str, Any]:
    prompt, responses = prompt_to_json(item.prompt), list(item.responses)
    return {
        "round": round,
        "prompt_id": item.prompt_id,
        "content_hash": task_hash(prompt, responses),
        "purpose": PURPOSE,
        "candidate_count": len(responses),
        "prompt": canonical_json(prompt),
        "responses": canonical_json(responses),
        "priority": 0.0,
        "position": 0,
        "seed": seed,
        "published_at": now,
        "started": False,
        "state": "open",
    }


def _round_tasks(connection: Connection, round: int) -> Sequence[Any]:
    return connection.execute(select(tasks).where(tasks.c.round == round).order_by(tasks.c.id)).all()


def _refuse_loss(connection: Connection, round: int, leaving: Sequence[Any]) -> None:
    by_id = {row.id: row.prompt_id for row in leaving}
    query = (
        select(answers.c.task_id)
        .join(annotators, annotators.c.id == answers.c.annotator_id)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .where(annotators.c.kind != "scripted", tasks.c.round == round)
    )
    hit = [by_id[task] for task in connection.execute(query).scalars() if task in by_id]
    if hit:
        names = ", ".join(sorted(set(hit))[:5]) + (", ..." if len(set(hit)) > 5 else "")
        raise LabelsAtRiskError(
            f"round {round}: {len(hit)} answers that people gave belong to candidates that changed or are gone "
            f"({len(set(hit))} prompts: {names}); start a new round, or discard these labels explicitly"
        )


def _set_state(connection: Connection, ids: list[int], state: str) -> None:
    for task_id in ids:
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(state=state))


def _set_order(connection: Connection, round: int, seed: int, priorities: Mapping[str, float]) -> None:
    """Give each task its place in the queue: a seeded shuffle, the same whatever order the tasks came in."""
    rows = sorted(_round_tasks(connection, round), key=lambda row: (row.prompt_id, row.content_hash))
    places = np.random.default_rng([seed % 2**32, round]).permutation(len(rows))
    for row, place in zip(rows, places.tolist(), strict=True):
        priority = float(priorities.get(row.prompt_id, 0.0))
        if (row.position, row.priority) != (place, priority):
            changed = update(tasks).where(tasks.c.id == row.id).values(position=place, priority=priority)
            connection.execute(changed)


def _ensure_slots(connection: Connection, round: int, keys: set[tuple[str, str]], overlap: int) -> int:
    by_task = select(slots.c.task_id, func.count()).join(tasks).where(tasks.c.round == round).group_by(slots.c.task_id)
    counts = {row[0]: row[1] for row in connection.execute(by_task)}
    rows: list[dict[str, Any]] = []
    total = 0
    for task in _round_tasks(connection, round):
        if (task.prompt_id, task.content_hash) not in keys:
            continue
        have = counts.get(task.id, 0)
        if have > overlap and task.state == "open":
            total += have  # an import may have brought more rankings than the overlap asks for
            continue
        rows += new_slots(task, have, overlap)
        total += max(overlap, have)
    if rows:
        connection.execute(insert(slots), rows)
    return total


def new_slots(task: Any, have: int, want: int) -> list[dict[str, Any]]:
    """Return the rows of the slots `have`..`want`-1 of a task."""
    orders = display_orders(task.candidate_count, want, task.seed, task.prompt_id)
    return [
        {"task_id": task.id, "slot": slot, "status": "free", "display_order": canonical_json(list(orders[slot]))}
        for slot in range(have, want)
    ]


def task_responses(row: Any) -> list[str]:
    """Return the candidate texts of a task row, in candidate order."""
    return list(json.loads(row.responses))
