"""The database of the views: SQLite (WAL, one writer) or PostgreSQL (through PgBouncer or not).

Statements run in threads of their own, a whole transaction to a thread hop: an event is in the
views after one hop, whatever the number of statements, and a caller that is cancelled never leaves
half a transaction behind. `write` and `read` take a plain function of a connection.
"""

import asyncio
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    insert,
    inspect,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from eventstore.errors import ConfigurationError, MusterError
from projector.store.tables import (
    INCOMPLETE,
    METADATA,
    POOL_CAPACITY,
    SCHEMA,
    VIEW_VERSION,
    VIEW_VERSIONS,
    VIEWS,
)

T = TypeVar("T")

BUSY_SECONDS: Final = 10
LOCK_RETRY_SECONDS: Final = 0.02
"""Where SQLite does not wait by itself: until it is asked again."""
CONNECT_SECONDS: Final = 5
CLOSE_SECONDS: Final = 5
ABANDONED_QUERY_SECONDS: Final = 10
"""A question that nobody waits for any more has its connection for so much longer."""
IDLE_SECONDS: Final = 5
"""A process that stops within a transaction loses it after so long, and its locks with it."""
KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""After some ten seconds of silence a host is taken for dead. By itself the kernel waits for a
quarter of an hour, and with it every thread that asks, whoever answers at that address by then."""
_SET_IDLE_TIMEOUT: Final = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
CREATION_LOCK: Final = 0x6D757374
"""PostgreSQL's advisory lock under which tables are created: "must" in ASCII."""

DatabaseError = SQLAlchemyError
"""What a database that is away, restarted or without our tables raises."""


class DatabaseUnreachable(MusterError):
    """The database of the views does not answer."""


