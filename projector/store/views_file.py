"""The SQLite file of the views: whether it is still the one that was opened, and what to do if not.

A file that was deleted or replaced goes on for who has it open, and is gone when the last of them
ends. So each transaction compares device and inode first. What is open can be copied, with all that
was committed to it, by SQLite's own backup.

Closing any handle on the file drops all locks that SQLite has on it in this process. So the one
handle that reads its header without SQLite, which may still have that page in its log, stays open.
"""

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from eventstore.errors import MusterError

SUFFIXES: Final = ("", "-wal", "-shm")
"""Of the file and of those that belong to it."""
WAL_LIMIT_BYTES: Final = 16_000_000
"""A write-ahead log above this is written back into the file and cut as soon as readers allow."""
WAL_LARGE_BYTES: Final = 64_000_000
"""A log above this is reported: a reader has kept a transaction open."""
CHECKPOINT_WAIT_SECONDS: Final = 0.2
"""How long writers may be blocked for that."""

HEADER: Final = b"SQLite format 3\0"

Identity = tuple[int, int]
_handles: dict[Identity, int] = {}
"""Of each file that this process has opened; never closed."""


class DatabaseUnreachable(MusterError):
    """The database of the views does not answer."""


class ViewsFileChanged(DatabaseUnreachable):
    """The file was deleted or replaced while it was open."""


class ViewsFile:
    """The file at a path, as one process has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: Identity | None = None
        self.damaged = False
        """Whether `check` found that another content was written into it."""

    def note(self) -> None:
        """Remember which file was opened."""
        if self._identity is None and (found := _identity(self.path)):
            if found not in _handles:
                _handles[found] = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._identity = found

    def forget(self) -> None:
        self._identity, self.damaged = None, False

    def require_unchanged(self) -> None:
        """Raises `ViewsFileChanged`."""
        if self._identity is None or (found := _identity(self.path)) == self._identity:
            return
        how = "deleted" if found is None else f"replaced by {_kind(self.path)}"
        raise ViewsFileChanged(f"{self.path} was {how}")

    @property
    def changed(self) -> bool:
        """Whether it was deleted, replaced, or found to be damaged."""
        return self.damaged or self._identity not in (None, _identity(self.path))

    @property
    def put_aside(self) -> bool:
        """Whether the file that was opened is one that `put_aside` has renamed."""
        found = self.path.parent.glob(f"{self.path.name}.aside-*")
        return any(_identity(path) == self._identity for path in found)

    def check(self) -> int:
        """Open it once more, and cut its write-ahead log; returns that one's size in bytes.

        Raises `sqlite3.Error` where its content is damaged, `ViewsFileChanged`.
        """
        self.require_unchanged()
        handle = _handles.get(self._identity) if self._identity else None
        if handle is not None and os.pread(handle, len(HEADER), 0) != HEADER:
            self.damaged = True
            raise Damaged("file is not a database")
        wal = self.path.with_name(f"{self.path.name}-wal")
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=CHECKPOINT_WAIT_SECONDS)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if _size(wal) > WAL_LIMIT_BYTES:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return _size(wal)

    def restore(self, opened: sqlite3.Connection) -> Path | None:
        """Put a copy of what `opened` has back in place; returns where what was there is now.

        Raises `OSError` and `sqlite3.Error`; nothing is in place then.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        copy = self.path.with_name(f".{self.path.name}.saving")
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(copy)) as target:
            opened.backup(target)
            _require_intact(target)
        aside = put_aside(self.path) if self.path.exists() else None
        for suffix in SUFFIXES[1:]:  # what they had is in the copy
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)
        copy.replace(self.path)
        return aside


class Damaged(sqlite3.DatabaseError):
    """What SQLite says, said by us."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def damage(path: Path) -> str:
    """What is wrong with the content of a file; empty where it is intact. Reads all of it."""
    if path.is_dir():
        return "it is a folder"
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            _require_intact(database)
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return str(error) if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""
    return ""


def _require_intact(database: sqlite3.Connection) -> None:
    if (found := database.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
        raise Damaged(f"its content is damaged: {found[0]}")


def put_aside(path: Path) -> Path:
    """Rename the file, and what belongs to it, out of the way; returns its new name.

    Raises `OSError`.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for number in range(1000):
        aside = path.with_name(f"{path.name}.aside-{stamp}{f'-{number}' if number else ''}")
        if not aside.exists():
            break
    else:
        raise FileExistsError(errno.EEXIST, "too many files were put aside", str(path))
    for suffix in SUFFIXES:
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _kind(path: Path) -> str:
    with suppress(OSError):
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116
            return "a folder"
    return "another file"
