"""Priorities of tasks from a file: what a reward model is least sure of, for instance, comes first."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from rlhf.errors import DataError, report_all, shown
from rlhf.jsonl import read_rows
from rlhf.records import LARGEST_NUMBER, is_number


def read_priorities(path: Path, prompt_ids: Iterable[str]) -> dict[str, float]:
    """Read JSON lines with `prompt_id` and `priority`, higher first; other fields are the writer's own.

    Args:
        path: The file.
        prompt_ids: The prompts of the round; those that the file does not name have priority 0.

    Raises:
        DataError: Lists each bad line, and prompts that the round does not have.
    """
    known = set(prompt_ids)
    found: dict[str, float] = {}
    problems: list[str] = []
    for number, row in read_rows(path):
        problem = _problem(row, known, found)
        if problem:
            problems.append(f"{path.name} line {number}: {problem}")
        else:
            found[row["prompt_id"]] = float(row["priority"])
    report_all(DataError, problems, f"{path}: {len(problems)} bad priorities")
    return found


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
    return None
