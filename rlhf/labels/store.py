"""The ranking store: one database, opened, transacted and checked; SQLite in a file, or PostgreSQL for larger teams.

SQLite runs with a write-ahead log and `synchronous=FULL`: an answer that was acknowledged survives a power cut. Every
write transaction starts with BEGIN IMMEDIATE. A deferred transaction that reads, then writes, would let two
annotators claim the same slot (or fail at once with "database is locked", whatever the time-out).

On PostgreSQL, transactions that append to the chain of events take one advisory lock first, so that the chain has one
end; claims and drafts do not, and lock the rows they take.
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from rlhf.errors import LabelError, StoreUnavailableError
from rlhf.labels.migrations import migrate
from rlhf.labels.schema import SCHEMA_VERSION, meta, metadata

BUSY_TIMEOUT_S = 30
CONNECTIONS, MORE_CONNECTIONS = 5, 60
# Any number will do, as long as every writer names the same one.
CHAIN_LOCK = 0x726C6866
# Bytes; SQLite asks for less at a time.
LEAST_ROOM = 1 << 20
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "ncpfs"}

Clock = Callable[[], float]
Place = Path | str
"""Where a store is: a file, or a PostgreSQL URL."""


class Store:
    """A handle on the database, safe to share between threads.

    Args:
        place: What messages call it: the file, or the URL without its password.
        engine: The open database.
        clock: Returns the time in seconds since 1970; tests give their own.
    """

    def __init__(self, place: Place, engine: Engine, clock: Clock = time.time) -> None:
        self.place = place
        self.clock = clock
        self._engine = engine
        self._current: ContextVar[Connection | None] = ContextVar("connection", default=None)

    @property
    def is_file(self) -> bool:
        """Whether the store is a SQLite file."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, chained: bool = True) -> Generator[Connection, None, None]:
        """Open a write transaction, or join the one that this thread of control has open.

        Everything inside becomes durable together, or not at all.

        Args:
            chained: Whether it may append events. Only claims and drafts do without: on PostgreSQL they then run beside
                each other.

        Raises:
            StoreUnavailableError: Another process kept the database locked for 30 seconds, the disk refused the write, or
                the server is away.
        """
        current = self._current.get()
        if current is not None:
            yield current
            return
        try:
            with self._engine.begin() as connection:
                if chained and not self.is_file:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAIN_LOCK})
                token = self._current.set(connection)
                try:
                    yield connection
                finally:
                    self._current.reset(token)
        except OperationalError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """Open a consistent view for reading, or join the open transaction.

        Raises:
            StoreUnavailableError: The disk or the server refuses it.
        """
        current = self._current.get()
        if current is not None:
            yield current
            return
        options: dict[str, Any] = {"rlhf_read": True}
        if not self.is_file:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except OperationalError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OperationalError) -> StoreUnavailableError:
        reason = f"{error.orig}".strip()
        # SQLite says no more when it is the file shared by readers and writers that has no room.
        if self.is_file and "disk I/O error" in reason and disk_usage(Path(self.place).parent).free < LEAST_ROOM:
            reason = "the disk is full; free some space"
        return StoreUnavailableError(f"{self.place}: {reason}; nothing of this step was stored, try again")

    def vacuum(self) -> None:
        """Give the space of deleted rows back, and overwrite what the file still holds of them."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT", rlhf_plain=True) as connection:
            connection.execute(text("VACUUM"))
            if self.is_file:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))

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


def open_store(place: Place, *, create: bool = False, clock: Clock = time.time) -> Store:
    """Open the database at `place`; one of an earlier version is brought up to date, after a copy of it was kept.

    Args:
        place: The database file, or a URL `postgresql://USER@HOST/DATABASE`.
        create: Make the file and its tables where there are none yet.
        clock: The source of the time.

    Raises:
        LabelError: The file is missing, is no ranking store, is from a newer version, or lies on a network
            file system, where SQLite's write-ahead log loses data; the server cannot be reached.
    """
    store = _connect(place, create=create, clock=clock)
    try:
        version = _prepare(store, create=create)
    except BaseException:
        store.close()
        raise
    if version < SCHEMA_VERSION:
        store.close()
        migrate(store.place, version)
        return open_store(place, clock=clock)
    return store


def open_new_store(place: Place) -> Store:
    """Open an empty database with the tables of today and nothing in them, for a copy.

    Raises:
        LabelError: There are tables already, or the server cannot be reached.
    """
    store = _connect(place, create=True, clock=time.time)
    try:
        with store.transaction() as connection:
            if inspect(connection).get_table_names():
                raise LabelError(f"{store.place}: has tables already; give an empty database")
            metadata.create_all(connection)
    except BaseException as error:
        store.close()
        if isinstance(error, DatabaseError):
            raise LabelError(f"{store.place}: cannot be written ({error.orig})") from error
        raise
    return store


def _connect(place: Place, *, create: bool, clock: Clock) -> Store:
    if isinstance(place, Path):
        place = place.absolute()
        _find_file(place, create=create)
        return Store(place, _file_engine(place), clock)
    url = make_server_url(place)
    engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=MORE_CONNECTIONS, pool_pre_ping=True)
    return Store(url.set(drivername="postgresql").render_as_string(hide_password=True), engine, clock)


def _prepare(store: Store, *, create: bool) -> int:
    """Make the tables where that is asked for; return the schema's version."""
    try:
        with store.transaction() as connection:
            if create and not inspect(connection).get_table_names():
                _create_tables(connection, store.clock())
            return _read_version(store.place, connection)
    except DatabaseError as error:
        raise LabelError(f"{store.place}: not a label database ({error.orig})") from error


