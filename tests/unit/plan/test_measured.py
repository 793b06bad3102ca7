"""The plan beside what a process really takes; tests/real/memory.py has more and larger cases."""

from pathlib import Path

import pytest

from tests.real.memory import measure


@pytest.mark.slow
def test_the_planned_peak_is_the_measured_one(tmp_path: Path) -> None:
    row = measure("tiny-reward", tmp_path)
    assert row["moment"] == "train"
    assert row["predicted"] == pytest.approx(row["measured"], rel=0.15), row
