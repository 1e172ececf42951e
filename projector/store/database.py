"""The database of the views: SQLite (WAL, one writer) or PostgreSQL (through PgBouncer or not).

A transaction runs as a whole in a thread of its own: an event is in the views after one thread
hop, whatever the number of statements, and a cancelled caller never leaves half a transaction.
`write` and `read` take a plain function of a connection.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, event, insert, inspect, select, text, update
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from projector.store import tables
from projector.store.cancellable import Cancellable
from projector.store.creation import create_missing
from projector.store.engines import address, postgres_engine, sqlite_engine
from projector.store.failures import Kind, kind
from projector.store.views_file import DatabaseUnreachable, ViewsFile, ViewsFileChanged

T = TypeVar("T")

CLOSE_SECONDS: Final = 5
ABANDONED_QUERY_SECONDS: Final = 10
"""After so long a query whose caller was cancelled is cut, if cancelling it did not help."""
IDLE_SECONDS: Final = 5
"""A process that is stopped within a transaction loses it after so long, and its locks."""
_SET_IDLE_TIMEOUT: Final = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
CREATION_LOCK: Final = 0x6D757374
"""PostgreSQL's advisory lock under which tables are created: "must" in ASCII."""

DatabaseError = SQLAlchemyError
"""What a database raises that is unreachable, restarted or without our tables."""


class Database:
    """One database, with a bounded number of connections, each used by a thread at a time."""

    def __init__(self, url: str, *, connections: int = 2, only_reads: bool = False) -> None:
        """`only_reads`: an SQLite file that was replaced meanwhile is opened again."""
        self.url = address(url)
        self._only_reads = only_reads
        self.sqlite = self.url.get_backend_name() == "sqlite"
        name = self.url.database or ""
        self.file = ViewsFile(Path(name)) if self.sqlite and not name.startswith("file:") else None
        self._connections = connections
        self._engine: Engine | None = None
        self._engines: dict[bool, Engine] = {}
        """The same for transactions that write or only read."""
        self._threads: ThreadPoolExecutor | None = None
        self._write_lock = asyncio.Lock()
        self._running: dict[Future[Any], Cancellable] = {}
        self._thread_local = threading.local()

    @property
    def prefix(self) -> str:
        """The schema before the name of a table, in SQL written by hand."""
        return "" if self.sqlite else f"{tables.SCHEMA}."

    def open(self) -> None:
        """Set up; a connection is made when the first transaction needs one."""
        if self._engine is None:
            self._engine = sqlite_engine(self.url) if self.sqlite else postgres_engine(self.url)
            event.listen(self._engine, "connect", self._connected, insert=True)
            isolation = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
            self._engines = {
                True: self._engine.execution_options(writes=True),
                False: self._engine.execution_options(writes=False, **isolation),
            }
            self._threads = ThreadPoolExecutor(self._connections, thread_name_prefix="views")

    def _connected(self, driver: DBAPIConnection, _: object) -> None:
        """Before the first statement on a new connection, so that this one can be cut too."""
        self._thread_local.wire.attach(driver)

    async def close(self) -> None:
        """Wait for running transactions, for a bounded time, and disconnect. Safe to call twice."""
        engine, threads = self._engine, self._threads
        self._engine = self._threads = None
        if engine is None or threads is None:
            return
        threads.shutdown(wait=False, cancel_futures=True)
        await self._wait(CLOSE_SECONDS)
        for wire in list(self._running.values()):
            wire.shut_down()  # else the process would wait for its thread at exit
        await self._wait(CLOSE_SECONDS)
        engine.dispose()

    def reopen(self) -> None:
        """Let the next transaction open the file that is there now."""
        if self._engine is not None and self.file is not None:
            self._engine.dispose()
            self.file.forget()

    async def check_file(self) -> int:
        """`ViewsFile.check`, in a thread. Raises `DatabaseError` for a file that cannot be used."""
        assert self.file is not None
        try:
            return await asyncio.to_thread(self.file.check)
        except sqlite3.Error as error:
            if kind(error) is Kind.TRANSIENT:  # such as a full disk, which a writer meets as well
                return 0
            raise DBAPIError("check", None, error) from error

    async def restore_file(self) -> Path | None:
        """`ViewsFile.restore`, from a connection that is still open, and reopen."""
        assert self._engine is not None
        assert self.file is not None
        if not getattr(self._engine.pool, "checkedin", int)():
            raise DatabaseUnreachable("no connection is open any more")
        connection = self._engine.raw_connection()
        try:
            opened: Any = connection.driver_connection
            aside = await asyncio.to_thread(self.file.restore, opened)
        finally:
            connection.close()
        self.reopen()
        return aside

    async def _wait(self, seconds: float) -> None:
        if running := [asyncio.wrap_future(future) for future in list(self._running)]:
            for one in running:  # its caller may be gone: retrieve an error here
                one.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait(running, timeout=seconds)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that may write; an error rolls it back."""
        async with self._write_lock:
            return await self._run(work, writes=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that sees one snapshot of the database."""
        try:
            return await self._run(work, writes=False)
        except ViewsFileChanged:
            if not self._only_reads or self.file is None or not self.file.path.is_file():
                raise
            self.reopen()  # its projector has saved what was in it
            return await self._run(work, writes=False)

    async def read_with_retry(self, work: Callable[[Connection], T]) -> T:
        """`read`, and a second time where the connection turned out to be broken."""
        try:
            return await self.read(work)
        except DatabaseError as error:
            if not disconnected(error):
                raise
            return await self.read(work)

    async def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        engine, threads, engines = self._engine, self._threads, self._engines
        if engine is None or threads is None:
            raise DatabaseUnreachable("the database of the views is not open")
        wire = Cancellable()

        def transaction() -> T:
            self._thread_local.wire = wire
            if self.file is not None:
                self.file.require_unchanged()
            with (
                closing(wire),
                engines[writes].connect() as connection,
                closing(wire.attach(connection.connection.driver_connection)),
                connection.begin(),
            ):
                if writes and not self.sqlite:
                    connection.exec_driver_sql(_SET_IDLE_TIMEOUT)
                if self.file is not None:
                    self.file.note()
                return work(connection)

        pool = engine.pool  # disposing of the engine replaces it

        def finished(done: Future[Any]) -> None:
            self._running.pop(done, None)
            if self._engine is not engine:  # closed meanwhile: drop what came back late
                pool.dispose()

        future = threads.submit(transaction)
        self._running[future] = wire
        future.add_done_callback(finished)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not writes:
                loop = asyncio.get_running_loop()
                cancel = partial(wire.cancel, future.done)
                threading.Thread(target=cancel, name="views.cancel", daemon=True).start()
                loop.call_later(ABANDONED_QUERY_SECONDS, wire.shut_down)
            raise

    async def prepare(self) -> None:
        """Create the tables that are missing. Any number of processes may do so at once."""
        if self.sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        if not await self.read(self.complete):
            await self.write(self.create)

    def complete(self, connection: Connection) -> bool:
        """Whether all tables are there."""
        expected = {table.name for table in tables.METADATA.sorted_tables} | tables.SQL_VIEWS.keys()
        existing = self.existing(connection)
        return expected <= existing.keys() and not _missing_columns(existing)

    def existing(self, connection: Connection) -> dict[str, set[str]]:
        """All tables and views, with the columns of the tables."""
        found: dict[str, set[str]] = {}
        for name, column in connection.exec_driver_sql(_COLUMNS[self.sqlite]):
            found.setdefault(name, set()).add(column)
        return found

    def create(self, connection: Connection) -> None:
        """Create those that are missing."""
        if not self.sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({CREATION_LOCK})"))
            # Where it exists, its owner may not be allowed to create it.
            if not inspect(connection).has_schema(tables.SCHEMA):
                connection.execute(text(f"CREATE SCHEMA {tables.SCHEMA}"))
        before = self.existing(connection)
        create_missing(connection, before)
        for table, column in _missing_columns(before):
            added = f"ADD COLUMN {column} BIGINT NOT NULL DEFAULT 0"
            connection.execute(text(f"ALTER TABLE {self.prefix}{table} {added}"))
        for name in tables.SQL_VIEWS.keys() - before:
            connection.execute(text(tables.SQL_VIEWS[name].format(schema=self.prefix)))
        versions = tables.VIEW_VERSIONS
        if "view_versions" not in before:
            connection.execute(insert(versions).values(name="views", version=tables.VIEW_VERSION))
        if before.keys() & _DEPENDENT_TABLES and not before.keys() >= _expected(connection):
            views = update(versions).where(versions.c.name == "views")
            connection.execute(views.values(version=tables.INCOMPLETE))


