"""A database of an earlier version opens, with everything that people said."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError
from rlhf.labels import migrations
from rlhf.labels.accounts import list_annotators
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.events import verify
from rlhf.labels.exports import read_export
from rlhf.labels.publishing import list_rounds, round_status
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission

VERSION_1 = Path(__file__).with_name("version_1.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of schema version 1."""
    path = tmp_path / "labels.db"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1.read_text(encoding="utf-8"))
    connection.close()
    return path


def layout(path: Path) -> dict[str, set[tuple]]:
    """Return the columns, indexes and triggers of every table, without regard to the order of columns."""
    connection = sqlite3.connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found: dict[str, set[tuple]] = {}
    for name in names:
        columns = {tuple(row[1:4]) + tuple(row[5:]) for row in connection.execute(f"PRAGMA table_info({name})")}
        keys = {tuple(row[2:5]) for row in connection.execute(f"PRAGMA foreign_key_list({name})")}
        indexes = set()
        for _, index, unique, origin, partial in connection.execute(f"PRAGMA index_list({name})"):
            columns_of = tuple(row[2] for row in connection.execute(f"PRAGMA index_info({index})"))
            indexes.add((unique, origin, partial, columns_of))
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
        triggers = set(connection.execute(query, (name,)))
        found[name] = columns | keys | indexes | triggers
    connection.close()
    return found


def test_version_1_becomes_what_is_made_today(old, tmp_path):
    open_store(old).close()
    open_store(tmp_path / "new.db", create=True).close()
    assert layout(old) == layout(tmp_path / "new.db")


def test_nothing_that_people_said_is_lost(old):
    with open_store(old) as store:
        assert verify(store).ok, "digests of old answers stay true"
        found = {(row.annotator, row.answer_id): row.ranks for row in read_export(store, round=1)[0]}
        assert found == {("annotator-01", "a-2"): (2, 3, 1), ("annotator-02", "a-3"): (2, 1, 3)}
        status = round_status(store, 1)
        assert (status.tasks, status.slots, status.filled, status.leased, list_rounds(store)) == (2, 4, 2, 1, [1])
        ada, ben = list_annotators(store)
        view = claim(store, ada, round=1)
        assert view.draft["comment"] == "to be", "the draft is back"
        submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
        submit(store, ben, Submission(claim(store, ben, round=1).submission_id, ranks=(1, 2, 3)))
        assert round_status(store, 1).complete
        assert claim(store, ben, round=1) is None
        with store.reading() as connection:
            free = connection.execute(text("SELECT free FROM tasks ORDER BY id")).scalars().all()
        assert free == [0, 0]


def test_the_file_as_it_was_is_kept(old):
    open_store(old).close()
    kept = sqlite3.connect(old.with_name("labels.db.version-1"))
    assert kept.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("1",)
    assert kept.execute("SELECT count(*) FROM answers").fetchone() == (3,)
    kept.close()


def test_a_step_that_fails_changes_nothing(old, monkeypatch):
    broken = migrations.TO_VERSION_2.replace("DROP INDEX slots_by_status", "DROP INDEX no_such_index")
    monkeypatch.setitem(migrations.STEPS, 1, broken)
    with pytest.raises(LabelError, match="could not be brought up to date .*no_such_index"):
        open_store(old)
    monkeypatch.undo()
    with open_store(old) as store:
        assert verify(store).ok
        assert round_status(store, 1).filled == 2


def test_versions_without_a_way_are_refused(old):
    connection = sqlite3.connect(old)
    connection.execute("UPDATE meta SET value = '0' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(LabelError, match="schema version 0 cannot be brought up to date"):
        open_store(old)
