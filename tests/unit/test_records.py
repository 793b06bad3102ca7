"""Records: what they refuse, and that JSON goes in and out unchanged."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.records import (
    CandidateSet,
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    Ranking,
    from_json,
    read_jsonl,
    to_json,
    write_jsonl,
)

CHAT = (Message("system", "Be brief."), Message("user", "Is milk white?"))
SAMPLES: list[Any] = [
    Prompt("p-1", "How warm is tea?", "sft"),
    Prompt("p-2", CHAT, "test", source="chat.jsonl"),
    Demonstration("p-1", "How warm is tea?", "Quite warm."),
    CandidateSet("p-1", CHAT, ("Yes.", "No.", "Perhaps."), ("a", "a", "b")),
    Ranking("p-1", "ann-1", (2, 1, 2), strengths=(3,), flags=((), ("rude",), ()), display_order=(2, 0, 1)),
    PreferencePair("p-1", "How warm is tea?", "Warm.", "Cold.", weight=0.5, margin=1.0, probability=0.75, votes=3),
]


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_json_round_trip_keeps_every_field(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert write_jsonl(path, [record]) == 1
    assert read_jsonl(path, type(record)) == [record]
    assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (Prompt, {"id": "p", "prompt": "", "split": "sft"}, "prompt is empty"),
        (Prompt, {"id": "p", "prompt": 3, "split": "sft"}, "give a string or a list of messages"),
        (Prompt, {"id": "p", "prompt": "x", "split": "train"}, "split is 'train'"),
        (Prompt, {"id": 7, "prompt": "x", "split": "sft"}, "id is int"),
        (Prompt, {"id": "p", "prompt": [{"role": "bot", "content": "x"}], "split": "sft"}, "message role is 'bot'"),
        (Prompt, {"id": "p", "prompt": [{"role": "assistant", "content": "x"}], "split": "sft"}, "assistant's turn"),
        (Prompt, {"id": "p", "prompt": "x"}, "split"),
        (Prompt, {"id": "p", "prompt": "x", "split": "sft", "spilt": 1}, "unknown field 'spilt'"),
        (Prompt, ["p"], "expected a JSON object, found list"),
        (Demonstration, {"prompt_id": "p", "prompt": "x", "response": " "}, "response is empty"),
        (CandidateSet, {"prompt_id": "p", "prompt": "x", "responses": ["a"]}, "1 candidates; a set holds 2 to 16"),
        (CandidateSet, {"prompt_id": "p", "prompt": "x", "responses": ["a", "a"]}, "same text"),
        (CandidateSet, {"prompt_id": "p", "prompt": "x", "responses": ["a", ""]}, "responses[1] is empty"),
        (CandidateSet, {"prompt_id": "p", "prompt": "x", "responses": "ab"}, "must be a list of texts"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, 3]}, "without gaps"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1]}, "1 ranks"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, 2.5]}, "whole numbers"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, True]}, "whole numbers"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, 2], "strengths": [4]}, "not graded"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, 2], "strengths": [1, 1]}, "2 strengths for 1"),
        (Ranking, {"prompt_id": "p", "annotator": "a", "ranks": [1, 2], "display_order": [0, 0]}, "no permutation"),
        (PreferencePair, {"prompt_id": "p", "prompt": "x", "chosen": "a", "rejected": "a"}, "same text"),
        (PreferencePair, {"prompt_id": "p", "prompt": "x", "chosen": "a", "rejected": "b", "weight": 0}, "weight is 0"),
        (
            PreferencePair,
            {"prompt_id": "p", "prompt": "x", "chosen": "a", "rejected": "b", "probability": 2},
            "from 0 to 1",
        ),
    ],
)
def test_bad_record_is_refused_with_the_reason(kind: Any, row: Any, says: str) -> None:
    with pytest.raises(DataError) as caught:
        from_json(kind, row)
    assert says in str(caught.value)


def test_all_bad_lines_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    good = json.dumps({"id": "p-1", "prompt": "x", "split": "sft"})
    path.write_text("\n".join([good, good, json.dumps({"id": "p-2", "prompt": "", "split": "sft"})]) + "\n")
    with pytest.raises(DataError) as caught:
        read_jsonl(path, Prompt, key=lambda prompt: prompt.id)
    assert "line 2: id 'p-1' was already used in line 1" in str(caught.value)
    assert "line 3: prompt is empty" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "file is empty"),
        (b"\n\n", "file is empty"),
        (b'{"a": \n', "line 1: not JSON"),
        (b"1" * 5000, "line 1: a whole number has thousands of digits"),
        (b"[" * 100_000, "line 1: lists or objects are nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_unreadable_file_is_one_message(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_jsonl(path, Prompt)


def test_more_than_twenty_problems_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": ""}\n' * 25)
    with pytest.raises(DataError) as caught:
        read_jsonl(path, Prompt)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "... and 5 more"


def test_swapping_a_pair_twice_gives_it_back() -> None:
    pair = SAMPLES[-1]
    swapped = pair.swap()
    assert (swapped.chosen, swapped.margin, swapped.probability) == (pair.rejected, -1.0, 0.25)
    assert swapped.swap() == pair


def test_character_that_databases_refuse_is_refused_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "prompt": "the escape \\\\u0000 itself", "split": "ppo"}\n', encoding="utf-8")
    assert read_jsonl(path, Prompt)[0].prompt == "the escape \\u0000 itself"
    path.write_text(
        '{"id": "a", "prompt": [{"role": "user", "content": "x\\u0000"}], "split": "ppo"}\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match="a.jsonl line 1: a text holds a NUL character"):
        read_jsonl(path, Prompt)
