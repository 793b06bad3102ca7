"""What the reward model says of tasks, from the list that the reward stage writes: tasks on which it and people differ.

RUN/round-N/reward/disagreements.jsonl     one object per prompt, the worst first
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rlhf.labels.schema import tasks
from rlhf.labels.store import Store

FILE = "reward/disagreements.jsonl"


@dataclass(frozen=True, slots=True)
class ModelView:
    """The model's scores of a task's responses, in their order, and how far it is from the annotators (0 to 1)."""

    task_id: int
    disagreement: float
    scores: tuple[float, ...]


def read_model_views(store: Store, run: Path, round: int) -> list[ModelView]:
    """Return the listed tasks of a round, the worst first; none where there is no list yet.

    A line that fits no task of the round is left out: the list may be of other candidates than those that were published.
    """
    path = run / f"round-{round}" / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    listed = [row for line in lines if (row := _read(line)) is not None]
    names = [row["prompt_id"] for row in listed]
    query = select(tasks.c.id, tasks.c.prompt_id, tasks.c.responses).where(
        tasks.c.round == round, tasks.c.prompt_id.in_(names)
    )
    with store.reading() as connection:
        known = {row.prompt_id: row for row in connection.execute(query)}
    found: list[ModelView] = []
    for row in listed:
        task = known.get(row["prompt_id"])
        scores = dict(zip(row["responses"], row["scores"], strict=False))
        responses: list[str] = json.loads(task.responses) if task is not None else []
        if task is not None and set(responses) == set(scores):
            found.append(ModelView(task.id, row["disagreement"], tuple(scores[text] for text in responses)))
    return found


def _read(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
        fits = (
            isinstance(row["prompt_id"], str)
            and all(isinstance(text, str) for text in row["responses"])
            and all(isinstance(value, float) for value in [*row["scores"], row["disagreement"]])
        )
    except (ValueError, TypeError, KeyError):
        return None
    return row if fits else None
