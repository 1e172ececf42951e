"""How much one agent may write: lines and bytes a second, with a burst.

Above that its lines are dropped, for as long as a tenth of the burst takes to come back; of what it
logs as a warning or an error as much is still written. Then one line says how many were dropped.
"""

import threading
import time

from msgspec import Struct

REOPEN_SHARE = 0.1
"""The part of a burst that has to be there again before lines are written again."""


class OutputLimits(Struct, frozen=True, kw_only=True):
    """Of each agent. Lines and bytes are of the log file's; 0 lines a second: no limit."""

    lines_per_second: float = 100.0
    bytes_per_second: float = 20_000.0
    burst_seconds: float = 50.0


class Limit:
    """What one agent has left of its limits. Any thread may ask."""

    def __init__(self, limits: OutputLimits) -> None:
        self._limits = limits
        self._lines_left = self._lines_max = limits.lines_per_second * limits.burst_seconds
        self._bytes_left = self._bytes_max = limits.bytes_per_second * limits.burst_seconds
        self._seen_at = time.monotonic()
        self._lock = threading.RLock()
        self.closed = False
        self.dropped_lines = self.dropped_bytes = 0

    def admit(self, size: int, *, urgent: bool = False) -> bool:
        """Whether a line of so many bytes may be written. What it takes too much is owed.

        `urgent`: a warning or an error, which may owe as much as a tenth of the burst.
        """
        with self._lock:
            self._refill()
            if self.closed and not self.reopen() and not (urgent and self._may_owe()):
                self.dropped_lines += 1
                self.dropped_bytes += size
                return False
            self._lines_left -= 1
            self._bytes_left -= size
            self.closed = self.closed or self._lines_left < 1 or self._bytes_left <= 0
            return True

    def drop(self, lines: int, size: int) -> bool:
        """Drop so many lines at once; False if they may be written."""
        with self._lock:
            if not self.closed or self.reopen():
                return False
            self.dropped_lines += lines
            self.dropped_bytes += size
            return True

    def reopen(self) -> bool:
        """Whether lines are written (again)."""
        with self._lock:
            self._refill()
            self.closed = self.closed and (
                self._lines_left < self._lines_max * REOPEN_SHARE
                or self._bytes_left < self._bytes_max * REOPEN_SHARE
            )
            return not self.closed

    def take_dropped(self) -> tuple[int, int]:
        """The lines and bytes that were dropped since the last call."""
        with self._lock:
            dropped = self.dropped_lines, self.dropped_bytes
            self.dropped_lines = self.dropped_bytes = 0
            return dropped

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self.dropped_lines = self.dropped_bytes = 0

    def _may_owe(self) -> bool:
        return (
            self._lines_left > -self._lines_max * REOPEN_SHARE
            and self._bytes_left > -self._bytes_max * REOPEN_SHARE
        )

    def _refill(self) -> None:
        now, limits = time.monotonic(), self._limits
        gained, self._seen_at = now - self._seen_at, now
        self._lines_left = min(self._lines_left + gained * limits.lines_per_second, self._lines_max)
        self._bytes_left = min(self._bytes_left + gained * limits.bytes_per_second, self._bytes_max)
