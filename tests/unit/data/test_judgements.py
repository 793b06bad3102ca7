"""Import of pairs, candidate sets and rankings: entering the pipeline midway."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.judgements import import_candidates, import_pairs, import_rankings
from rlhf.errors import DataError, shown
from rlhf.records import CandidateSet, PreferencePair, Ranking, write_jsonl

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
SET = CandidateSet("p-1", "Hi?", ("one", "two", "three"))


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
    first, second, third = import_pairs(path)
    assert (first.margin, first.weight, first.probability, first.votes) == (2, 0.5, 0.9, 3)
    assert first.prompt_id == second.prompt_id != third.prompt_id
    # Responses of one prompt are numbered as they come: A 0, B 1, C 2.
    assert [(pair.chosen_index, pair.rejected_index) for pair in (first, second, third)] == [(0, 1), (2, 0), (0, 1)]
    assert second.split == "label"


def test_own_pairs_come_back_unchanged(tmp_path: Path) -> None:
    pairs = [
        PreferencePair("p-1", "Hi?", "A", "B", weight=0.7, margin=0.2, probability=0.8, votes=3),
        PreferencePair("p-1", "Hi?", "A", "C", chosen_index=0, rejected_index=2, split="validation"),
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert import_pairs(tmp_path / "pairs.jsonl") == pairs


def test_pairs_of_no_use_are_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt": "Hi?", "chosen": "A", "rejected": "B"}
    path = write_rows(tmp_path / "a.jsonl", good, {**good, "chosen": ""}, {**good, "rejected": "A"})
    with caplog.at_level(logging.WARNING):
        assert len(import_pairs(path)) == 1
    assert "2 pairs dropped: 1 empty chosen response, 1 chosen and rejected are the same" in caplog.text


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


def test_candidate_sets_are_read_in_our_form_and_others(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "own.jsonl", [SET])
    assert import_candidates(tmp_path / "own.jsonl") == [SET]
    path = write_rows(
        tmp_path / "a.jsonl",
        {"id": 7, "prompt": "Hi?", "completions": ["a", "b"], "systems": ["x", "y"]},
        {"messages": [{"role": "user", "content": "Ho?"}], "responses": ["a", "b"]},
    )
    one, other = import_candidates(path)
    assert (one.prompt_id, one.responses, one.sources) == ("7", ("a", "b"), ("x", "y"))
    assert other.prompt_id.startswith("p-")


def test_malformed_candidate_sets_are_all_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        {"id": "x", "prompt": "Hi?", "completions": ["a", "b"]},
        {"id": "x", "prompt": "Ho?", "completions": ["a", "b"]},
        {"prompt": "Hi?", "completions": ["a"]},
        {"prompt": "Hi?", "completions": ["a", "a"]},
        {"prompt": "Hi?", "completions": ["a", ""]},
        {"prompt": "Hi?", "completions": [str(n) for n in range(10)]},
        {"prompt": "Hi?", "completions": "ab"},
        {"prompt": "Hi?"},
        {"prompt": "", "completions": ["a", "b"]},
        {"prompt": "Hi?", "completions": ["a", "b"], "systems": "xy"},
        {"prompt": "Hi?", "completions": ["a", "b"], "sources": 5},
        {"prompt": "Hi?", "completions": ["a", "b\ud800"]},
    )
    with pytest.raises(DataError) as error:
        import_candidates(path)
    assert problems(error) == [
        "a.jsonl line 2: prompt id 'x' was already used in a.jsonl line 1; give each set its own",
        "a.jsonl line 3: 1 candidates; a set holds 2 to 9",
        "a.jsonl line 4: two candidates are the same text; merge them",
        "a.jsonl line 5: responses[1] is empty",
        "a.jsonl line 6: 10 candidates; a set holds 2 to 9",
        "a.jsonl line 7: completions is no list of texts",
        "a.jsonl line 8: no candidates; give a list of texts in one of responses, completions, candidates, outputs",
        "a.jsonl line 9: empty prompt",
        "a.jsonl line 10: sources are 'xy'; give a list of texts, one per candidate",
        "a.jsonl line 11: sources are 5; give a list of texts, one per candidate",
        "a.jsonl line 12: the escape '\\ud800' is half of a surrogate pair; write the whole character",
    ]


def test_rankings_are_read_in_our_form_and_others(tmp_path: Path) -> None:
    own = Ranking("p-1", "ann", (1, 2, 2), strengths=(3,), flags=((), ("rude",), ()), kind="scripted", seconds=4.5)
    write_jsonl(tmp_path / "own.jsonl", [own])
    assert import_rankings(tmp_path / "own.jsonl", [SET]) == [own]
    path = write_rows(
        tmp_path / "a.jsonl",
        {"prompt": " hi? ", "ranks": [3, 1, 2]},
        {"id": "p-1", "annotations": [{"annotator": "a", "ranks": [1, 2, 3]}, {"annotator": 2, "ranks": [1, 1, 1]}]},
    )
    read = [(one.prompt_id, one.annotator, one.ranks, one.kind) for one in import_rankings(path, [SET])]
    assert read == [
        ("p-1", "imported", (3, 1, 2), "imported"),
        ("p-1", "a", (1, 2, 3), "imported"),
        ("p-1", "2", (1, 1, 1), "imported"),
    ]


def test_ranks_follow_their_candidates_and_close_up(tmp_path: Path) -> None:
    # In the file three is best and the other two tie; competition ranks skip from 1 to 2, or from 1 1 to 3.
    row = {"id": "p-1", "completions": ["three", "one", "two"], "ranks": [1, 2, 2], "flags": [["x"], [], []]}
    other = {"id": "p-1", "annotator": "b", "ranks": [1, 1, 3]}
    first, second = import_rankings(write_rows(tmp_path / "a.jsonl", row, other), [SET])
    assert first.ranks == (2, 2, 1)
    assert first.flags == ((), (), ("x",))
    assert second.ranks == (1, 1, 2)


def test_malformed_rankings_are_all_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        {"prompt_id": "p-1", "annotator": "a", "ranks": [1, 2, 3]},
        {"prompt_id": "p-1", "annotator": "a", "ranks": [1, 2, 3]},
        {"prompt_id": "p-9", "annotator": "a", "ranks": [1, 2, 3]},
        {"prompt_id": "p-1", "annotator": "b", "ranks": [1, 2, 3, 4]},
        {"prompt_id": "p-1", "annotator": "c", "ranks": [0, 1, 2]},
        {"prompt_id": "p-1", "annotator": "d", "ranks": [1.5, 2, 3]},
        {"prompt_id": "p-1", "annotator": "e", "ranks": [1, 2, 3], "completions": ["one", "two", "four"]},
        {"prompt_id": "p-1", "annotator": "f"},
        {"prompt_id": "p-1", "annotations": []},
        {"prompt_id": "p-1", "annotator": "g", "ranks": [1, 2, 3], "strengths": [1]},
    )
    with pytest.raises(DataError) as error:
        import_rankings(path, [SET])
    assert problems(error) == [
        "a.jsonl line 2: 'a' ranked p-1 already in a.jsonl line 1; keep one",
        "a.jsonl line 3: ranking is for prompt 'p-9', which has no candidates; import its candidates too or drop the line",
        "a.jsonl line 4: ranking has 4 ranks, prompt p-1 has candidates 0-2; fix the label or drop the line",
        "a.jsonl line 5: ranks are [0, 1, 2]; use 1..m without gaps (ties share a rank)",
        "a.jsonl line 6: ranks are [1.5, 2, 3]; give a list of whole numbers, 1 is best",
        "a.jsonl line 7: the candidates beside the ranks are not those of prompt p-1",
        "a.jsonl line 8: ranks are None; give a list of whole numbers, 1 is best",
        "a.jsonl line 9: annotations is no list; give objects with annotator and ranks",
        "a.jsonl line 10: 1 strengths for 2 steps between ranks",
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"strengths": 5}, "strengths are 5; give a list of whole numbers"),
        ({"display_order": ["a", 1, 2]}, "display_order are ['a', 1, 2]; give a list of whole numbers"),
        ({"flags": [5, [], []]}, "flags are [5, [], []]; give a list of texts for each candidate"),
        ({"flags": [[5], [], []]}, "flags are [[5], [], []]; give a list of texts for each candidate"),
        ({"flags": 5, "completions": ["three", "one", "two"]}, "flags are 5; give a list of texts for each candidate"),
        ({"flags": [["x"]], "completions": ["three", "one", "two"]}, "1 flag lists for 3 candidates"),
        ({"seconds": "x"}, "seconds is 'x'; give a number from 0 to 1,000,000"),
        ({"seconds": math.nan}, "seconds is nan; give a number from 0 to 1,000,000"),
        ({"seconds": -1}, "seconds is -1; give a number from 0 to 1,000,000"),
        ({"all_bad": "yes"}, "all_bad is 'yes'; give true or false"),
        ({"kind": "alien"}, "kind is 'alien'; use one of human, scripted, imported"),
        ({"answer_id": [1, 2]}, "answer_id is [1, 2]; give text"),
        ({"annotator": "\ud800x"}, "the escape '\\ud800' is half of a surrogate pair; write the whole character"),
    ],
)
def test_what_stands_beside_the_ranks_is_checked(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"prompt_id": "p-1", "ranks": [1, 2, 3], **more})
    with pytest.raises(DataError) as error:
        import_rankings(path, [SET])
    assert problems(error) == [f"a.jsonl line 1: {says}"]


def refuse_marks(name: str, text: str) -> None:
    if "<|" in text:
        raise DataError(f"{name} is marked")


def test_pairs_and_candidates_that_the_base_cannot_take_are_named(tmp_path: Path) -> None:
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
    sets = [{"prompt": [{"role": "user", "content": "<|end|>"}]}, {"prompt": "Hi?"}]
    rows = [{**one, "responses": ["a", "b", "c <|end|>"]} for one in sets]
    with pytest.raises(DataError) as error:
        import_candidates(write_rows(tmp_path / "c.jsonl", *rows), refuse_marks)
    assert problems(error) == ["c.jsonl line 1: prompt is marked", "c.jsonl line 2: responses[2] is marked"]
