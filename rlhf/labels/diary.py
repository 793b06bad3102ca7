"""What an annotator did when: for the annotator's own page, never for a comparison between people."""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from rlhf.labels.accounts import Annotator
from rlhf.labels.schema import answers, tasks
from rlhf.labels.store import Store

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Hour:
    """Tasks answered for the first time in one hour, and the seconds of work on them; `hour` counts from 1970."""

    hour: int
    tasks: int
    seconds: float


def hours_of(store: Store, annotator: Annotator, *, since: float = 0.0) -> list[Hour]:
    """Return the hours in which the annotator answered tasks, ascending; training and skips are left out."""
    query = (
        select(answers.c.submitted_at, answers.c.active_seconds)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .where(answers.c.annotator_id == annotator.id, answers.c.version == 1, answers.c.submitted_at >= since)
        .where(answers.c.verdict.in_(("ranked", "cannot_judge")), tasks.c.purpose != "training")
        .where(answers.c.adjudicates.is_(None))
    )
    counts: dict[int, int] = defaultdict(int)
    seconds: dict[int, float] = defaultdict(float)
    with store.reading() as connection:
        for at, worked in connection.execute(query):
            counts[int(at // HOUR_S)] += 1
            seconds[int(at // HOUR_S)] += worked or 0.0
    return [Hour(hour, counts[hour], seconds[hour]) for hour in sorted(counts)]


def guidelines_answered_under(connection: Connection, annotator: Annotator) -> int:
    """Return the latest version of the guidelines that was in force when the annotator answered; 0 for none."""
    query = select(func.max(answers.c.guidelines)).where(answers.c.annotator_id == annotator.id)
    return connection.execute(query).scalar() or 0
