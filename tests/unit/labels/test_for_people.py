"""A round as the recipe's `rankings` section describes it, and the commands that make one."""

import json

import pytest
from sqlalchemy import select

from rlhf.cli import main
from rlhf.config.data import RankingsConfig
from rlhf.errors import DataError, LabelError
from rlhf.labels.accounts import current_guidelines, ensure_annotator
from rlhf.labels.assignment import claim, progress
from rlhf.labels.for_people import publish_for_people
from rlhf.labels.rounds import SERVER, has_store, run_store, store_place, use_server
from rlhf.labels.schema import rounds, tasks
from rlhf.labels.store import open_store
from rlhf.records import write_jsonl


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(arguments) -> int:
    """Run `rlhf` with these arguments; return its exit code."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return int(done.value.code or 0)


def known(name):
    return {"prompt_id": name, "prompt": "q", "responses": ["a", "b"], "ranks": [1, 2], "explanation": "a is right"}


def test_every_setting_reaches_the_store(store, make_sets, tmp_path):
    settings = RankingsConfig(
        overlap=2,
        max_overlap=4,
        extra_below=0.6,
        task_limit=7,
        gold=write_lines(tmp_path / "gold.jsonl", known("g-1")),
        gold_share=0.1,
        training=write_lines(tmp_path / "training.jsonl", known("t-1"), known("t-2")),
        repeat_share=0.2,
        priorities=write_lines(tmp_path / "priorities.jsonl", {"prompt_id": "p-3", "priority": 2.5, "model": "rm-1"}),
        random_share=0.5,
        guidelines=tmp_path / "guide.md",
    )
    settings.guidelines.write_text("Be fair.")
    publish_for_people(store, make_sets(4), settings, round=2, seed=5)
    again = publish_for_people(store, make_sets(4), settings, round=2, seed=5)
    assert (again.new, again.slots) == (0, 8)
    with store.reading() as connection:
        row = connection.execute(select(rounds)).one()
        assert tuple(row) == (2, 2, 4, 0.6, 0.2, 0.1, 7, 5)
        found = connection.execute(
            select(tasks.c.purpose, tasks.c.prompt_id, tasks.c.priority, tasks.c.selection)
        ).all()
        assert current_guidelines(connection) == (1, "Be fair.")
    assert sorted((row.purpose, row.prompt_id) for row in found if row.purpose != "label") == [
        ("gold", "g-1"), ("training", "t-1"), ("training", "t-2"),
    ]  # fmt: skip
    assert [row.priority for row in found if row.prompt_id == "p-3"] == [2.5]
    assert sum(row.selection == "random" for row in found if row.purpose == "label") == 2
    assert progress(store, ensure_annotator(store, "Ada"), round=2).training_left == 2


def test_gold_needs_items(store, make_sets):
    publish_for_people(store, make_sets(1), RankingsConfig(gold_share=0.3), round=1, seed=1)
    with store.reading() as connection:
        assert connection.execute(select(rounds.c.gold_share)).scalar_one() == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_id": "p-9", "priority": 1}, "line 1: prompt 'p-9' has no task"),
        ({"prompt_id": "p-0", "priority": "high"}, "line 1: priority is 'high'"),
        ({"prompt_id": "p-0", "priority": float("inf")}, "line 1"),
        ({"prompt_id": "p-0"}, "line 1: expected"),
    ],
)
def test_bad_priorities_are_listed_and_change_nothing(store, make_sets, tmp_path, row, message):
    settings = RankingsConfig(priorities=write_lines(tmp_path / "priorities.jsonl", row))
    with pytest.raises(DataError, match=message):
        publish_for_people(store, make_sets(1), settings, round=1, seed=1)
    assert claim(store, ensure_annotator(store, "Ada")) is None


def test_missing_files_are_named(store, make_sets, tmp_path):
    for name in ("gold", "training", "priorities", "guidelines"):
        with pytest.raises(DataError, match=f"rankings.{name}: .*none.jsonl: no such file"):
            publish_for_people(store, make_sets(1), RankingsConfig(**{name: tmp_path / "none.jsonl"}), round=1, seed=1)
    with pytest.raises(LabelError, match="up to how many with max_overlap"):
        publish_for_people(store, make_sets(1), RankingsConfig(extra_below=0.5), round=1, seed=1)


def test_the_commands_from_a_terminal(make_sets, tmp_path, capsys):
    candidates, place = tmp_path / "candidates.jsonl", str(tmp_path / "labels.db")
    write_jsonl(candidates, make_sets(3))
    gold = write_lines(tmp_path / "gold.jsonl", known("g-1"))
    line = ["label", "init", place, "--candidates", str(candidates), "--gold", str(gold), "--gold-share", "0.2"]
    assert run([*line, "--max-overlap", "4", "--extra-below", "0.5", "--task-limit", "9"]) == 0
    assert "3 tasks (3 new), 6 slots" in capsys.readouterr().out
    assert run(["label", "backup", place, str(tmp_path / "copy.db")]) == 0
    assert "0 answers, checked; head: event" in capsys.readouterr().out
    with open_store(tmp_path / "labels.db") as store, store.reading() as connection:
        assert tuple(connection.execute(select(rounds)).one())[1:7] == (2, 4, 0.5, 0.05, 0.2, 9)
    for arguments, message in (
        ([*line, "--repeat-share", "0.9"], "--repeat-share is 0.9"),
        (["label", "erase-person", place, "Eve", "--yes"], "nobody is called 'Eve'"),
        (["label", "delete", place, "--answer", "a-7", "--why", "x"], "a-7: no answer that counts"),
        (["label", "status", "postgresql://u:secret@localhost:1/none"], "refused"),
    ):
        assert run(arguments) != 0
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert "secret" not in error


def test_a_run_may_keep_its_answers_on_a_server(tmp_path, postgres, make_sets):
    labels = tmp_path / "labels"
    assert (store_place(labels), has_store(labels)) == (labels / "labels.db", False)
    with pytest.raises(LabelError, match="holds a password; leave it out"):
        use_server(labels, "postgresql://me:secret@host/labels")
    use_server(labels, postgres)
    use_server(labels, postgres)
    assert (store_place(labels), has_store(labels)) == (postgres, True)
    with run_store(labels, create=True) as store:
        publish_for_people(store, make_sets(1), RankingsConfig(), round=1, seed=1)
    with run_store(labels) as store:
        assert not store.is_file
    with pytest.raises(LabelError, match=f"answers already; move them with `rlhf label backup .*{SERVER}"):
        use_server(labels, "postgresql://other/labels")
    other = tmp_path / "other"
    run_store(other, create=True).close()
    with pytest.raises(LabelError, match="answers already"):
        use_server(other, postgres)


def test_sets_of_more_than_nine_are_not_for_people(store, make_sets):
    publish_for_people(store, make_sets(1, candidates=9), RankingsConfig(), round=1, seed=1)
    with pytest.raises(DataError) as error:
        publish_for_people(store, make_sets(2, candidates=10), RankingsConfig(), round=2, seed=1)
    assert str(error.value).splitlines() == [
        "2 sets have more than the 9 candidates that people rank; leave some of their candidates out, or take the rankings "
        "from a file (rankings.import_path):",
        "  prompt p-0: 10 candidates",
        "  prompt p-1: 10 candidates",
    ]
