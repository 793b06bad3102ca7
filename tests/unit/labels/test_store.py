"""Opening a store, and the promises of its file."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DatabaseError, OperationalError

from labeling_ui.app import COOKIE, STORE_AWAY, guarded
from rlhf.errors import LabelError, StoreUnavailableError
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.schema import meta
from rlhf.labels.store import file_system_of, open_store
from tests.postgres import find_programs, running_server


class Caller:
    """The one thing of a web request that handlers look at."""

    def __init__(self, secret: str) -> None:
        self.cookies = {COOKIE: secret}


def test_the_file_is_set_up_for_durability(file_store):
    with file_store.reading() as connection:
        settings = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
        "secure_delete": 1,
    }


def test_a_write_transaction_holds_the_lock_from_its_first_word(file_store):
    with file_store.transaction():
        other = sqlite3.connect(file_store.place, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


@pytest.mark.parametrize(("free", "says"), [(4096, "the disk is full; free some space"), (1 << 30, "disk I/O error")])
def test_a_disk_without_room_is_called_full(file_store, monkeypatch, free, says):
    monkeypatch.setattr("rlhf.labels.store.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(StoreUnavailableError, match=f"{says}; nothing of this step"), file_store.transaction():
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))


def test_a_server_that_went_away_is_one_message():
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: `apt-get install postgresql`")
    with running_server(programs) as url:
        store = open_store(url, create=True)
        ensure_annotator(store, "Ada")
    for use in (store.reading, store.transaction):
        with pytest.raises(StoreUnavailableError, match="nothing of this step was stored, try again"), use():
            pass
    answer = guarded(store, "load", lambda payload, annotator: {"ok": True})({}, Caller("secret"))  # pyright: ignore
    assert answer == {"ok": False, "away": True, "error": STORE_AWAY}, "where the store lies is nothing for everybody"
    store.close()


def test_nested_transactions_are_one(store):
    def fail_after_an_inner_transaction() -> None:
        with store.transaction():
            with store.transaction() as connection:
                connection.execute(insert(meta).values(key="x", value="y"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_an_inner_transaction()
    with store.reading() as connection:
        assert connection.execute(select(meta).where(meta.c.key == "x")).first() is None


def test_missing_file(tmp_path):
    with pytest.raises(LabelError, match=r"no label database; make one with `rlhf label init"):
        open_store(tmp_path / "none.db")


def test_newer_version_is_refused(store):
    with store.transaction() as connection:
        connection.execute(text("UPDATE meta SET value = '99' WHERE key = 'schema_version'"))
    with pytest.raises(LabelError, match="schema version 99, this program knows up to 2"):
        open_store(store.place)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "labels.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(LabelError, match="not a label database"):
        open_store(path)


def test_other_databases_are_refused(tmp_path):
    path = tmp_path / "labels.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(LabelError, match="it has no meta table"):
        open_store(path)


@pytest.mark.parametrize("table", ["events", "answers"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {column} = 7"])
def test_history_cannot_be_changed(published, person, answer, table, statement):
    answer(published, person("Ada"))
    column = "seq" if table == "events" else "version"
    with pytest.raises(DatabaseError, match=f"{table} is append-only"), published.transaction() as connection:
        connection.execute(text(statement.format(table, column=column)))


def test_network_file_systems_are_recognised(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/x /home/my\\040team nfs4 rw 0 0\n")
    assert file_system_of(Path("/home/my team/run/labels.db"), mounts) == "nfs4"
    assert file_system_of(Path("/home/other/labels.db"), mounts) == "ext4"
