"""A file of JSON lines that is rotated by size: `<name>.jsonl`, then `.1` (newer) to `.3`.

Opened with the first line, so that a silent worker leaves no file. A full disk must not stop an
agent: lines that cannot be written are counted and dropped. The file that is written is locked, so
that the removal of old files (`log_files`) finds that it has a writer.
"""

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

SIZE_MAX: Final = 10_000_000
"""Bytes after which a file is rotated."""
ROTATED_MAX: Final = 3
"""How many rotated files are retained besides the one that is written."""


class LogFile:
    """Writes complete lines, from any thread."""

    def __init__(self, path: Path, *, size_max: int = SIZE_MAX) -> None:
        self.path = path
        self.dropped = 0
        self._size_max = size_max
        self._size = 0
        self._file = -1
        self._closed = False
        # Reentrant: a finaliser that prints may run while this very thread writes.
        self._lock = threading.RLock()

    def write(self, line: bytes) -> None:
        """Append a line that ends in a newline."""
        with self._lock:
            if self._closed:
                return
            try:
                self._rotate_if_full(len(line))
                self._size += os.write(self._file, line)
            except OSError:
                self.dropped += 1

    def close(self) -> None:
        """Write nothing more. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._close_file()

    def _rotate_if_full(self, length: int) -> None:
        if self._file < 0:
            self._open()
        if self._size and self._size + length > self._size_max:
            self._close_file()
            self._rotate()
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o640)
        with suppress(OSError):  # where files cannot be locked, none of them is removed
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, ROTATED_MAX + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
