"""The ranking store: one database file, opened, transacted and checked.

SQLite with a write-ahead log and `synchronous=FULL`: an answer that was acknowledged survives a power cut. Every
write transaction starts with BEGIN IMMEDIATE. A deferred transaction that reads, then writes, would let two
annotators claim the same slot (or fail at once with "database is locked", whatever the time-out).
"""

import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError, OperationalError

from rlhf.errors import LabelError
from rlhf.labels.schema import SCHEMA_VERSION, meta, metadata

BUSY_TIMEOUT_S = 30
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "ncpfs"}

Clock = Callable[[], float]


class Store:
    """A handle on the database, safe to share between threads.

    Args:
        path: The database file; it must exist (see `open_store`).
        clock: Returns the time in seconds since 1970; tests give their own.
    """

    def __init__(self, path: Path, clock: Clock = time.time) -> None:
        self.path = path
        self.clock = clock
        self._engine = create_engine(
            f"sqlite:///{path}",
            connect_args={"timeout": BUSY_TIMEOUT_S},
            pool_size=5,
            max_overflow=60,
        )
        self._current: ContextVar[Connection | None] = ContextVar("connection", default=None)
        event.listen(self._engine, "connect", _configure_connection)
        event.listen(self._engine, "begin", _begin)

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """Open a write transaction, or join the one that this thread of control has open.

        Everything inside becomes durable together, or not at all.

        Raises:
            LabelError: Another process kept the database locked for 30 seconds, or the disk refused the write.
        """
        current = self._current.get()
        if current is not None:
            yield current
            return
        try:
            with self._engine.begin() as connection:
                token = self._current.set(connection)
                try:
                    yield connection
                finally:
                    self._current.reset(token)
        except OperationalError as error:
            raise LabelError(f"{self.path}: {error.orig}; nothing of this step was stored, try again") from error

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """Open a consistent view for reading, or join the open transaction."""
        current = self._current.get()
        if current is not None:
            yield current
            return
        with self._engine.connect().execution_options(rlhf_read=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections; the handle must not be used afterwards."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def salt(self) -> str:
        """Return the database's own salt for digests."""
        with self.reading() as connection:
            return read_meta(connection, "salt")


def open_store(path: Path, *, create: bool = False, clock: Clock = time.time) -> Store:
    """Open the database at `path`.

    Args:
        path: The database file.
        create: Make the file and its tables where there is none yet.
        clock: The source of the time.

    Raises:
        LabelError: The file is missing, is no ranking store, is from a newer version, or lies on a network
            file system, where SQLite's write-ahead log loses data.
    """
    path = path.absolute()
    _refuse_network(path)
    if not path.exists():
        if not create:
            raise LabelError(f"{path}: no label database; make one with `rlhf label init {path}`")
        path.parent.mkdir(parents=True, exist_ok=True)
    store = Store(path, clock)
    try:
        with store.transaction() as connection:
            if create and not inspect(connection).get_table_names():
                _create_tables(connection, clock())
            _check_version(path, connection)
    except DatabaseError as error:
        raise LabelError(f"{path}: not a label database ({error.orig})") from error
    return store


def read_meta(connection: Connection, key: str) -> str:
    """Return one value of the meta table."""
    return connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar_one()


def _create_tables(connection: Connection, now: float) -> None:
    metadata.create_all(connection)
    rows = {"schema_version": str(SCHEMA_VERSION), "salt": secrets.token_hex(16), "created_at": repr(now)}
    connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])


def _check_version(path: Path, connection: Connection) -> None:
    if "meta" not in inspect(connection).get_table_names():
        raise LabelError(f"{path}: not a label database (it has no meta table); give another file")
    version = int(read_meta(connection, "schema_version"))
    if version > SCHEMA_VERSION:
        raise LabelError(
            f"{path}: schema version {version}, this program knows up to {SCHEMA_VERSION}; "
            "use the newer version of rlhf that wrote it"
        )


def _configure_connection(dbapi_connection: Any, _record: Any) -> None:
    # The driver would open deferred transactions by itself; `_begin` opens ours.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise LabelError(f"SQLite refused its write-ahead log here (it uses {mode!r}); use a local disk")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get("rlhf_read", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _refuse_network(path: Path) -> None:
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LabelError(
            f"{path}: lies on a network file system ({kind}), where SQLite's write-ahead log can lose answers; "
            "use a local disk"
        )


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that holds `path`, or "" where the system does not tell."""
    if not mounts.is_file():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
