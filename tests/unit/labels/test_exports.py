"""Export, import, and the commands behind `rlhf label`."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from rlhf.config.data import RankingsConfig
from rlhf.data.rankings import import_rankings as read_rankings
from rlhf.errors import DataError, LabelError
from rlhf.labels.aggregate import group_by_prompt
from rlhf.labels.answers import adjudicate, history
from rlhf.labels.commands import export_command, import_command, init_command, status_command, verify_command
from rlhf.labels.events import verify
from rlhf.labels.exports import export_bytes, export_rankings, import_rankings, read_export
from rlhf.labels.publishing import publish, published_sets, round_status
from rlhf.records import Ranking, read_jsonl, write_jsonl


def write_lines(path, *rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_an_export_is_a_function_of_the_event(published, person, answer, tmp_path):
    answer(published, person("Ada"))
    first = export_rankings(published, tmp_path)
    content = (tmp_path / "rankings.jsonl").read_bytes()
    answer(published, person("Ben"))
    again = export_rankings(published, tmp_path, event=first.event)
    assert (again, (tmp_path / "rankings.jsonl").read_bytes()) == (first, content)
    (ranking,) = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    assert (ranking.annotator, ranking.kind) == ("annotator-01", "human")
    assert json.loads((tmp_path / "export.json").read_text())["head_hash"] == first.head_hash


def test_import_keeps_ranks_marks_kinds_and_hides_names(published, tmp_path):
    path = tmp_path / "old.jsonl"
    rows = [
        Ranking("p-0", "maria@example.org", (1, 2, 2), strengths=(3,), all_bad=True),
        Ranking("p-1", "maria@example.org", (3, 1, 2), display_order=(2, 0, 1), seconds=12.5),
        Ranking("p-1", "bot", (1, 1, 1), kind="scripted"),
        Ranking("p-1", "extra", (2, 1, 3)),
    ]
    write_jsonl(path, rows)
    assert import_rankings(published, path).rankings == 4
    found = {(row.prompt_id, row.annotator): row for row in read_export(published)[0]}
    assert {key: row.ranks for key, row in found.items()} == {
        ("p-0", "imported-01"): (1, 2, 2),
        ("p-1", "imported-01"): (3, 1, 2),
        ("p-1", "scripted-01"): (1, 1, 1),
        ("p-1", "imported-02"): (2, 1, 3),
    }
    assert found["p-1", "imported-01"].display_order == (2, 0, 1)
    assert (found["p-0", "imported-01"].kind, found["p-1", "scripted-01"].kind) == ("imported", "scripted")
    assert round_status(published, 0).slots == 5, "a slot was added for the third ranking of p-1"
    assert b"maria" not in export_bytes(list(found.values()))
    again = import_rankings(published, path)
    assert (again.rankings, again.known) == (0, 4)
    assert publish_again(published) == 5
    assert verify(published).ok


def publish_again(store) -> int:
    return publish(store, published_sets(store, 0), overlap=2, seed=1).slots


def test_every_bad_line_is_reported_with_its_remedy(make_sets, tmp_path):
    path = tmp_path / "rankings.jsonl"
    good = {"prompt_id": "p-0", "annotator": "x", "ranks": [1, 2, 3, 4]}
    write_lines(
        path,
        good,
        {"prompt_id": "p-1", "annotator": "x", "order": [0, 5, 1, 2]},
        {"prompt_id": "p-9", "annotator": "x", "ranks": [1, 2, 3, 4]},
        {**good, "ranks": [1, 2, 3]},
        {**good, "ranks": [1, 2, 3, 5]},
        good,
        {"prompt_id": "p-1", "annotator": "x", "order": [0, [1, 2]]},
    )
    with pytest.raises(DataError) as caught:
        read_rankings(path, make_sets(2, candidates=4))
    message = str(caught.value)
    for expected in (
        "rankings.jsonl line 2: ranking names candidate 5, prompt p-1 has candidates 0-3; fix the label or drop the line",
        "line 3: ranking is for prompt 'p-9', which has no candidates",
        "line 4: ranking has 3 ranks, prompt p-0 has candidates 0-3",
        "line 5: ranks are [1, 2, 3, 5]; use 1..m without gaps",
        "line 6: 'x' ranked p-0 already in",
        "line 7: order is [0, [1, 2]]; name each of the candidates 0-3 of p-1 once",
    ):
        assert expected in message, message


def test_unknown_flag_is_refused(published, tmp_path):
    write_lines(
        tmp_path / "r.jsonl", {"prompt_id": "p-0", "annotator": "z", "ranks": [1, 2, 3], "flags": [["ugly"], [], []]}
    )
    with pytest.raises(DataError, match="prompt p-0: flag is 'ugly'"):
        import_rankings(published, tmp_path / "r.jsonl")


def test_orders_may_be_given_best_first(make_sets, tmp_path):
    path = tmp_path / "rankings.jsonl"
    write_lines(path, {"prompt_id": "p-0", "annotator": "x", "order": [2, [0, 3], 1]})
    (ranking,) = read_rankings(path, make_sets(1, candidates=4)).records
    assert ranking.ranks == (2, 3, 1, 2)


def test_import_needs_published_tasks(store, tmp_path):
    write_lines(tmp_path / "r.jsonl", {"prompt_id": "p-0", "annotator": "x", "ranks": [1, 2]})
    with pytest.raises(LabelError, match="round 0 has no tasks; publish the candidates first"):
        import_rankings(store, tmp_path / "r.jsonl")


def test_a_bad_file_imports_nothing(published, tmp_path):
    rows = [{"prompt_id": "p-0", "annotator": "x", "ranks": [1, 2, 3]}, {"prompt_id": "p-0", "annotator": "y"}]
    write_lines(tmp_path / "r.jsonl", *rows)
    with pytest.raises(DataError, match="line 2"):
        import_rankings(published, tmp_path / "r.jsonl")
    assert read_export(published)[0] == []


def test_commands_from_candidates_to_a_verified_export(tmp_path, make_sets):
    candidates, rankings = tmp_path / "candidates.jsonl", tmp_path / "given.jsonl"
    write_jsonl(candidates, make_sets(3))
    write_jsonl(rankings, [Ranking(f"p-{n}", who, (1, 2, 3)) for n in range(3) for who in ("x", "y")])
    (tmp_path / "guide.md").write_text("# Be kind")
    database = tmp_path / "labels.db"
    said = init_command(database, candidates, settings=RankingsConfig(overlap=2, guidelines=tmp_path / "guide.md"))
    assert "3 tasks (3 new), 6 slots" in said
    assert "guidelines: version 1" in said
    assert import_command(database, rankings) == "round 1: 6 rankings imported, 0 known already"
    assert "6 rankings (6 imported) of 3 prompts of round 1 by 2 annotators" in export_command(
        database, tmp_path / "out"
    )
    status = status_command(database)
    assert "6 of 6 slots filled, complete" in status
    assert "alpha      undefined, because all answers are the same" in status
    assert "as they were written" in verify_command(database, against=tmp_path / "out" / "export.json")


def test_verify_refuses_a_foreign_manifest(published, tmp_path):
    (tmp_path / "export.json").write_text('{"event": 1, "head_hash": "ab"}')
    with pytest.raises(LabelError, match="the past was rewritten"):
        verify_command(published.place, against=tmp_path / "export.json")


def test_labels_import_neither_torch_nor_gradio():
    names = "accounts aggregate agreement answers assignment bias commands events exports publishing scripted store"
    code = (
        "import importlib, sys\n"
        f"for name in {names.split()!r}: importlib.import_module('rlhf.labels.' + name)\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'gradio', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_later_withdrawal_does_not_change_an_earlier_export(published, person, answer, make_sets, tmp_path):
    answer(published, person("Ada"))
    answer(published, person("Ada"))
    first = export_rankings(published, tmp_path)
    content = (tmp_path / "rankings.jsonl").read_bytes()
    publish(published, make_sets(1), overlap=2, seed=1, discard_answers=True)
    assert read_export(published)[1].rankings == 1
    again = export_rankings(published, tmp_path, event=first.event)
    assert (again, (tmp_path / "rankings.jsonl").read_bytes()) == (first, content)
    assert first.rankings == 2


def test_what_people_wrote_goes_to_a_file_of_its_own(published, person, answer, tmp_path):
    answer(published, person("Ada"), comment=" closer ", confidence=3, edit_of=1, edit="Better.")
    answer(published, person("Ben"))
    manifest = export_rankings(published, tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    rankings = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    ranking = next(item for item in rankings if item.answer_id == row["answer_id"])
    assert (row["comment"], row["edit"], row["edit_of"]) == ("closer", "Better.", ranking.display_order[1])
    assert (ranking.confidence, ranking.annotator) == (3, row["annotator"])
    assert b"closer" not in (tmp_path / "rankings.jsonl").read_bytes()
    assert manifest.texts_sha256 != export_rankings(published, tmp_path, event=0).texts_sha256


def test_a_managers_decision_is_marked_and_stands_alone(published, person, answer, tmp_path):
    first = answer(published, person("Ada"))
    answer(published, person("Ben"))
    manager = replace(person("Mia"), role="manager")
    adjudicate(published, manager, first.task_id, (2, 1, 3), comment="guideline 2")
    rankings, manifest = read_export(published)
    decided = [item for item in rankings if item.adjudicated]
    assert [item.ranks for item in decided] == [(2, 1, 3)]
    assert (manifest.adjudicated, manifest.rankings) == (1, 3)
    grouped = group_by_prompt(published_sets(published, 0), rankings)
    assert grouped[decided[0].prompt_id] == decided, "it stands in place of the others"
    assert round_status(published, 0).filled == 2, "it fills no annotator's slot"
    assert history(published, manager) == []
    with pytest.raises(LabelError, match="deciding takes a manager"):
        adjudicate(published, person("Ada"), first.task_id, (2, 1, 3))
    with pytest.raises(LabelError, match="2 ranks for 3 responses"):
        adjudicate(published, manager, first.task_id, (2, 1))
    with pytest.raises(LabelError, match="no task 99"):
        adjudicate(published, manager, 99, (2, 1, 3))
