"""Slots: the places for annotators that a task has. They are filled, never counted, so that no task gets too many.

A slot is free, leased (somebody reads and orders right now) or done. Autosave renews the lease. A lease that ran out makes
the slot free for others; the draft stays with its annotator.

Slots of shared tasks are made when the tasks are published. Those of training, gold and repeat items are made when the
item is handed out, belong to one annotator, and never run out.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, insert, select, update

from rlhf.labels.schema import canonical_json, slots, tasks

LEASE_S = 20 * 60


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


def ensure_slots(connection: Connection, round: int, wanted: Iterable[Any], overlap: int) -> int:
    """Give tasks of a round as many slots as the overlap asks for; return how many slots they then have together."""
    by_task = select(slots.c.task_id, func.count()).join(tasks).where(tasks.c.round == round).group_by(slots.c.task_id)
    counts = {row[0]: row[1] for row in connection.execute(by_task)}
    rows: list[dict[str, Any]] = []
    added: list[dict[str, int]] = []
    total = 0
    for task in wanted:
        have = counts.get(task.id, 0)
        total += max(overlap, have)  # an import, or a dispute, may have brought more than the overlap asks for
        if have < overlap:
            rows += _new_slots(task, have, overlap)
            added.append({"task": task.id, "more": overlap - have})
    if rows:
        connection.execute(insert(slots), rows)
        grow = update(tasks).where(tasks.c.id == bindparam("task")).values(free=tasks.c.free + bindparam("more"))
        connection.execute(grow, added)
    return total


def add_slot(connection: Connection, task: Any, have: int) -> None:
    """Give a task that has `have` slots one more."""
    connection.execute(insert(slots), _new_slots(task, have, have + 1))
    connection.execute(update(tasks).where(tasks.c.id == task.id).values(free=tasks.c.free + 1))


def _new_slots(task: Any, have: int, want: int) -> list[dict[str, Any]]:
    """Return the rows of the slots `have`..`want`-1 of a task."""
    orders = display_orders(task.candidate_count, want, task.seed, task.prompt_id)
    return [
        {"task_id": task.id, "slot": slot, "status": "free", "display_order": canonical_json(list(orders[slot]))}
        for slot in range(have, want)
    ]


def take_slot(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Mark the annotator's slot, or else a free one, as done; return False where there is none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    done = {"status": "done", "annotator_id": annotator_id, "expires_at": None}
    if connection.execute(update(slots).where(*mine).values(**done)).rowcount:
        return True
    lock_task(connection, task_id)
    free_expired(connection, now, task_id)
    return fill_free(connection, task_id, done) is not None


def lease_again(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Turn the annotator's done slot, or else a free one, into a lease; return False where there is none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    lease = {"status": "leased", "annotator_id": annotator_id, "expires_at": now + LEASE_S}
    if connection.execute(update(slots).where(*mine).values(**lease)).rowcount:
        return True
    lock_task(connection, task_id)
    return fill_free(connection, task_id, lease) is not None


def give_up_slot(connection: Connection, task_id: int, annotator_id: str) -> None:
    """Make the annotator's slot free again."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id)
    free = update(slots).where(*mine).values(status="free", annotator_id=None, expires_at=None)
    if connection.execute(free).rowcount:
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(free=tasks.c.free + 1))


def renew_lease(connection: Connection, task_id: int, annotator_id: str, now: float) -> bool:
    """Let the annotator's lease run anew; return False where he has none."""
    mine = (slots.c.task_id == task_id, slots.c.annotator_id == annotator_id, slots.c.status == "leased")
    own = update(slots).where(*mine, slots.c.expires_at.is_(None)).values(status="leased")
    shared = update(slots).where(*mine, slots.c.expires_at.is_not(None)).values(expires_at=now + LEASE_S)
    return connection.execute(shared).rowcount + connection.execute(own).rowcount > 0


def free_expired(connection: Connection, now: float, task_id: int | None = None) -> None:
    """Make the slots free whose leases ran out."""
    query = select(slots.c.task_id, slots.c.slot).where(slots.c.status == "leased", slots.c.expires_at <= now)
    if task_id is not None:
        query = query.where(slots.c.task_id == task_id)
    expired = connection.execute(
        query.order_by(slots.c.task_id).with_for_update(skip_locked=True, key_share=True)
    ).all()
    for owner, slot in expired:
        this = (slots.c.task_id == owner, slots.c.slot == slot)
        connection.execute(update(slots).where(*this).values(status="free", annotator_id=None, expires_at=None))
        connection.execute(update(tasks).where(tasks.c.id == owner).values(free=tasks.c.free + 1))


def lock_task(connection: Connection, task_id: int) -> None:
    """Keep others from the slots of a task until the transaction ends."""
    connection.execute(select(tasks.c.id).where(tasks.c.id == task_id).with_for_update(key_share=True))


def fill_free(connection: Connection, task_id: int, values: dict[str, Any]) -> Any:
    """Give the first free slot of a (locked) task these values; return the slot's row, None where there is none."""
    free = select(slots).where(slots.c.task_id == task_id, slots.c.status == "free").order_by(slots.c.slot).limit(1)
    slot = connection.execute(free).first()
    if slot is not None:
        connection.execute(update(slots).where(slots.c.task_id == task_id, slots.c.slot == slot.slot).values(**values))
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(free=tasks.c.free - 1, started=True))
    return slot