def is_server(place: Place) -> bool:
    """Tell a PostgreSQL URL from a file's name."""
    return isinstance(place, str) and place.startswith(("postgresql:", "postgresql+", "postgres:"))


def make_server_url(place: str) -> URL:
    """Return the URL of a PostgreSQL database for its driver.

    Raises:
        LabelError: It is none, or the driver is not installed.
    """
    if not is_server(place):
        raise LabelError(f"{place}: neither a file nor a URL such as postgresql://USER@HOST/DATABASE")
    if find_spec("psycopg") is None:
        raise LabelError("PostgreSQL needs its driver; install it with `pip install 'rlhf-adapters[postgres]'`")
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise LabelError(f"{place.split('@')[-1]}: not a URL such as postgresql://USER@HOST/DATABASE") from error
    return url.set(drivername="postgresql+psycopg")


def _find_file(path: Path, *, create: bool) -> None:
    _refuse_network(path)
    if not path.exists():
        if not create:
            raise LabelError(f"{path}: no label database; make one with `rlhf label init {path}`")
        path.parent.mkdir(parents=True, exist_ok=True)


def _file_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
    )
    event.listen(engine, "connect", _configure_connection)
    event.listen(engine, "begin", _begin)
    return engine


def read_meta(connection: Connection, key: str) -> str:
    """Return one value of the meta table."""
    return connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar_one()


def _create_tables(connection: Connection, now: float) -> None:
    metadata.create_all(connection)
    rows = {"schema_version": str(SCHEMA_VERSION), "salt": secrets.token_hex(16), "created_at": repr(now)}
    connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])


def _read_version(path: Place, connection: Connection) -> int:
    if "meta" not in inspect(connection).get_table_names():
        raise LabelError(
            f"{path}: not a label database (it has no meta table); give another place, or make one with `rlhf label init`"
        )
    version = int(read_meta(connection, "schema_version"))
    if version > SCHEMA_VERSION:
        raise LabelError(
            f"{path}: schema version {version}, this program knows up to {SCHEMA_VERSION}; "
            "use the newer version of rlhf that wrote it"
        )
    return version


def _configure_connection(dbapi_connection: sqlite3.Connection, _record: Any) -> None:
    # The driver would open deferred transactions by itself; `_begin` opens ours.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise LabelError(f"SQLite refused its write-ahead log here (it uses {mode!r}); use a local disk")
    cursor.execute("PRAGMA synchronous=FULL")
    # What is deleted, such as a person's name, is overwritten.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("rlhf_plain", False):
        connection.exec_driver_sql("BEGIN" if options.get("rlhf_read", False) else "BEGIN IMMEDIATE")


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
