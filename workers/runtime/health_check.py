"""An agent's regular `check`: every interval one call, and two failures in a row are too many.

A check that has not returned after an interval hangs; it is cancelled and counts as a failure. The
next one waits until it has ended, and it counts again for each interval that this takes.
"""

import asyncio
from collections.abc import Callable

from eventstore.language.events import Error
from workers.runtime.calls import Call
from workers.runtime.errors import timeout_error

FAILURES_MAX = 2


class HealthCheck:
    """The checks of one running agent; `poll` is called whenever something may be due."""

    def __init__(self, start_check: Callable[[], Call], interval: float) -> None:
        self._start_check = start_check
        self._interval = interval
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock() + interval
        self._failures = 0
        self.call: Call | None = None
        self.error: Error | None = None

    @property
    def unhealthy(self) -> bool:
        return self._failures >= FAILURES_MAX

    @property
    def wait_seconds(self) -> float:
        """For how long nothing is due, unless the call ends."""
        return max(self._due - self._clock(), 0.0)

    def poll(self) -> None:
        """Record the result of a check, cancel one that hangs, start the next when that is over."""
        due = self._clock() >= self._due
        was_cancelled = self.call is not None and self.call.cancelled
        if self.call is not None and self.call.done:
            if not was_cancelled:  # else it was counted then
                self._record(self.call.error)
            self.call = None
        elif self.call is not None and due:
            self.call.cancel()
            self._record(timeout_error("check", self._interval))
            self._due = self._clock() + self._interval
        if self.call is None and (due or was_cancelled) and not self.unhealthy:
            self.call = self._start_check()
            self._due = self._clock() + self._interval

    def _record(self, error: Error | None) -> None:
        self._failures = self._failures + 1 if error else 0
        self.error = error
