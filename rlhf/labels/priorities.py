"""Priorities of tasks: which prompt is ranked first, what a reward model is least sure of, for instance; and their file.

A row of the file has `prompt_id` and `priority`, higher first. Where rows also say `selection`, `random` or `priority`, the
file has chosen the share that is ranked whatever the model thinks; otherwise publishing draws one.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rlhf.config.data import RankingsConfig
from rlhf.errors import DataError, report_all, shown
from rlhf.jsonl import read_rows
from rlhf.records import LARGEST_NUMBER, is_number

SELECTIONS = ("random", "priority")


@dataclass(frozen=True)
class Priorities:
    """Priorities by prompt id; `at_random` are the prompts that the file took at random, None where it says nothing."""

    values: dict[str, float] = field(default_factory=dict[str, float])
    at_random: frozenset[str] | None = None


def priorities_file(folder: Path, round_number: int) -> Path:
    """Return where a run's label folder keeps the priorities of a round."""
    return folder / f"priorities-round-{round_number}.jsonl"


def with_own_priorities(settings: RankingsConfig, folder: Path, round_number: int) -> RankingsConfig:
    """Return the settings with the priorities that were made for this round, where the recipe names none."""
    own = priorities_file(folder, round_number)
    if settings.priorities is not None or not own.is_file():
        return settings
    return dataclasses.replace(settings, priorities=own)


def read_priorities(path: Path, prompt_ids: Iterable[str]) -> Priorities:
    """Read JSON lines with `prompt_id` and `priority`, higher first; other fields are the writer's own.

    Args:
        path: The file.
        prompt_ids: The prompts of the round; those that the file does not name have priority 0.

    Raises:
        DataError: Lists each bad line, and prompts that the round does not have.
    """
    known = set(prompt_ids)
    found: dict[str, float] = {}
    marks: dict[str, str] = {}
    problems: list[str] = []
    for number, row in read_rows(path):
        problem = _problem(row, known, found)
        if problem:
            problems.append(f"{path.name} line {number}: {problem}")
        else:
            found[row["prompt_id"]] = float(row["priority"])
            if "selection" in row:
                marks[row["prompt_id"]] = row["selection"]
    what = f"{path}: {len(problems)} bad priorities; make it again for these candidates (`rlhf label prioritise`) or remove it"
    report_all(DataError, problems, what)
    at_random = frozenset(prompt for prompt, mark in marks.items() if mark == "random") if marks else None
    return Priorities(found, at_random)


def choose_at_random(prompt_ids: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """Return a share of a round's prompts, rounded up, drawn without a look at anything else.

    It depends on the round's prompts, share and seed alone: drawn again after some answers it is the same. A draw from what
    is left then would not stand for the whole round, since what had priority is gone.
    """
    names = sorted(prompt_ids)
    places: list[int] = np.random.default_rng(seed).permutation(len(names)).tolist()
    return frozenset(names[place] for place in places[: math.ceil(share * len(names))])


def order_by_doubt(uncertainty: NDArray[np.float64], features: NDArray[np.float64]) -> list[int]:
    """Return all prompts in the order in which they should be ranked: unsure, and unlike those already taken.

    Greedy: the most uncertain first, then always the largest product of uncertainty and distance to the nearest prompt that
    was taken, which is farthest-first traversal (Gonzalez 1985) weighted by uncertainty. Distances are Euclidean between
    features of mean 0 and deviation 1. Equal products: the earlier prompt. n prompts of d features take n^2 d steps.
    """
    count = len(uncertainty)
    spread = features.std(axis=0)
    places = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    nearest = np.full(count, np.inf)
    free = np.ones(count, dtype=bool)
    order: list[int] = []
    while len(order) < count:
        gain = uncertainty * nearest if order else uncertainty
        best = int(np.argmax(np.where(free, gain, -np.inf)))
        order.append(best)
        free[best] = False
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return order


def _problem(row: Any, known: set[str], found: dict[str, float]) -> str | None:
    if not isinstance(row, dict) or not {"prompt_id", "priority"} <= row.keys():
        return 'expected {"prompt_id": ..., "priority": ...}'
    values = cast(dict[str, Any], row)
    prompt_id, priority = values["prompt_id"], values["priority"]
    if not isinstance(prompt_id, str) or prompt_id not in known:
        return f"prompt {shown(prompt_id)} has no task in this round"
    if prompt_id in found:
        return f"prompt {prompt_id} has a priority already"
    if not is_number(priority) or not abs(priority) <= LARGEST_NUMBER:
        return f"priority is {shown(priority)}; give a number"
    if values.get("selection", "random") not in SELECTIONS:
        return f"selection is {shown(values['selection'])}; it is `random` or `priority`"
    return None
