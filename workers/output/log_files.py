"""A worker's log file of JSON lines, and the removal of the files of workers that are gone.

A file is rotated by size: `<name>.jsonl`, then `.1` (newer) to `.3`. It is opened with the first
line, so that a silent worker leaves none. A full disk must not stop an agent: lines that cannot be
written are counted and dropped.

A worker locks the file it writes (flock), and that lock ends with its process, however it ends. So
a file that can be locked by another has no writer any more, whatever the log records. Of those the
too old are removed, then the oldest of too many.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Final

from msgspec import Struct

SIZE_MAX: Final = 10_000_000
"""Bytes after which a file is rotated."""
ROTATED_MAX: Final = 3
"""How many rotated files are retained besides the one that is written."""
UNTOUCHED_SECONDS: Final = 60.0
"""A file written since then is not touched: its worker may be rotating it."""


class LogFile:
    """Writes complete lines, from any thread."""

    def __init__(self, path: Path, *, size_max: int = SIZE_MAX) -> None:
        self.path = path
        self.dropped = 0
        self._size_max = size_max
        self._size = 0
        self._file = -1
        self._torn = False
        self._forked = False
        self._closed = False
        # Reentrant: a finaliser that prints may run while this very thread writes.
        self._lock = threading.RLock()

    def write(self, line: bytes) -> bool:
        """Append a line that ends in a newline; False if it could not be written."""
        with self._lock:
            if self._closed:
                return False
            if self._torn:
                line = b"\n" + line
            try:
                self._rotate_if_full(len(line))
                written = os.write(self._file, line)
                self._size = os.lseek(self._file, 0, os.SEEK_CUR)  # children may write to it, too
                self._torn = written < len(line)  # the disk is full
            except OSError:
                written = 0
            self.dropped += written < len(line)
            return written == len(line)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread may have held the lock; only the parent rotates."""
        self._lock = threading.RLock()
        self._forked = True
        self.dropped = 0

    def close(self) -> None:
        """Write nothing more. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._close_file()

    def _rotate_if_full(self, length: int) -> None:
        if self._forked:
            self.reopen_if_moved()
        if self._file < 0:
            self._open()
        if not self._forked and self._size and self._size + length > self._size_max:
            self._close_file()
            names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, ROTATED_MAX + 1))]
            for newer, older in reversed(tuple(pairwise(names))):
                if newer.exists():
                    newer.replace(older)
            self._open()

    def reopen_if_moved(self) -> None:
        """Go on in the file of that name if that is another one: rotated, or removed by others."""
        with self._lock:
            if self._file < 0:
                return
            try:
                same = os.path.samestat(self.path.stat(), os.fstat(self._file))
            except OSError:
                same = False
            if not same:
                self._close_file()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o640)
        with suppress(OSError):  # where files cannot be locked, none of them is removed
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._size = os.fstat(self._file).st_size

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class LogLimits(Struct, frozen=True, kw_only=True):
    """Of files without a worker: how long they stay, and how many bytes they may have in all."""

    age_seconds: float = 1_209_600.0
    size_max: int = 1_000_000_000


def remove_old_files(folder: Path, limits: LogLimits, now: float) -> list[Path]:
    """Remove what is over the limits; returns the removed files. `now`: seconds since 1970."""
    abandoned = sorted(_abandoned_logs(folder, now))
    total = sum(size for _, size, _ in abandoned)
    removed: list[Path] = []
    for written_at, size, files in abandoned:
        if now - written_at < limits.age_seconds and total <= limits.size_max:
            break
        total -= size
        for file in files:
            with suppress(OSError):
                file.unlink()
                removed.append(file)
    return removed


def _abandoned_logs(folder: Path, now: float) -> Iterator[tuple[float, int, list[Path]]]:
    """The files of each worker that is gone and has not written for a while: when last, size."""
    workers: dict[Path, list[Path]] = {}
    for file in folder.glob("*/*.jsonl*"):
        workers.setdefault(file.with_name(file.name.partition(".")[0]), []).append(file)
    for worker, files in workers.items():
        written_at, size = -inf, 0
        for file in files:
            with suppress(OSError):
                status = file.stat()
                written_at, size = max(written_at, status.st_mtime), size + status.st_size
        touched = now - written_at < UNTOUCHED_SECONDS
        if written_at > -inf and not touched and not _in_use(Path(f"{worker}.jsonl")):
            yield written_at, size, files


def _in_use(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # locked, or not ours to open
        return not isinstance(error, FileNotFoundError)
    return False
