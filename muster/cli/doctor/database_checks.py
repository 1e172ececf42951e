"""Checks of the database of the views: is it reachable and writable? Nothing is changed.

Drivers are used directly, without a pool, so that this is fast and shows their own messages.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from muster.cli.doctor.checks import Check, Level, check
from muster.settings.addresses import redacted

if TYPE_CHECKING:
    import psycopg

AREA = "database"
CONNECT_SECONDS = 5
BUSY_SECONDS = 2.0


def check_database(url: str) -> list[Check]:
    """All checks of the database at an address of SQLAlchemy's or PostgreSQL's form."""
    kind = urlsplit(url).scheme.partition("+")[0]
    if kind == "sqlite":
        return check_sqlite(Path(unquote(url.partition(":///")[2].partition("?")[0])))
    if kind in ("postgresql", "postgres"):
        return check_postgres(f"postgresql://{url.partition('://')[2]}")
    change = "use sqlite:///path or postgresql://user@host/database"
    return [Check(AREA, "address", Level.FAIL, redacted(url), change)]


def check_sqlite(path: Path) -> list[Check]:
    from projector.store.failures import Kind, kind

    version = check(AREA, "version", f"SQLite {sqlite3.sqlite_version}")
    try:
        if not path.exists():
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            change = "" if os.access(folder, os.W_OK) else f"make this folder writable: {folder}"
            found = f"{path} does not exist yet"
            return [version, check(AREA, "writable", found, change, Level.FAIL)]
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            database.execute(f"pragma busy_timeout = {int(BUSY_SECONDS * 1000)}")
            mode = str(database.execute("pragma journal_mode").fetchone()[0])
            change = "" if mode == "wal" else "let the projector open it once: it sets WAL"
            return [version, check(AREA, "journal", mode, change), _writable(database, path)]
    except (OSError, sqlite3.Error) as error:
        change = "let this user read and write the file and its folder"
        if isinstance(error, sqlite3.Error) and (path.is_dir() or kind(error) is Kind.DAMAGED):
            change = "a running projector replaces it if that loses nothing; else put a copy in"
            change += " place, or run `muster replay --from-scratch`"
        found = f"{path}: {getattr(error, 'strerror', error)}"
        return [version, Check(AREA, "readable", Level.FAIL, found, change)]


def _writable(database: sqlite3.Connection, path: Path) -> Check:
    try:
        database.execute("begin immediate")
        database.execute("rollback")
    except sqlite3.OperationalError as error:
        busy = "locked" in str(error)
        change = "" if busy else "let this user write the file and its folder"
        found = "busy with another writer" if busy else f"{path}: {error}"
        return check(AREA, "writable", found, change, Level.FAIL)
    return check(AREA, "writable", str(path))


def check_postgres(url: str) -> list[Check]:
    import psycopg

    from projector.store.failures import Kind, kind, reason

    try:
        with psycopg.connect(
            url, connect_timeout=CONNECT_SECONDS, autocommit=True, prepare_threshold=None
        ) as connection:
            return [check(AREA, "reachable", redacted(url)), *_postgres(connection)]
    except psycopg.ProgrammingError as error:  # invalid: its message repeats the address
        why, change = str(error).partition(":")[0], "correct MUSTER_DATABASE_URL"
        return [Check(AREA, "address", Level.FAIL, f"{redacted(url)}: {why}", change)]
    except psycopg.Error as error:
        why, refused = reason(error), kind(error) is Kind.REFUSED
        change = "start it, or correct MUSTER_DATABASE_URL (user, password, database)"
        if refused:
            change = "correct MUSTER_DATABASE_URL, or what the message names, on the server"
        return [Check(AREA, "reachable", Level.FAIL, f"{redacted(url)}: {why}", change)]


PRIVILEGES = """
select current_setting('server_version'),
       pg_is_in_recovery(),
       has_database_privilege(current_database(), 'create'),
       to_regnamespace('muster') is not null,
       coalesce(has_schema_privilege(to_regnamespace('muster'), 'create, usage'), false),
       current_setting('max_connections')::int,
       (select count(*) from pg_stat_activity where backend_type = 'client backend')
"""


def _postgres(connection: "psycopg.Connection[tuple[object, ...]]") -> list[Check]:
    row = connection.execute(PRIVILEGES).fetchone()
    assert row is not None
    version, standby, creates, exists, owns, most, now = row
    schema = "schema muster" if exists else "schema muster does not exist yet"
    missing = "usage, create on schema muster" if exists else "create on the database"
    change = "" if (owns if exists else creates) else f"grant {missing} to this user"
    if standby:
        schema, change = "a standby, read-only", "use the address of its primary"
    crowded = int(str(now)) > 0.8 * int(str(most))
    more = "raise max_connections, or put PgBouncer before it" if crowded else ""
    return [
        check(AREA, "version", f"PostgreSQL {version}"),
        check(AREA, "writable", schema, change, Level.FAIL),
        check(AREA, "connections", f"{now} of {most}", more),
    ]
