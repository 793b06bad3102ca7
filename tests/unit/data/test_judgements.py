"""Import of preference pairs: entering the pipeline midway."""

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.judgements import import_pairs
from rlhf.errors import DataError, shown
from rlhf.records import Message, PreferencePair, write_jsonl

NUMBERS = {
    "weight": "positive number, at most 1,000,000",
    "margin": "number from -1,000,000 to 1,000,000",
    "probability": "number from 0 to 1",
    "votes": "whole number from 1 to 1,000,000",
}
BAD_NUMBERS: list[tuple[str, Any]] = [
    *(("weight", value) for value in (math.inf, math.nan, 1e308, True)),
    *(("margin", value) for value in (math.inf, math.nan, 10**400)),
    *(("probability", value) for value in (math.nan, 10**400)),
    *(("votes", value) for value in (math.inf, math.nan, -5, 0, 2.5)),
]


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_pairs_keep_what_the_file_knows(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        {"prompt": "Hi?", "chosen": "A", "rejected": "B", "margin": 2, "weight": 0.5, "probability": 0.9, "votes": 3},
        {"prompt": "Hi?", "chosen": "C", "rejected": "A", "split": "train"},
        {"prompt": "Ho?", "chosen": "B", "rejected": "A"},
    )
    first, second, third = import_pairs(path).records
    assert (first.margin, first.weight, first.probability, first.votes) == (2, 0.5, 0.9, 3)
    assert first.prompt_id == second.prompt_id != third.prompt_id
    # Responses of one prompt are numbered as they come: A 0, B 1, C 2.
    assert [(pair.chosen_index, pair.rejected_index) for pair in (first, second, third)] == [(0, 1), (2, 0), (0, 1)]
    assert second.split == "label"


def test_own_pairs_come_back_unchanged(tmp_path: Path) -> None:
    pairs = [
        PreferencePair(
            "p-1", "Hi?", "A", "B", weight=0.7, margin=0.2, probability=0.8, votes=3, chosen_flags="rude,false"
        ),
        PreferencePair("p-1", "Hi?", "A", "C", chosen_index=0, rejected_index=2, split="validation"),
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert import_pairs(tmp_path / "pairs.jsonl").records == pairs


def test_pairs_of_no_use_are_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt": "Hi?", "chosen": "A", "rejected": "B"}
    path = write_rows(tmp_path / "a.jsonl", good, {**good, "chosen": ""}, {**good, "rejected": "A"})
    with caplog.at_level(logging.WARNING):
        found = import_pairs(path)
        assert len(found.records) == 1
    assert "1 pairs; left out or merged: 1 empty chosen response, 1 chosen and rejected are the same" in caplog.text
    assert found.problems == [
        "a.jsonl line 2: empty chosen response",
        "a.jsonl line 3: chosen and rejected are the same",
    ]


def test_file_without_a_usable_pair_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "Hi?", "chosen": "A", "rejected": "A"})
    with pytest.raises(DataError, match="no pair is left: 1 chosen and rejected are the same"):
        import_pairs(path)


def test_malformed_pairs_are_all_named(tmp_path: Path) -> None:
    good = {"prompt": "Hi?", "chosen": "A", "rejected": "B"}
    path = write_rows(
        tmp_path / "a.jsonl",
        {"prompt": "Hi?", "chosen": "A"},
        {**good, "weight": 0},
        {**good, "margin": "large"},
        {**good, "probability": 2},
        [good],
        *({**good, name: value} for name, value in BAD_NUMBERS),
    )
    with pytest.raises(DataError) as error:
        import_pairs(path)
    assert problems(error) == [
        "a.jsonl line 1: no field 'rejected'; the row has prompt, chosen",
        "a.jsonl line 2: weight is 0; give a positive number, at most 1,000,000",
        "a.jsonl line 3: margin is 'large'; give a number from -1,000,000 to 1,000,000",
        "a.jsonl line 4: probability is 2; give a number from 0 to 1",
        "a.jsonl line 5: expected a JSON object, found list",
        *(
            f"a.jsonl line {line}: {name} is {shown(value)}; give a {NUMBERS[name]}"
            for line, (name, value) in enumerate(BAD_NUMBERS, start=6)
        ),
    ]


