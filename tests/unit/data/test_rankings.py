"""Import of candidate sets and rankings: entering the pipeline midway."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.rankings import import_candidates, import_rankings
from rlhf.errors import DataError
from rlhf.records import CandidateSet, Ranking, write_jsonl

SET = CandidateSet("p-1", "Hi?", ("one", "two", "three"))


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_candidate_sets_are_read_in_our_form_and_others(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "own.jsonl", [SET])
    assert import_candidates(tmp_path / "own.jsonl").records == [SET]
    path = write_rows(
        tmp_path / "a.jsonl",
        {"id": 7, "prompt": "Hi?", "completions": ["a", "b"], "systems": ["x", "y"]},
        {"messages": [{"role": "user", "content": "Ho?"}], "responses": ["a", "b"]},
    )
    one, other = import_candidates(path).records
    assert (one.prompt_id, one.responses, one.sources) == ("7", ("a", "b"), ("x", "y"))
    assert other.prompt_id.startswith("p-")


def test_malformed_candidate_sets_are_all_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        {"id": "x", "prompt": "Hi?", "completions": ["a", "b"]},
        {"id": "x", "prompt": "Ho?", "completions": ["a", "b"]},
        {"prompt": "Hi?", "completions": ["a"]},
        {"id": "x", "prompt": "Hi?", "completions": ["a", "c"]},
        {"prompt": "Hi?", "completions": []},
        {"prompt": "Hi?", "completions": [str(n) for n in range(17)]},
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
        "a.jsonl line 3: 1 candidates; a set holds 2 to 16",
        "a.jsonl line 4: prompt id 'x' was already used in a.jsonl line 1; give each set its own",
        "a.jsonl line 5: 0 candidates; a set holds 2 to 16",
        "a.jsonl line 6: 17 candidates; a set holds 2 to 16",
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
    assert import_rankings(tmp_path / "own.jsonl", [SET]).records == [own]
    path = write_rows(
        tmp_path / "a.jsonl",
        {"prompt": " hi? ", "ranks": [3, 1, 2]},
        {"id": "p-1", "annotations": [{"annotator": "a", "ranks": [1, 2, 3]}, {"annotator": 2, "ranks": [1, 1, 1]}]},
    )
    read = [(one.prompt_id, one.annotator, one.ranks, one.kind) for one in import_rankings(path, [SET]).records]
    assert read == [
        ("p-1", "imported", (3, 1, 2), "imported"),
        ("p-1", "a", (1, 2, 3), "imported"),
        ("p-1", "2", (1, 1, 1), "imported"),
    ]


def test_ranks_follow_their_candidates_and_close_up(tmp_path: Path) -> None:
    # In the file three is best and the other two tie; competition ranks skip from 1 to 2, or from 1 1 to 3.
    row = {"id": "p-1", "completions": ["three", "one", "two"], "ranks": [1, 2, 2], "flags": [["x"], [], []]}
    other = {"id": "p-1", "annotator": "b", "ranks": [1, 1, 3]}
    first, second = import_rankings(write_rows(tmp_path / "a.jsonl", row, other), [SET]).records
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


def test_candidates_that_the_base_cannot_take_are_named(tmp_path: Path) -> None:
    sets = [{"prompt": [{"role": "user", "content": "<|end|>"}]}, {"prompt": "Hi?"}]
    rows = [{**one, "responses": ["a", "b", "c <|end|>"]} for one in sets]
    with pytest.raises(DataError) as error:
        import_candidates(write_rows(tmp_path / "c.jsonl", *rows), refuse_marks)
    assert problems(error) == ["c.jsonl line 1: prompt is marked", "c.jsonl line 2: responses[2] is marked"]


def test_empty_and_repeated_candidates_are_merged_and_ranks_follow(tmp_path: Path) -> None:
    row = {
        "prompt": "Hi?",
        "completions": ["a", "b", "a", " ", "c"],
        "systems": ["v", "w", "x", "y", "z"],
        "annotations": [
            # a was ranked 1 and 4, on average 2.5, behind b with 2.
            {"annotator": "m", "ranks": [1, 2, 4, 5, 3], "flags": [["rude"], [], ["rude", "false"], ["spam"], []]},
            # The empty text does not count: a has places 1 and 3, on average that of b.
            {"annotator": "n", "ranks": [1, 2, 3, 1, 4]},
            # a has places 1.5 and 3.5, b 1.5, c 3.5.
            {"annotator": "o", "scores": [0.5, 0.5, 0.1, 9, 0.1]},
            # Places 2, 2 and 2 for a, b and c, and 4 for the other a.
            {"annotator": "p", "ranks": [1, 1, 5, 1, 1]},
            # b and c share places 2 and 3; a has 1 and 4: all come to 2.5.
            {"annotator": "q", "ranks": [1, 2, 3, 1, 2]},
        ],
    }
    path = write_rows(tmp_path / "a.jsonl", row)
    sets = import_candidates(path)
    assert [(one.responses, one.sources) for one in sets.records] == [(("a", "b", "c"), ("v + x", "w", "z"))]
    assert sets.dropped == {"empty candidate": 1, "repeated candidate, merged": 1}
    assert sets.problems == ["a.jsonl line 1: empty candidate", "a.jsonl line 1: repeated candidate, merged"]
    rankings = import_rankings(path, sets.records).records
    assert [one.ranks for one in rankings] == [(2, 1, 3), (1, 1, 2), (2, 1, 3), (2, 1, 1), (1, 1, 1)]
    assert rankings[0].flags == (("rude", "false"), (), ())


def test_set_that_leaves_one_candidate_is_left_out_with_its_rankings(tmp_path: Path) -> None:
    annotations = [{"annotator": "m", "ranks": [1, 2]}, {"annotator": "n", "ranks": [2, 1]}]
    rows = [
        {"id": "x", "prompt": "Hi?", "completions": ["a", ""], "annotations": annotations},
        {"id": "y", "prompt": "Ho?", "completions": ["a", "b"], "annotations": annotations},
    ]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    sets = import_candidates(path)
    rankings = import_rankings(path, sets.records)
    assert [one.prompt_id for one in sets.records] == ["y"]
    assert sets.dropped == {"set of fewer than two different candidates": 1}
    assert [one.prompt_id for one in rankings.records] == ["y", "y"]
    assert rankings.dropped == {"ranking of a set of fewer than two different candidates": 2}
    with pytest.raises(DataError, match=r"no candidate set is left: 1 set of fewer .*\n  first: b.jsonl line 1: set"):
        import_candidates(write_rows(tmp_path / "b.jsonl", rows[0]))


def test_one_row_per_annotator_is_one_set(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi?", "responses": ["a", "b"], "annotator": "m", "ranks": [1, 2]},
        {"prompt": "Hi?", "responses": ["b", "a"], "annotator": "n", "ranks": [1, 2]},
    ]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    sets = import_candidates(path)
    assert [one.responses for one in sets.records] == [("a", "b")]
    assert sets.dropped == {"repeated set": 1}
    assert [one.ranks for one in import_rankings(path, sets.records).records] == [(1, 2), (2, 1)]


def test_tables_hold_lists_as_json_and_may_leave_cells_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt_id", "prompt", "responses", "annotator", "ranks", "strengths", "seconds", "all_bad"])
        writer.writerow(["p-7", "Hi?", '["[1]", "2"]', "007", "[2, 1]", "[3]", "4.5", "true"])
        writer.writerow(["p-7", "Hi?", '["[1]", "2"]', "8", "[1, 2]", "", "", ""])
    (item,) = import_candidates(path).records
    assert (item.prompt_id, item.responses) == ("p-7", ("[1]", "2"))
    assert import_rankings(path, [item]).records == [
        Ranking("p-7", "007", (2, 1), strengths=(3,), seconds=4.5, all_bad=True, kind="imported"),
        Ranking("p-7", "8", (1, 2), kind="imported"),
    ]


def test_named_columns_stand_in_place_of_the_usual_ones(tmp_path: Path) -> None:
    row = {
        "messages": "no",
        "ask": "Hi?",
        "completions": ["no", "none"],
        "texts": ["a", "b"],
        "annotations": [{"annotator": "no", "who": "m", "ranks": [1, 2], "taste": [2, 1], "points": [7, 9.5]}],
    }
    path = write_rows(tmp_path / "a.jsonl", row)
    of_set = {"prompt": "ask", "responses": "texts"}
    sets = import_candidates(path, columns=of_set).records
    assert [(one.prompt, one.responses) for one in sets] == [("Hi?", ("a", "b"))]
    for named in ({"ranks": "taste"}, {"scores": "points"}):
        (ranking,) = import_rankings(path, sets, {**of_set, "annotator": "who", **named}).records
        assert (ranking.annotator, ranking.ranks) == ("m", (2, 1))
    with pytest.raises(
        DataError, match=r"line 1: no field 'tastes' \(ranks_field\); the row has annotator, who, ranks"
    ):
        import_rankings(path, sets, {**of_set, "ranks": "tastes"})


def test_prompt_with_several_sets_needs_the_id_or_the_candidates(tmp_path: Path) -> None:
    sets = [CandidateSet("x", "Hi?", ("a", "b")), CandidateSet("y", "Hi?", ("a", "c"))]
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "Hi?", "responses": ["c", "a"], "ranks": [1, 2]})
    assert [(one.prompt_id, one.ranks) for one in import_rankings(path, sets).records] == [("y", (2, 1))]
    path = write_rows(tmp_path / "b.jsonl", {"prompt": "Hi?", "ranks": [1, 2]})
    with pytest.raises(DataError, match="line 1: the prompt has 2 candidate sets; say with prompt_id which"):
        import_rankings(path, sets)


def test_a_row_without_a_prompt_says_what_it_has(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"frage": "Hi?", "antworten": list(SET.responses), "ranks": [1, 2, 3]})
    with pytest.raises(DataError) as caught:
        import_rankings(path, [SET])
    (said,) = problems(caught)
    assert (
        "line 1: the row names no prompt; it has frage, antworten, ranks: give prompt_id, or say with prompt_field"
        in said
    )
