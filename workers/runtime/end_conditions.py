"""What may end a running agent by itself: its `run` is over, its `check` fails, it is idle.

A `check` is called every interval, and two failures in a row are too many, as is one that says
`Unavailable`. One that has not
returned after an interval hangs; it is cancelled and counts as a failure. The next one waits until
it has ended, and it counts again for each interval that this takes.

An isolated agent has to behave for a while before it shares its worker. The time runs from its
start in this worker, by this process's clock. A failure starts it again, with the next incarnation;
the death of the worker is the agent's own failure, which its reaper records.
"""

import time
from collections.abc import Callable
from typing import Final

from eventstore.language.agent_commands import Command, End
from eventstore.language.agents import Agent as State
from eventstore.language.events import Error
from workers.api.agent import Context
from workers.runtime.calls import Call
from workers.runtime.errors import timeout_error
from workers.runtime.settlement import failure
from workers.runtime.worker_context import WorkerContext

FAILURES_MAX: Final = 2


class HealthCheck:
    """The checks of one running agent; `poll` is called whenever something may be due."""

    def __init__(self, start_check: Callable[[], Call], interval: float) -> None:
        self._start_check = start_check
        self._interval = interval
        self._due = time.monotonic() + interval
        self._failures = 0
        self.call: Call | None = None
        self.error: Error | None = None

    @property
    def unhealthy(self) -> bool:
        unavailable = self.error is not None and self.error.retry_after_ms is not None
        return self._failures >= FAILURES_MAX or unavailable

    @property
    def wait_seconds(self) -> float:
        """For how long nothing is due, unless the call ends."""
        return max(self._due - time.monotonic(), 0.0)

    def poll(self) -> None:
        """Record the result of a check, cancel one that hangs, start the next when that is over."""
        due = time.monotonic() >= self._due
        was_cancelled = self.call is not None and self.call.cancelled
        if self.call is not None and self.call.done:
            if not was_cancelled:  # else it was counted then
                self._record(self.call.error)
            self.call = None
        elif self.call is not None and due:
            self._record(timeout_error("check", self._interval, self.call.stack))
            self.call.cancel()
            self._due = time.monotonic() + self._interval
        if self.call is None and (due or was_cancelled) and not self.unhealthy:
            self.call = self._start_check()
            self._due = time.monotonic() + self._interval

    def _record(self, error: Error | None) -> None:
        self._failures = self._failures + 1 if error else 0
        self.error = error


class EndConditions:
    """Of one incarnation, from the start of its `run` on."""

    def __init__(
        self,
        worker_context: WorkerContext,
        context: Context,
        run: Call | None,
        health_check: HealthCheck | None,
    ) -> None:
        self._worker_context = worker_context
        self._context = context
        self._run = run
        self._health_check = health_check
        self._isolation_ends_at = time.monotonic() + worker_context.config.isolation_seconds

    def poll(self, state: State) -> Command | None:
        """How the agent ends, if one is fulfilled. Starts the next `check` when that is due."""
        run, check = self._run, self._health_check
        if run is not None and run.done:
            if run.error:
                return failure(self._worker_context, state, "run", run.error)
            return End(reason="completed")
        if check is not None:
            check.poll()
            if check.unhealthy and check.error:
                return failure(self._worker_context, state, "check", check.error)
        limit = state.max_idle_time
        if limit is not None and self._context.idle_seconds >= limit:
            return End(reason="idle")
        return None

    def isolation_ended(self, state: State) -> bool:
        """Whether the agent is isolated, and has behaved for long enough."""
        return state.alone and time.monotonic() >= self._isolation_ends_at

    def wait_seconds(self, state: State) -> float | None:
        """How long nothing can be fulfilled, unless a call ends; None: for ever."""
        seconds = list[float]()
        if self._health_check is not None:
            seconds.append(self._health_check.wait_seconds)
        if state.alone:
            seconds.append(max(self._isolation_ends_at - time.monotonic(), 0.0))
        if state.max_idle_time is not None:
            seconds.append(max(state.max_idle_time - self._context.idle_seconds, 0.0))
        return min(seconds, default=None)