def refuse_marks(name: str, text: str) -> None:
    if "<|" in text:
        raise DataError(f"{name} is marked")


def test_pairs_that_the_base_cannot_take_are_named(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "<|end|>", "chosen": "a", "rejected": "b"},
        {"prompt": "Hi?", "chosen": "<|end|>", "rejected": "b"},
        {"prompt": "Hi?", "chosen": "a", "rejected": "<|end|>"},
    ]
    with pytest.raises(DataError) as error:
        import_pairs(write_rows(tmp_path / "p.jsonl", *pairs), refuse_marks)
    assert problems(error) == [
        "p.jsonl line 1: prompt is marked",
        "p.jsonl line 2: chosen is marked",
        "p.jsonl line 3: rejected is marked",
    ]


@pytest.mark.parametrize(
    ("more", "margin"),
    [
        ({}, 0.0),
        ({"chosen_score": 4.5, "rejected_score": 2}, 2.5),
        ({"chosen_score": 2, "rejected_score": 4.5}, -2.5),
        ({"score_chosen": 3, "score_rejected": 3}, 0.0),
        ({"chosen-rating": 5, "rejected-rating": 1}, 4.0),
        ({"margin": 1, "chosen_score": 4.5, "rejected_score": 2}, 1.0),
        ({"margin": "0.25"}, 0.25),
        ({"margin": "", "chosen_rating": "5", "rejected_rating": "3"}, 2.0),
    ],
)
def test_margin_is_stated_or_the_difference_of_the_scores(tmp_path: Path, more: dict[str, Any], margin: float) -> None:
    (pair,) = import_pairs(
        write_rows(tmp_path / "a.jsonl", {"prompt": "Hi?", "chosen": "A", "rejected": "B", **more})
    ).records
    assert pair.margin == margin


def test_pairs_of_a_table_are_those_of_json_lines(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi?"}]
    rows = [
        {"prompt": "Hi?", "chosen": "[1, 2]", "rejected": '[{"a": 1}]', "margin": 0.5, "weight": 2, "votes": 3},
        {"prompt": turns, "chosen": "A", "rejected": "B", "margin": "", "weight": "", "votes": ""},
        {
            "prompt": "",
            "chosen": [*turns, {"role": "assistant", "content": "A"}],
            "rejected": [*turns, {"role": "assistant", "content": "B"}],
            "margin": "", "weight": "", "votes": "",
        },
    ]  # fmt: skip
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(
                {key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()} for row in rows
            )
        assert import_pairs(tmp_path / name).records == import_pairs(write_rows(tmp_path / "a.jsonl", *rows)).records
    first, second, third = import_pairs(tmp_path / "a.csv").records
    assert (first.chosen, first.rejected, first.margin, first.votes) == ("[1, 2]", '[{"a": 1}]', 0.5, 3)
    assert second.prompt == third.prompt == (Message("user", "Hi?"),)


def test_named_columns_stand_in_place_of_the_usual_ones(tmp_path: Path) -> None:
    row = {"messages": "no", "ask": "Hi?", "chosen": "no", "good": "A", "bad": "B", "margin": 9, "lead": 3}
    path = write_rows(tmp_path / "a.jsonl", row)
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad", "margin": "lead"}
    (pair,) = import_pairs(path, columns=columns).records
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == ("Hi?", "A", "B", 3)
    with pytest.raises(DataError, match=r"a.jsonl line 1: no field 'best' \(chosen_field\); the row has messages, ask"):
        import_pairs(path, columns={**columns, "chosen": "best"})
