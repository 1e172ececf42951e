"""What one agent printed to one stream, made into lines.

Printing takes time proportional to what is printed, however it is divided. A line is written when
its newline comes, in pieces where it is long. A part of a line that has been there for a while, or
was flushed, is written too, within a second, marked as partial.
"""

import codecs
import threading
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from workers.output.limits import Limit
from workers.output.pump import Pump

LINE_MAX: Final = 65_536
"""Characters of one line; more is cut into several."""

SKIP_MIN: Final = 1_000
"""Characters or bytes that are dropped as a whole, while an agent is over its limit."""

_DECODER: Final = codecs.getincrementaldecoder("utf-8")


class Printed(Struct, weakref=True, eq=False):
    """One stream of one agent. Any thread may print."""

    _write: Callable[[str, bool], None]
    """It gets each line, and whether that is only a part of one."""
    _pump: Pump
    _limit: Limit | None = None
    _skipped: bool = False
    """The end of a line whose beginning was dropped is not written."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    """Reentrant: a finaliser that prints may run while this very thread prints."""
    _parts: list[str] = []
    _size: int = 0
    _partly_written: bool = False
    """A part of the present line is written."""
    _old: bool = False
    _watched: bool = False
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: _DECODER("backslashreplace")
    )
    _undecoded: bool = False

    def add(self, text: str) -> None:
        """Write text as it was printed. A line is written once it is complete, or old."""
        with self._lock:
            if len(text) > SKIP_MIN and self._skips(text.count("\n"), len(text)):
                self._skipped = not text.endswith("\n")
                return
            if self._skipped:
                _, newline, text = text.partition("\n")
                self._skipped = not newline
            if self._undecoded:
                self._undecoded = False
                text = self._decoder.decode(b"", final=True) + text
            if text == "\n":  # as `print` ends
                self._old = False
                self._end_line(self._take())
            elif "\n" in text:
                *lines, rest = text.split("\n")
                self._parts.append(lines[0])
                lines[0] = self._take()
                self._old = False
                self._end_line(lines[0])
                for line in lines[1:]:
                    self._write_pieces(line)
                if rest:
                    self._keep(rest)
            elif text:
                self._keep(text)

    def add_bytes(self, data: bytes) -> bool:
        """The same with UTF-8, of which a character may come in two parts. Whether it was dropped:
        the owner is over its limit."""
        with self._lock:
            if len(data) > SKIP_MIN and self._skips(data.count(b"\n"), len(data)):
                self._skipped = not data.endswith(b"\n")
                return True
            text, self._undecoded = self._decoder.decode(data), False
            self.add(text)
            self._undecoded = bool(self._decoder.getstate()[0])
            return False

    def flush(self) -> None:
        """Write the part of a line that there is."""
        with self._lock:
            self._parts.append(self._decoder.decode(b"", final=True))
            self._undecoded = False
            if text := self._take():
                self._partly_written = True
                self._write_pieces(text, partial=True)

    def flush_soon(self) -> None:
        """Write what was printed without a newline at its end, within half a second."""
        self._old = bool(self._parts)
        if not self._pump.running:
            self.flush()

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._take()  # the parent has it, too
        self._decoder.reset()
        self._old = self._undecoded = self._watched = False

    def tick(self) -> bool:
        """Write what was there at the last tick too; False where nothing is there."""
        with self._lock:
            if not self._parts:
                self._watched = False
            elif self._old:
                self._old = False
                self.flush()
            else:
                self._old = True
            return self._watched

    def _keep(self, text: str) -> None:
        """Keep what has no newline yet; whole pieces of it are written."""
        self._parts.append(text)
        self._size += len(text)
        if self._size > LINE_MAX:
            text = self._take()
            whole = (len(text) - 1) // LINE_MAX * LINE_MAX
            self._partly_written = True
            self._write_pieces(text[:whole], partial=True)
            self._parts.append(text[whole:])
            self._size += len(text) - whole
        if not self._watched:
            self._watched = True
            self._pump.watch(self.tick)

    def _skips(self, lines: int, size: int) -> bool:
        """Whether so much is dropped without being looked at, with what there is of a line."""
        if self._limit is None or not self._limit.closed or not self._limit.drop(lines, size):
            return False
        self._take()
        self._decoder.reset()
        self._partly_written = self._undecoded = False
        return True

    def _end_line(self, text: str) -> None:
        """Write the end of a line; of one whose parts are written already only if there is any."""
        if text or not self._partly_written:
            self._write_pieces(text)
        self._partly_written = False

    def _take(self) -> str:
        parts = self._parts
        if len(parts) == 1:
            self._size = 0
            return parts.pop()
        text = "".join(parts)
        parts.clear()
        self._size = 0
        return text

    def _write_pieces(self, text: str, *, partial: bool = False) -> None:
        if len(text) <= LINE_MAX:
            self._write(text, partial)
            return
        last = (len(text) - 1) // LINE_MAX * LINE_MAX
        for start in range(0, last, LINE_MAX):
            self._write(text[start : start + LINE_MAX], True)
        self._write(text[last:], partial)
