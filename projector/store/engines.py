"""SQLAlchemy engines for the two kinds of database, and what their addresses may be."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError

from eventstore.errors import ConfigurationError
from projector.store.tables import SCHEMA
from projector.store.views_file import WAL_LIMIT_BYTES

BUSY_SECONDS: Final = 10
LOCK_RETRY_SECONDS: Final = 0.02
"""Between attempts, where SQLite does not wait for a lock by itself."""
_SIZE_LIMIT: Final = f"journal_size_limit={WAL_LIMIT_BYTES}"
CONNECT_SECONDS: Final = 5
KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""After some ten seconds of silence the host counts as dead. By default the kernel waits for a
quarter of an hour, and so does every thread with a query, even if another host answers at that
address by then."""


_DECODES_PATHS: Final = make_url("sqlite:///%20").database == " "
"""SQLAlchemy does since 2.1."""


def address(url: str) -> URL:
    """The address with its driver. Raises `ConfigurationError`, which never shows a password."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("the database's address is not a URL") from error
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            path = parsed.database if _DECODES_PATHS else unquote(parsed.database)
            return parsed.set(drivername="sqlite+pysqlite", database=path)
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case _:
            raise ConfigurationError(
                "the database's address must be sqlite:///PATH or postgresql://…, not"
                f" {parsed.drivername}://{parsed.host or ''}"
            )


def missing_file(url: str) -> Path | None:
    """The file of an SQLite database, if it is missing; connecting would create an empty one."""
    parsed = address(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    path = Path(parsed.database)
    # `file:` starts a URI of SQLite's own, which only SQLite can read.
    return None if parsed.database.startswith("file:") or path.exists() else path


def sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: object) -> None:
        connection.isolation_level = None  # we send BEGIN, below: it covers CREATE and DROP too
        _enable_wal(connection)
        for setting in ("synchronous=NORMAL", "foreign_keys=OFF", _SIZE_LIMIT):
            _set_pragma(connection, setting)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _enable_wal(connection: DBAPIConnection) -> None:
    """Where many connections do so to a new file at once, SQLite refuses some without waiting."""
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


def postgres_engine(url: URL) -> Engine:
    return create_engine(
        url,
        execution_options={"schema_translate_map": {None: SCHEMA}},
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": CONNECT_SECONDS,
            **{name: value for name, value in KEEPALIVE.items() if name not in url.query},
        },
        pool_pre_ping=False,
        use_native_hstore=False,  # would be asked for on the first connection
    )
