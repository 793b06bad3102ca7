"""One more annotator for a task on which those who ranked it disagree, one at a time, up to a maximum."""

import json
from itertools import combinations
from statistics import mean

from sqlalchemy import Connection, func, select

from rlhf.labels.events import SYSTEM, append
from rlhf.labels.items import rank_agreement
from rlhf.labels.publishing import current_answer_ids, round_row
from rlhf.labels.schema import answers, slots, tasks
from rlhf.labels.slots import add_slot
from rlhf.labels.store import Store


def add_annotator_where_disputed(store: Store, connection: Connection, task_id: int) -> bool:
    """Add a slot to a task whose slots are all filled and whose annotators agree too little; return whether it was.

    The agreement is the mean over all pairs of annotators of the tie-aware agreement on pairs of responses. It is
    computed anew after each answer, so that a task stops growing as soon as its annotators agree enough.
    """
    task = connection.execute(select(tasks).where(tasks.c.id == task_id)).one()
    settings = round_row(connection, task.round)
    if settings is None or settings.extra_below is None:
        return False
    by_status = select(slots.c.status, func.count()).where(slots.c.task_id == task_id).group_by(slots.c.status)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_status)}
    total = sum(counts.values())
    if counts.get("done", 0) < total or total >= settings.max_overlap:
        return False
    current = answers.c.id.in_(current_answer_ids().where(answers.c.task_id == task_id))
    query = select(answers.c.ranks).where(current, answers.c.verdict == "ranked", answers.c.task_id == task_id)
    rankings: list[list[int]] = [json.loads(ranks) for ranks in connection.execute(query).scalars()]
    if len(rankings) < 2:
        return False
    agreement = mean(rank_agreement(one, two) for one, two in combinations(rankings, 2))
    if agreement >= settings.extra_below:
        return False
    add_slot(connection, task, total)
    payload = {"task": task_id, "slots": total + 1, "agreement": round(agreement, 6)}
    append(connection, "extend", SYSTEM, payload, store.clock())
    return True
