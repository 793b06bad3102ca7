"""A copy of the whole store while people work: into a new file, or into an empty PostgreSQL database.

The copy is taken from one consistent view, checked against its own chain of events, and only then gets its name. So the
same command makes backups and moves a store from a file to a server, or back.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, select, text

from rlhf.errors import LabelError
from rlhf.labels.events import Head, verify
from rlhf.labels.schema import answers, login_failures, login_tokens, metadata, sessions, tasks
from rlhf.labels.store import Place, Store, is_server, open_new_store

LEFT_OUT = (sessions, login_tokens, login_failures)
"""Who is signed in is no part of what people said; on a copy they sign in again."""
ROWS = 1000


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds."""

    answers: int
    head: Head


def back_up(store: Store, target: Place) -> Backup:
    """Copy the store to `target`.

    Raises:
        LabelError: The target exists already, cannot be written, or the copy is not sound.
    """
    if isinstance(target, Path) and not is_server(str(target)):
        return _to_file(store, target.absolute())
    with open_new_store(target) as copy:
        return _copy(store, copy)


def _to_file(store: Store, target: Path) -> Backup:
    if target.exists():
        raise LabelError(f"{target}: exists already; a backup never replaces a file, give another name")
    if not target.parent.is_dir():
        raise LabelError(f"{target.parent}: no such folder; make it first")
    unfinished = target.with_name(target.name + ".part")
    for rest in ("", "-wal", "-shm"):
        Path(f"{unfinished}{rest}").unlink(missing_ok=True)
    with open_new_store(unfinished) as copy:
        done = _copy(store, copy)
        copy.vacuum()
    unfinished.rename(target)
    return done


def _copy(store: Store, copy: Store) -> Backup:
    with store.reading() as source, copy.transaction() as goal:
        for table in metadata.sorted_tables:
            if table not in LEFT_OUT:
                _copy_table(source, goal, table)
        if not copy.is_file:
            _set_counters(goal)
    found = verify(copy)
    if not found.ok:
        raise LabelError(f"{copy.place}: the copy is not sound, nor is what it was taken from: {found.problems[0]}")
    return Backup(found.answers, found.head)


def _copy_table(source: Connection, goal: Connection, table: Table) -> None:
    # In the order of their keys, because rows refer to earlier rows of the same table.
    result = source.execute(select(table).order_by(*table.primary_key.columns), execution_options={"yield_per": ROWS})
    for rows in result.mappings().partitions(ROWS):
        goal.execute(insert(table), [dict(row) for row in rows])


def _set_counters(goal: Connection) -> None:
    """Let PostgreSQL number the next rows after the copied ones."""
    for table in (tasks, answers):
        last = goal.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()
        statement = text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), :last, :used)")
        goal.execute(statement, {"last": max(last, 1), "used": last > 0})