def _missing_columns(existing: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(table, column) that an earlier version did not have in a table of its heartbeats."""
    live = [table for table in (tables.AGENT_LIVE, tables.WORKER_LIVE) if table.name in existing]
    columns = [(table.name, column.name) for table in live for column in table.columns]
    return [(table, column) for table, column in columns if column not in existing[table]]


_COLUMNS: Final = {
    True: "SELECT t.name, c.name FROM sqlite_master t"
    " LEFT JOIN pragma_table_info(CASE t.type WHEN 'table' THEN t.name END) c"
    " WHERE t.type IN ('table', 'view')",
    False: "SELECT t.relname, c.attname FROM pg_catalog.pg_class t"
    " JOIN pg_catalog.pg_attribute c ON c.attrelid = t.oid AND c.attnum > 0"
    " AND NOT c.attisdropped WHERE t.relkind IN ('r', 'p', 'v') AND t.relnamespace = "
    f"(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = '{tables.SCHEMA}')",
}
"""Names of tables and views and of columns, for SQLite (True) or not: much quicker than to inspect
each table. A view of SQLite has none here: it may be one of a table that is gone."""
_DEPENDENT_TABLES: Final = frozenset({*tables.VIEWS, "events"})
"""Tables that only make sense together: where one was dropped, the views are rebuilt."""


def _expected(connection: Connection) -> frozenset[str]:
    """Those that views of the version that is recorded have."""
    versions = tables.VIEW_VERSIONS.c
    query = select(versions.version).where(versions.name == "views")
    earlier = (connection.execute(query).scalar() or 0) < tables.VIEW_VERSION
    return _DEPENDENT_TABLES - tables.ADDED_VIEWS if earlier else _DEPENDENT_TABLES


def disconnected(error: SQLAlchemyError) -> bool:
    """Whether a connection broke, so that the next attempt opens another one."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
