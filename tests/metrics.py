"""What a stage computed, of the numbers that it logged."""

from pathlib import Path

from rlhf.tracking import read_metrics

MACHINE = ("time/", "memory/")


def result_numbers(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a folder's metrics.jsonl without those that describe the machine."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(MACHINE)} for row in rows]