class _CancellableSocket:
    """The connection of one transaction to PostgreSQL, which may be cut while a thread waits on it.

    Something between us and the server can swallow an answer and keep the connection open, and
    libpq waits for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def attach(self, driver: Any) -> None:
        """A copy: the number of a connection that was closed may soon be another one's."""
        fileno = getattr(driver, "fileno", None)
        duplicate = socket.socket(fileno=os.dup(fileno())) if fileno else None
        self.close()
        with self._lock:
            self._socket = duplicate

    @contextmanager
    def attached(self, connection: Connection) -> Iterator[None]:
        self.attach(connection.connection.driver_connection)
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        with self._lock:
            current, self._socket = self._socket, None
        if current is not None:
            current.close()

    def shut_down(self) -> None:
        """End the waiting; nothing where that is over."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


class Database:
    """One database, with a bounded number of connections, each used by a thread at a time."""

    def __init__(self, url: str, *, connections: int = 2) -> None:
        self.url = address(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._connections = connections
        self._engine: Engine | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._write_lock = asyncio.Lock()
        self._running: dict[Future[Any], _CancellableSocket] = {}
        self._thread_local = threading.local()

    @property
    def prefix(self) -> str:
        """What stands before the name of a table in SQL written by hand."""
        return "" if self.sqlite else f"{SCHEMA}."

    def open(self) -> None:
        """Make ready to connect; nothing connects before it is used."""
        if self._engine is None:
            self._engine = _sqlite(self.url) if self.sqlite else _postgres(self.url)
            event.listen(self._engine, "connect", self._connected, insert=True)
            self._threads = ThreadPoolExecutor(self._connections, thread_name_prefix="views")

    def _connected(self, driver: DBAPIConnection, _: object) -> None:
        """Before anything is asked on a new connection, so that this can be cut too."""
        self._thread_local.wire.attach(driver)

    async def close(self) -> None:
        """Let what runs end, for a bounded time, and disconnect. Safe to call twice."""
        engine, threads = self._engine, self._threads
        self._engine = self._threads = None
        if engine is None or threads is None:
            return
        threads.shutdown(wait=False, cancel_futures=True)
        await self._wait(CLOSE_SECONDS)
        for wire in list(self._running.values()):
            wire.shut_down()  # else the process would wait for that thread when it ends
        await self._wait(CLOSE_SECONDS)
        engine.dispose()

    async def _wait(self, seconds: float) -> None:
        """For what runs in threads."""
        if running := [asyncio.wrap_future(future) for future in list(self._running)]:
            for one in running:  # nobody may be left to hear of an error
                one.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait(running, timeout=seconds)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that may write; what it raises rolls it back."""
        async with self._write_lock:
            return await self._run(work, writes=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that sees one moment of the database."""
        return await self._run(work, writes=False)

    async def read_with_retry(self, work: Callable[[Connection], T]) -> T:
        """`read`, and once more where a connection turned out to be broken."""
        try:
            return await self.read(work)
        except DatabaseError as error:
            if not disconnected(error):
                raise
            return await self.read(work)

    async def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        engine, threads = self._engine, self._threads
        if engine is None or threads is None:
            raise DatabaseUnreachable("the database of the views is not open")
        options: dict[str, Any] = {"writes": writes}
        if not writes and not self.sqlite:
            options["isolation_level"] = "REPEATABLE READ"

        wire = _CancellableSocket()

        def transaction() -> T:
            self._thread_local.wire = wire
            with (
                closing(wire),
                engine.execution_options(**options).connect() as connection,
                wire.attached(connection),
                connection.begin(),
            ):
                if writes and not self.sqlite:
                    connection.exec_driver_sql(_SET_IDLE_TIMEOUT)
                return work(connection)

        pool = engine.pool

        def finished(done: Future[Any]) -> None:
            self._running.pop(done, None)
            if self._engine is not engine:  # closed meanwhile: its connection came back too late
                pool.dispose()

        future = threads.submit(transaction)
        self._running[future] = wire
        future.add_done_callback(finished)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not writes:
                asyncio.get_running_loop().call_later(ABANDONED_QUERY_SECONDS, wire.shut_down)
            raise

    async def prepare(self) -> None:
        """Create whatever is not there yet. Any number of processes may do so at once."""
        if self.sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        if not await self.read(self._complete):
            await self.write(self._create)

    def _complete(self, connection: Connection) -> bool:
        return not (self._expected() - self._existing(connection))

    def _expected(self) -> set[str]:
        return {table.name for table in METADATA.sorted_tables} | {"pool_capacity"}

    def _existing(self, connection: Connection) -> set[str]:
        schema = None if self.sqlite else SCHEMA
        found = inspect(connection)
        return {*found.get_table_names(schema=schema), *found.get_view_names(schema=schema)}

    def _create(self, connection: Connection) -> None:
        if not self.sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({CREATION_LOCK})"))
            if not inspect(connection).has_schema(SCHEMA):  # who owns it may be allowed no other
                connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        before = self._existing(connection)
        METADATA.create_all(connection)
        if "pool_capacity" not in before:
            connection.execute(text(POOL_CAPACITY.format(schema=self.prefix)))
        if "view_versions" not in before:
            connection.execute(insert(VIEW_VERSIONS).values(name="views", version=VIEW_VERSION))
        if before & _DEPENDENT_TABLES and not before >= _DEPENDENT_TABLES:
            views = VIEW_VERSIONS.c.name == "views"
            connection.execute(update(VIEW_VERSIONS).where(views).values(version=INCOMPLETE))


_DEPENDENT_TABLES: Final = frozenset({*VIEWS, "events"})
"""Tables that only make sense together: where one was dropped, the views are built anew."""


def address(url: str) -> URL:
    """Which driver serves this address. Raises `ConfigurationError`, never showing a password."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("the database's address is not a URL") from error
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case _:
            raise ConfigurationError(
                "the database's address must be sqlite:///PATH or postgresql://…, not"
                f" {parsed.drivername}://{parsed.host or ''}"
            )


def missing_file(url: str) -> Path | None:
    """The file of an SQLite database that is not there; connecting would make an empty one."""
    parsed = address(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    path = Path(parsed.database)
    # `file:` is SQLite's own way of naming a file, which only it can read.
    return None if parsed.database.startswith("file:") or path.exists() else path


def disconnected(error: SQLAlchemyError) -> bool:
    """Whether a connection broke, so that asking again opens another one."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, below: it covers CREATE and DROP too
        _enable_wal(connection)
        for setting in ("synchronous=NORMAL", "foreign_keys=OFF"):
            _set_pragma(connection, setting)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _enable_wal(connection: DBAPIConnection) -> None:
    """Of many that do so to a new file at once SQLite refuses some without waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            _set_pragma(connection, "journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_RETRY_SECONDS)
        else:
            return


def _set_pragma(connection: DBAPIConnection, setting: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"PRAGMA {setting}")


def _postgres(url: URL) -> Engine:
    return create_engine(
        url,
        execution_options={"schema_translate_map": {None: SCHEMA}},
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": CONNECT_SECONDS,
            **{name: value for name, value in KEEPALIVE.items() if name not in url.query},
        },
        pool_pre_ping=False,
    )
