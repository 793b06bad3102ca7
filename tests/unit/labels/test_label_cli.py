"""`rlhf label`: which round a command means, and what it refuses in one message with nothing left half done."""

import json
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim, claim_many, progress
from rlhf.labels.items import publish_known, read_known
from rlhf.labels.publishing import publish, round_row
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission
from rlhf.labels.users import create_user
from rlhf.records import write_jsonl

BIG = "99999999999999999999"


@pytest.fixture
def folder(tmp_path, make_sets) -> Path:
    """A database with two rounds, of which the first has an answer; and files to go wrong with."""
    write_jsonl(tmp_path / "c.jsonl", make_sets(3))
    with open_store(tmp_path / "labels.db", create=True) as store:
        for number in (1, 2):
            publish(store, make_sets(3), overlap=2, round=number, seed=number)
        create_user(store, "Max", "admin")
        ada = ensure_annotator(store, "Ada")
        view = claim(store, ada, round=1)
        assert view is not None
        submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    first = {"prompt_id": "g", "prompt": "x", "responses": ["a", "b"]}
    rows = {
        "gold": [{**first, "ranks": [1, 2]}, {**first, "ranks": [2, 1]}],
        "priorities": [{"prompt_id": ["p-0"], "priority": 1}],
        "promptless": [{"prompt_id": "p", "responses": ["a", "b"]}],
        "manifest": [{"event": 99, "head_hash": "0" * 64}],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Run `rlhf label` with the words of a line, {} being the folder; return exit code, output, errors."""
    try:
        main(["label", *(word.replace("{}", str(folder)) for word in line.split())])
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_without_a_number_the_latest_round_is_meant(folder, capsys):
    code, said, _ = run(folder, capsys, "export {}/labels.db {}/out")
    assert (code, "of 0 prompts of round 2" in said) == (0, True)
    code, said, _ = run(folder, capsys, "export {}/labels.db {}/out --round 1")
    assert (code, "1 rankings" in said, "of round 1" in said) == (0, True, True)
    assert "closed 3 open tasks of round 2" in run(folder, capsys, "close {}/labels.db")[1]
    assert "round 2: closed" not in run(folder, capsys, "status {}/labels.db")[1]
    assert "closed" in run(folder, capsys, "status {}/labels.db")[1]


def test_init_again_keeps_the_order_of_the_round(folder, capsys):
    def seed() -> int:
        with open_store(folder / "labels.db") as store, store.reading() as connection:
            return round_row(connection, 2).seed

    before = seed()
    code, said, _ = run(folder, capsys, "init {}/labels.db --candidates {}/c.jsonl --overlap 3")
    assert (code, "round 2: 3 tasks (0 new), 9 slots" in said) == (0, True)
    assert seed() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("export {}/labels.db {}/out --round 9", "there is no round 9; there are 1, 2"),
        ("close {}/labels.db --round 99", "there is no round 99"),
        ("delete {}/labels.db --round 99 --why x --yes", "there is no round 99"),
        ("serve {}/labels.db --round 77", "there is no round 77"),
        ("import {}/labels.db {}/c.jsonl --round 9", "there is no round 9"),
        (f"export {{}}/labels.db {{}}/out --round {BIG}", f"'{BIG}' is no whole number from 0 to"),
        (f"export {{}}/labels.db {{}}/out --event {BIG}", "no whole number"),
        (f"delete {{}}/labels.db --answer a-{BIG} --why x --yes", "no whole number"),
        ("delete {}/labels.db --answer zz --why x --yes", "'zz' is no whole number from 1"),
        (f"user {{}}/labels.db limit Ada {BIG}", "no whole number from 0 to 1000000, or none"),
        ("user {}/labels.db add annotator-02 --no-password", "looks like somebody's pseudonym"),
        ("erase-person {}/labels.db Max --yes", "is the only admin"),
        ("verify {}/labels.db --against {}/none.json", "no such file; give the export.json"),
        ("verify {}/labels.db --against {}/c.jsonl", "not an export manifest"),
        ("verify {}/labels.db --against {}/manifest.jsonl", "is as of event 99, this history ends at "),
    ],
)
def test_what_is_not_there_is_refused(folder, capsys, line, message):
    (folder / "out").mkdir()
    (folder / "out" / "rankings.jsonl").write_text("kept", encoding="utf-8")
    code, said, error = run(folder, capsys, line)
    assert (code in (1, 2), said) == (True, "")
    assert message in error
    assert "Traceback" not in error
    assert (folder / "out" / "rankings.jsonl").read_text(encoding="utf-8") == "kept", "an earlier export stays"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--gold {}/gold.jsonl", "--gold says how candidates are given out; name them with --candidates"),
        ("--overlap 3", "--overlap says how candidates"),
        ("--candidates {}/c.jsonl --gold {}/gold.jsonl", "gold.jsonl line 2: the same item as in line 1"),
        ("--candidates {}/c.jsonl --priorities {}/priorities.jsonl", "has no task in this round"),
        ("--candidates {}/c.jsonl --guidelines {}", "a folder, not a file"),
        ("--candidates {}/c.jsonl --guidelines {}/none.md", "guidelines: "),
        ("--candidates {}", "a folder, not a file"),
        ("--candidates {}/promptless.jsonl", "field 'prompt' is missing"),
        ("--candidates {}/c.jsonl --max-overlap 1", "max_overlap is 1, below the overlap of 2"),
        (f"--candidates {{}}/c.jsonl --seed {BIG}", "no whole number"),
        (f"--candidates {{}}/c.jsonl --task-limit {BIG}", "no whole number"),
        ("--candidates {}/c.jsonl --round -1", "'-1' is no whole number"),
    ],
)
def test_a_database_that_cannot_be_filled_is_not_made(folder, capsys, options, message):
    code, said, error = run(folder, capsys, f"init {{}}/new.db {options}")
    assert (code in (1, 2), said) == (True, "")
    assert message in error
    assert [path.name for path in folder.iterdir() if path.name.startswith("new.db")] == []


def test_a_byte_order_mark_is_no_mistake(folder, capsys):
    text = (folder / "c.jsonl").read_text(encoding="utf-8")
    (folder / "windows.jsonl").write_text(text, encoding="utf-8-sig")
    assert run(folder, capsys, "init {}/new.db --candidates {}/windows.jsonl")[0] == 0


def test_a_task_in_ones_hands_is_counted_once_and_not_given_out_again(store, person, make_sets):
    publish(store, make_sets(4), overlap=3)
    ada = person("Ada")
    assert progress(store, ada).available == 4
    claim(store, ada)
    assert progress(store, ada).available == 4, "the one at hand and three more"
    assert len(claim_many(store, ada, limit=10)) == 4


def test_known_items_still_read(folder):
    (folder / "gold.jsonl").write_text(
        "\n".join(json.dumps({"prompt_id": f"g-{n}", "prompt": "x", "responses": ["a", "b"], "ranks": [1, 2]}) for n in (1, 2)),
        encoding="utf-8",
    )  # fmt: skip
    with open_store(folder / "labels.db") as store:
        assert publish_known(store, read_known(folder / "gold.jsonl"), purpose="gold", round=2) == 2


def test_imported_rankings_may_name_their_columns(folder, capsys, make_sets):
    rows = [
        {"who": "Eve", "ask": item.prompt, "texts": list(item.responses), "help": [3, 1, 2], "ranks": [1, 1, 1]}
        for item in make_sets(3)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = "--prompt-field ask --responses-field texts --ranks-field help --annotator-field who"
    code, said, error = run(folder, capsys, f"import {{}}/labels.db {{}}/own.jsonl {names}")
    assert (code, error) == (0, "")
    assert "round 2: 3 rankings imported" in said
    run(folder, capsys, "export {}/labels.db {}/out")
    written = [json.loads(line) for line in (folder / "out" / "rankings.jsonl").read_text().splitlines()]
    assert [row["ranks"] for row in written] == [[3, 1, 2]] * 3
    code, _, error = run(
        folder, capsys, f"import {{}}/labels.db {{}}/own.jsonl {names} --ranks-field nothing --round 1"
    )
    assert code == 1
    assert "nothing" in error
    assert "Traceback" not in error
