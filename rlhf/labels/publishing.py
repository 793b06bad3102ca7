"""Publishing: candidate sets become tasks with slots; how a round is given out; its state; closing it."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, insert, select, update

from rlhf.errors import LabelError, LabelsAtRiskError
from rlhf.labels.events import SYSTEM, append, task_hash
from rlhf.labels.schema import annotators, answers, canonical_json, rounds, slots, tasks
from rlhf.labels.slots import ensure_slots
from rlhf.labels.store import Store
from rlhf.records import CandidateSet, prompt_to_json

PURPOSE = "label"
JUDGED = ("ranked", "cannot_judge")
RANDOM_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a round's tasks are given out beyond their overlap.

    Attributes:
        max_overlap: Annotators that a disputed task gets at most, one at a time; None: never more than the overlap.
        extra_below: A task whose annotators agree less than this (tie-aware pairwise agreement, 0 to 1) is disputed.
        repeat_share: Share of an annotator's tasks that he has ranked before, shown in another order.
        gold_share: Share of an annotator's tasks whose answer is known.
        task_limit: Most tasks of the round for one annotator; an annotator's own limit goes before it.
        random_share: With priorities, share of the tasks that are taken at random all the same, and marked so; not where
            the priorities say themselves which those are.
    """

    max_overlap: int | None = None
    extra_below: float | None = None
    repeat_share: float = 0.0
    gold_share: float = 0.0
    task_limit: int | None = None
    random_share: float = RANDOM_SHARE


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
    at_random: Collection[str] | None = None,
    distribution: Distribution | None = None,
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
        priorities: By prompt id; higher comes first. A random share of the tasks does not heed them.
        at_random: The prompts of that share, where whoever made the priorities drew it; otherwise it is drawn here.
        distribution: What else decides who gets which task; plain where not given.
        discard_answers: Allow to withdraw tasks that people answered.

    Raises:
        LabelsAtRiskError: People answered a task that would be withdrawn.
        LabelError: The overlap is below 1, a prompt comes twice, or the distribution makes no sense.
    """
    distribution = distribution or Distribution()
    _check_distribution(overlap, distribution)
    _refuse_repeats(candidate_sets)
    wanted = [task_row(item, round, seed) for item in candidate_sets]
    with store.transaction() as connection:
        now = store.clock()
        known = {(row.prompt_id, row.content_hash): row for row in _round_tasks(connection, round)}
        keys = {(row["prompt_id"], row["content_hash"]) for row in wanted}
        leaving = [row for key, row in known.items() if key not in keys and row.state != "withdrawn"]
        if not discard_answers:
            _refuse_loss(connection, round, leaving)
        new = [row for row in wanted if (row["prompt_id"], row["content_hash"]) not in known]
        returning = [known[key].id for key in keys if key in known and known[key].state == "withdrawn"]
        _set_state(connection, [row.id for row in leaving], "withdrawn")
        _set_state(connection, returning, "open")
        _set_round(connection, round, overlap, seed, distribution)
        if new or leaving or returning:
            content = sorted([row["prompt_id"], row["content_hash"]] for row in wanted)
            payload = {"round": round, "overlap": overlap, "seed": seed, "tasks": content}
            append(connection, "publish", SYSTEM, payload, now)
        if new:
            connection.execute(insert(tasks), [{**row, "published_at": now} for row in new])
        _set_order(connection, round, seed, priorities or {}, distribution.random_share, at_random)
        kept = [task for task in _round_tasks(connection, round) if (task.prompt_id, task.content_hash) in keys]
        count = ensure_slots(connection, round, kept, overlap)
        return Published(len(wanted), len(new), len(leaving), count)


def close_round(store: Store, round: int, actor: str = SYSTEM) -> int:
    """Close what is still open in a round; return how many tasks that were.

    Leases end; whoever submits afterwards still has the answer stored, as surplus.
    """
    with store.transaction() as connection:
        ids = select(tasks.c.id).where(tasks.c.round == round, tasks.c.state == "open")
        count = connection.execute(
            select(func.count()).select_from(ids.where(tasks.c.purpose == PURPOSE).subquery())
        ).scalar_one()
        connection.execute(update(tasks).where(tasks.c.id.in_(ids)).values(state="closed"))
        if count:
            append(connection, "close", actor, {"round": round, "tasks": count}, store.clock())
        return count


def list_rounds(store: Store) -> list[int]:
    """Return the numbers of all published rounds."""
    with store.reading() as connection:
        return list(connection.execute(select(rounds.c.round).order_by(rounds.c.round)).scalars())


def find_round(store: Store, wanted: int | None = None) -> int:
    """Return the round with this number, or the latest.

    Raises:
        LabelError: There is no such round, or none at all.
    """
    known = list_rounds(store)
    if not known:
        raise LabelError("nothing is published yet; publish candidates with `rlhf label init`")
    if wanted is not None and wanted not in known:
        raise LabelError(f"there is no round {wanted}; there are {', '.join(map(str, known))}")
    return known[-1] if wanted is None else wanted


def answered_selections(store: Store, round: int) -> dict[str, str]:
    """Return the prompts of a round that somebody ranked or could not judge, and how each was selected."""
    with store.reading() as connection:
        query = (
            select(tasks.c.prompt_id, tasks.c.selection)
            .join(answers, answers.c.task_id == tasks.c.id)
            .where(*_live(round), answers.c.id.in_(current_answer_ids()), answers.c.verdict.in_(JUDGED))
        )
        return {row.prompt_id: row.selection for row in connection.execute(query)}


def published_sets(store: Store, round: int) -> list[CandidateSet]:
    """Return the candidate sets of a round that are not withdrawn, by prompt id; who made what is not stored."""
    with store.reading() as connection:
        query = select(tasks.c.prompt_id, tasks.c.prompt, tasks.c.responses).where(*_live(round))
        rows = connection.execute(query.order_by(tasks.c.prompt_id)).all()
    sets = [CandidateSet(row.prompt_id, json.loads(row.prompt), tuple(task_responses(row))) for row in rows]
    return sorted(sets, key=lambda item: item.prompt_id)


def round_status(store: Store, round: int) -> RoundStatus:
    """Return how far a round is."""
    with store.reading() as connection:
        live = _live(round)
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


def round_row(connection: Connection, round: int) -> Any:
    """Return how a round is given out, or None where it was never published."""
    return connection.execute(select(rounds).where(rounds.c.round == round)).first()


def _refuse_repeats(candidate_sets: Iterable[CandidateSet]) -> None:
    seen: set[str] = set()
    for item in candidate_sets:
        if item.prompt_id in seen:
            raise LabelError(f"prompt {item.prompt_id} has two candidate sets; a round holds one task per prompt")
        seen.add(item.prompt_id)


def _check_distribution(overlap: int, distribution: Distribution) -> None:
    if overlap < 1:
        raise LabelError(f"overlap is {overlap}; at least one annotator must rank each task")
    most = distribution.max_overlap
    if most is not None and most < overlap:
        raise LabelError(f"max_overlap is {most}, below the overlap of {overlap}; give at least as many")
    shares = {name: value for name, value in asdict(distribution).items() if name.endswith(("share", "below"))}
    for name, value in shares.items():
        if value is not None and not 0.0 <= value <= 1.0:
            raise LabelError(f"{name} is {value}; give a share from 0 to 1")
    if distribution.repeat_share + distribution.gold_share > 0.5:
        total = distribution.repeat_share + distribution.gold_share
        raise LabelError(f"repeat and gold items would be {total:.0%} of all tasks; keep them at half or less together")
    if distribution.task_limit is not None and distribution.task_limit < 1:
        raise LabelError(f"task_limit is {distribution.task_limit}; give at least 1, or leave it out")


def _set_round(connection: Connection, round: int, overlap: int, seed: int, distribution: Distribution) -> None:
    row = {
        "overlap": overlap,
        "max_overlap": distribution.max_overlap or overlap,
        "extra_below": distribution.extra_below,
        "repeat_share": distribution.repeat_share,
        "gold_share": distribution.gold_share,
        "task_limit": distribution.task_limit,
        "seed": seed,
    }
    if not connection.execute(update(rounds).where(rounds.c.round == round).values(**row)).rowcount:
        connection.execute(insert(rounds).values(round=round, **row))


def task_row(item: CandidateSet, round: int, seed: int, purpose: str = PURPOSE) -> dict[str, Any]:
    """Return the row of a new task that is open and has no slots yet."""
    prompt, responses = prompt_to_json(item.prompt), list(item.responses)
    return {
        "round": round,
        "prompt_id": item.prompt_id,
        "content_hash": task_hash(prompt, responses),
        "purpose": purpose,
        "candidate_count": len(responses),
        "prompt": canonical_json(prompt),
        "responses": canonical_json(responses),
        "priority": 0.0,
        "position": 0,
        "seed": seed,
        "started": False,
        "state": "open",
        "free": 0,
        "selection": "random",
        "owner": "",
    }


def _live(round: int) -> tuple[Any, ...]:
    """Return the conditions on the shared tasks of a round that are in use."""
    return tasks.c.round == round, tasks.c.purpose == PURPOSE, tasks.c.state != "withdrawn"


def _round_tasks(connection: Connection, round: int, purpose: str = PURPOSE) -> Sequence[Any]:
    """Return a round's tasks without their texts."""
    columns = (tasks.c.id, tasks.c.prompt_id, tasks.c.content_hash, tasks.c.state, tasks.c.candidate_count)
    query = select(*columns, tasks.c.seed, tasks.c.position, tasks.c.priority, tasks.c.selection)
    return connection.execute(
        query.where(tasks.c.round == round, tasks.c.purpose == purpose).order_by(tasks.c.id)
    ).all()


