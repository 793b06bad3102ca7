"""Preferences from outside, through the command line: columns by name, sets larger than people rank, what is left out."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow
TEXTS = [f"Answer number {number}." for number in range(10)]


def facts(shell: Shell, stage: str) -> dict[str, Any]:
    return json.loads((shell.run / "round-1" / stage / "manifest.json").read_text())["facts"]


def rows(shell: Shell, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shell.run / "round-1" / stage / f"{stage}.jsonl").read_text().splitlines()]


def ten_each(path: Path) -> Path:
    """Write five prompts with ten answers, the first of them twice, judged by two annotators under two criteria."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(5):
            judges = [{"who": "m", "help": [*range(1, 12)]}, {"who": "n", "help": [*range(11, 0, -1)], "ranks": [0]}]
            row = {
                "ask": f"A question from outside, number {number}?",
                "texts": [*TEXTS, TEXTS[0]],
                "annotations": judges,
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_sets_of_ten_with_columns_of_their_own_become_pairs(copy: Shell) -> None:
    path = str(ten_each(copy.folder / "ten.jsonl"))
    candidates = ["--candidates.import-path", path, "--candidates.prompt-field", "ask"]
    candidates += ["--candidates.responses-field", "texts"]
    copy.rlhf("candidates", str(RECIPE), *candidates)
    assert facts(copy, "candidates")["dropped"] == {"repeated candidate, merged": 5}
    assert {len(row["responses"]) for row in rows(copy, "candidates")} == {10}

    refused = copy.rlhf("rankings", str(RECIPE), *candidates, "--rankings.source", "people", check=False)
    assert refused.returncode == 1
    assert "5 sets have more than the 9 candidates that people rank" in refused.stderr

    rankings = ["--rankings.import-path", path, "--rankings.prompt-field", "ask", "--rankings.responses-field", "texts"]
    rankings += ["--rankings.ranks-field", "help", "--rankings.annotator-field", "who"]
    copy.rlhf("rankings", str(RECIPE), *candidates, *rankings)
    # The first answer is first and last of eleven for both: on average 6, which is the place of the sixth.
    assert sorted({tuple(row["ranks"]) for row in rows(copy, "rankings")}) == [
        (5, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        (5, 9, 8, 7, 6, 5, 4, 3, 2, 1),
    ]
    copy.rlhf("pairs", str(RECIPE), *candidates, *rankings, "--pairs.policy", "soft")
    # The two annotators contradict each other on all 45 couples of each set.
    assert len(rows(copy, "pairs")) == 5 * 45
    assert {row["probability"] for row in rows(copy, "pairs")} == {0.5}


def test_pairs_of_a_table_with_scores(copy: Shell) -> None:
    path = copy.folder / "pairs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ask", "good", "bad", "chosen_score", "rejected_score"])
        for number in range(6):
            writer.writerow([f"A question from outside, number {number}?", "Yes.", "No.", number, "0.5"])
        writer.writerow(["Another question?", "Yes.", "", 1, 0])
    names = ["--pairs.prompt-field", "ask", "--pairs.chosen-field", "good", "--pairs.rejected-field", "bad"]
    copy.rlhf("pairs", str(RECIPE), "--pairs.import-path", str(path), *names, "--pairs.margin-field", "rejected_score")
    assert [row["margin"] for row in rows(copy, "pairs")] == [0.5] * 6
    assert facts(copy, "pairs")["dropped"] == {"empty rejected response": 1}
