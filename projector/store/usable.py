"""Whether a database can be used, found out without changing anything in it."""

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select

from eventstore.errors import ConfigurationError
from projector.store import tables
from projector.store.database import Database

POSTGRES_MIN: Final = 12


class ReadOnlyDatabase(OSError):
    """The database accepts no writes for now."""


class _Undone(Exception):
    """Rolls a transaction back."""


async def require_usable(database: Database, *, only_read: bool = False) -> None:
    """Whether it can be used, and its tables be made where they are missing.

    `only_read`: another process makes them. Raises `DatabaseError` and `OSError`, see `failures`,
    and `ConfigurationError` for a PostgreSQL that is too old.
    """
    if database.sqlite and await asyncio.to_thread(_is_missing, Path(database.url.database or "")):
        return

    def read(connection: Connection) -> None:
        if database.complete(connection):
            for table in (tables.SERVING.checkpoints, tables.EVENTS):
                connection.execute(select(table).limit(1)).first()

    def create(connection: Connection) -> None:
        if not database.complete(connection):
            database.create(connection)

    if only_read:
        await database.read(read)
        return
    if not database.sqlite and await database.read(_is_standby):
        raise ReadOnlyDatabase(errno.EROFS, "a standby, read-only: it is not the primary")
    await attempt(database, create)


async def attempt(database: Database, work: Callable[[Connection], None]) -> None:
    """Run `work` in a transaction that may write, and undo it; raises what it raises."""

    def undone(connection: Connection) -> None:
        work(connection)
        raise _Undone

    with suppress(_Undone):
        await database.write(undone)


def _is_standby(connection: Connection) -> bool:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < POSTGRES_MIN * 10_000:
        raise ConfigurationError(
            f"PostgreSQL {version // 10_000} is too old: Muster needs {POSTGRES_MIN} or later"
        )
    return bool(connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar())


def _is_missing(path: Path) -> bool:
    """Raises `OSError` where there is something else, or the file cannot be created."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if path.exists():
        return False
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this user may not write there", str(existing))
    return True