def _refuse_loss(connection: Connection, round: int, leaving: Sequence[Any]) -> None:
    by_id = {row.id: row.prompt_id for row in leaving}
    query = (
        select(answers.c.task_id)
        .join(annotators, annotators.c.id == answers.c.annotator_id)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .where(annotators.c.kind != "scripted", tasks.c.round == round, answers.c.verdict != "undone")
    )
    hit = [by_id[task] for task in connection.execute(query).scalars() if task in by_id]
    if hit:
        names = ", ".join(sorted(set(hit))[:5]) + (", ..." if len(set(hit)) > 5 else "")
        raise LabelsAtRiskError(
            f"round {round}: {len(hit)} answers that people gave belong to candidates that changed or are gone "
            f"({len(set(hit))} prompts: {names}); start a new round (--round, or `rlhf run --new-round`), or set "
            "these answers aside (`rlhf run --discard-labels`)"
        )


def _set_state(connection: Connection, ids: list[int], state: str) -> None:
    if ids:
        statement = update(tasks).where(tasks.c.id == bindparam("task")).values(state=state)
        connection.execute(statement, [{"task": task_id} for task_id in ids])


def _set_order(
    connection: Connection,
    round: int,
    seed: int,
    priorities: Mapping[str, float],
    random_share: float,
    drawn: Collection[str] | None,
) -> None:
    """Give each task its place in the queue, the same whatever order the tasks came in.

    Without priorities that is a seeded shuffle. With them, a random share keeps its shuffled order, spread evenly among
    the rest, which goes by priority: what that share shows holds for all prompts, and not for the chosen ones only.
    """
    rows = sorted(_round_tasks(connection, round), key=lambda row: (row.prompt_id, row.content_hash))
    rng = np.random.default_rng([seed % 2**32, round])
    shuffled = [rows[place] for place in np.argsort(rng.permutation(len(rows))).tolist()]
    if drawn is not None:
        shuffled.sort(key=lambda row: row.prompt_id not in drawn)
        count = sum(row.prompt_id in drawn for row in shuffled)
    else:
        count = math.ceil(random_share * len(rows)) if priorities else len(rows)
    at_random = {row.id for row in shuffled[:count]}
    wanted = sorted(shuffled[count:], key=lambda row: -priorities.get(row.prompt_id, 0.0))
    changed: list[dict[str, Any]] = []
    for place, row in enumerate(_interleave(shuffled[:count], wanted)):
        selection = "random" if row.id in at_random else "priority"
        priority = float(priorities.get(row.prompt_id, 0.0))
        if (row.position, row.priority, row.selection) != (place, priority, selection):
            changed.append({"task": row.id, "place": place, "priority": priority, "selection": selection})
    if changed:
        values: dict[str, Any] = {name: bindparam(name) for name in ("priority", "selection")}
        statement = update(tasks).where(tasks.c.id == bindparam("task")).values(position=bindparam("place"), **values)
        connection.execute(statement, changed)


def _interleave(first: Sequence[Any], second: Sequence[Any]) -> Iterator[Any]:
    """Yield two lists as one in which both are spread evenly."""
    taken = [0, 0]
    while taken[0] < len(first) or taken[1] < len(second):
        behind = taken[0] * len(second) <= taken[1] * len(first)
        which = 0 if taken[0] < len(first) and (behind or taken[1] == len(second)) else 1
        yield (first, second)[which][taken[which]]
        taken[which] += 1


def task_responses(row: Any) -> list[str]:
    """Return the candidate texts of a task row, in candidate order."""
    return list(json.loads(row.responses))
