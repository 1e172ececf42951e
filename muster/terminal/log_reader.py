"""The log files of workers, read as one log.

A worker writes JSON lines to `<log folder>/<pool>/<worker id>.jsonl`, and when that is full moves
it to `.jsonl.1`, that to `.2`, and so on. A `LogFile` reads one such chain to its end, oldest
first, and then continues from there: the file stays open, so that a rotation between two reads
loses nothing.
"""

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from muster.terminal.render import one_line

ROTATIONS = 9
"""How many older files are read."""
LINE_BYTES = 1_048_576
"""A line longer than this is read in pieces."""


class Line(Struct, frozen=True, kw_only=True):
    """One line of a log. `document` is all of it."""

    ts_ms: float
    level: str = ""
    text: str = ""
    agent_id: str = ""
    pool: str = ""
    worker_id: str = ""
    document: dict[str, object] = {}


class LogFile:
    """One worker's log: what is there and, at each further read, what was added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: BinaryIO | None = None
        self._partial = b""
        self._last_ms = 0.0

    def lines(self) -> Iterator[Line]:
        """All complete lines that were not returned yet, oldest first. Raises `OSError`."""
        for file in self._unread():
            if file is not self._open:
                self.close()
                self._open, self._partial = file, b""
            yield from self._rest(file)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _unread(self) -> Iterator[BinaryIO]:
        """The current file and those that came after it, oldest first."""
        if self._open is not None:
            yield self._open
        files: list[BinaryIO] = []
        try:
            self._open_newer(files)
            if files and self._open is not None:  # what was written to ours up to its rotation
                yield self._open
            yield from reversed(files)
        finally:
            for file in files:
                if file is not self._open:
                    file.close()

    def _open_newer(self, files: list[BinaryIO]) -> None:
        """Add the files that came after the current one, the newest first. Raises `OSError`."""
        current = _identity(self._open)
        if current is not None and _identity(self.path) == current:
            return
        known = {current}
        for number in range(ROTATIONS + 1):
            path = Path(f"{self.path}.{number}") if number else self.path
            try:
                file = path.open("rb")
            except FileNotFoundError:
                if number:
                    break
                continue  # just rotated: its successor comes with the next line
            if (identity := _identity(file)) not in known:
                known.add(identity)
                files.append(file)
                continue
            file.close()
            if identity == current:  # else it was rotated meanwhile
                break

    def _rest(self, file: BinaryIO) -> Iterator[Line]:
        while piece := file.readline(LINE_BYTES):
            raw = self._partial + piece
            if not raw.endswith(b"\n") and len(raw) < LINE_BYTES:
                self._partial = raw
                continue
            self._partial = b""
            if raw.strip():
                line = read_line(raw, self._last_ms, self.path)
                self._last_ms = line.ts_ms
                yield line


def _identity(file: BinaryIO | Path | None) -> tuple[int, int] | None:
    """None where there is no file."""
    if file is None:
        return None
    try:
        status = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino


def merged(files: Sequence[LogFile], matches: Callable[[Line], bool]) -> Iterator[Line]:
    """What was not returned yet of all files, in the order of time."""
    matching = [filter(matches, file.lines()) for file in files]
    return heapq.merge(*matching, key=lambda line: line.ts_ms)


def read_line(raw: bytes, before_ms: float, path: Path) -> Line:
    """A line of a file; one that is not JSON is text of the time `before_ms`."""
    try:
        document = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = {"message": raw.decode(errors="replace").rstrip("\n")}
    message = document.get("event") or document.get("message") or ""
    return Line(
        ts_ms=_ms(document.get("ts"), before_ms),
        level=_text(document.get("level")),
        text=str(message),
        agent_id=_text(document.get("agent_id")),
        pool=_text(document.get("pool")) or path.parent.name,
        worker_id=_text(document.get("worker_id")) or path.name.partition(".")[0],
        document=document,
    )


def _text(value: object) -> str:
    """What agents may have written themselves, fit for a terminal."""
    return one_line(str(value)) if value else ""


def _ms(ts: object, default: float) -> float:
    """A time stamp: ISO 8601 text, or a number of seconds or milliseconds."""
    if isinstance(ts, int | float):
        return float(ts) if ts > 100_000_000_000 else ts * 1000.0
    try:
        return datetime.fromisoformat(str(ts)).timestamp() * 1000
    except (ValueError, OverflowError):
        return default
