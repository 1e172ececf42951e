"""What went wrong in pools of late, from their events: what alerts are raised of.

A listener of the tail. It needs neither the database nor Redis, so that alerts of it are known
while either is unreachable. Times are log time, each pool's own. What is over is forgotten.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from eventstore.language.alerts import TEXT_MAX, Case
from eventstore.log.reader import Entry

WINDOW_MS: Final = 600_000
"""For how long a loss or failure counts."""
RATE_MS: Final = 300_000
"""Starts and failures are compared over so long."""
STEP_MS: Final = 30_000
LOOP_FAILURES: Final = 3
"""An agent that failed so often in a row is crash looping, until it has run for long."""
CASES_STORED: Final = 1_000
"""So many agents or workers of a pool are remembered of each kind."""
T = TypeVar("T")
LEASE: Final = "its lease was not renewed"
"""How the reason of a worker begins that lost its lease."""


class _Error(Struct, frozen=True):
    type: str = ""
    message: str = ""
    retry_after_ms: int | None = None


class _Failure(Struct, frozen=True):
    """What is read of the body of a failure, or of a loss or an end."""

    error: _Error | None = None
    reason: str = ""
    failures: int = 0
    due_ms: int = 0
    window_ms: int = 0


_NOTHING: Final = _Failure()


class Attempts(Struct):
    """How many starts and failures there were in a step of time."""

    step: int
    starts: int = 0
    failures: int = 0


class Incidents:
    """Of one pool."""

    def __init__(self) -> None:
        self.lost: dict[str, Case] = {}
        """Workers."""
        self.failed: dict[str, Case] = {}
        """Agents that will not run again."""
        self.looping: dict[str, tuple[Case, int]] = {}
        """Agents, and until when each is watched."""
        self.attempts: deque[Attempts] = deque()

    def prune(self, now_ms: int) -> None:
        """Forget what is over at this time."""
        for found in (self.lost, self.failed):
            for name in [name for name, case in found.items() if case.since <= now_ms - WINDOW_MS]:
                del found[name]
        for name in [name for name, (_, until) in self.looping.items() if until <= now_ms]:
            del self.looping[name]
        while self.attempts and self.attempts[0].step * STEP_MS < now_ms - RATE_MS:
            self.attempts.popleft()

    @property
    def failing_since_ms(self) -> int:
        """When the first of the failures was that count for the rate; 0 if there was none."""
        return next((one.step * STEP_MS for one in self.attempts if one.failures), 0)

    @property
    def empty(self) -> bool:
        return not (self.lost or self.failed or self.looping or self.attempts)


class RecentIncidents:
    """Of all pools. `consume` is a listener of the tail."""

    def __init__(self) -> None:
        self._pools = defaultdict[str, Incidents](Incidents)

    def of(self, pool: str, now_ms: int) -> Incidents:
        """What still counts at this log time."""
        found = self._pools.get(pool)
        if found is None:
            return Incidents()
        found.prune(now_ms)
        if found.empty:
            del self._pools[pool]
        return found

    def pools(self) -> set[str]:
        """Those of which anything is remembered."""
        return set(self._pools)

    def forget(self, pool: str) -> None:
        self._pools.pop(pool, None)

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        for _, fields in entries:
            if (note := _NOTES.get(fields[1])) is not None:
                self.note(pool, note, fields[9].decode(), int(fields[25]), fields[27])

    def add(self, pool: str, kind: str, subject: str, ts: int, data: bytes) -> None:
        """An event from the archive, for what was before this gateway followed the log."""
        if (note := _NOTES.get(kind.encode())) is not None:
            self.note(pool, note, subject, ts, data)
            self._pools[pool].attempts.clear()

    def note(self, pool: str, note: "_Note", subject: str, ts: int, data: bytes) -> None:
        failure = _NOTHING
        if note not in (_started, _over):
            with suppress(msgspec.DecodeError, RecursionError):  # of a newer version
                failure = msgspec.json.decode(data, type=_Failure)
        elif pool not in self._pools and note is _over:
            return
        note(self._pools[pool], subject, ts, failure)


_Note = Callable[[Incidents, str, int, _Failure], None]


def _attempts(of: Incidents, ts: int) -> Attempts:
    step = ts // STEP_MS
    if not of.attempts or of.attempts[-1].step < step:
        of.attempts.append(Attempts(step))
        of.prune(ts)
    return of.attempts[-1]


def _started(of: Incidents, _subject: str, ts: int, _failure: _Failure) -> None:
    _attempts(of, ts).starts += 1


def _over(of: Incidents, subject: str, _ts: int, _failure: _Failure) -> None:
    """It was terminated, or is to be restarted: what was wrong does not count any more."""
    of.failed.pop(subject, None)
    of.looping.pop(subject, None)


def _lost(of: Incidents, subject: str, ts: int, failure: _Failure) -> None:
    _remember(of.lost, subject, Case(subject, ts, failure.reason[:TEXT_MAX]))


def _failed(of: Incidents, subject: str, ts: int, failure: _Failure) -> None:
    of.looping.pop(subject, None)
    _remember(of.failed, subject, Case(subject, ts, failure.reason[:TEXT_MAX]))


def _broken(of: Incidents, subject: str, ts: int, failure: _Failure) -> None:
    error = failure.error or _Error()
    if error.retry_after_ms is not None:  # it waits for something else
        return
    _attempts(of, ts).failures += 1
    if failure.failures < LOOP_FAILURES:
        of.looping.pop(subject, None)
        return
    text = f"{error.type}: {error.message}"[:TEXT_MAX]
    until = max(failure.due_ms, ts) + max(failure.window_ms, WINDOW_MS)
    known, _ = of.looping.get(subject, (None, 0))
    _remember(of.looping, subject, (Case(subject, known.since if known else ts, text), until))


def _start_failed(of: Incidents, subject: str, ts: int, failure: _Failure) -> None:
    if failure.error is None or failure.error.retry_after_ms is None:
        _attempts(of, ts).starts += 1
    _broken(of, subject, ts, failure)


def _remember(found: dict[str, T], subject: str, case: T) -> None:
    """The newest is the last."""
    found.pop(subject, None)
    found[subject] = case
    if len(found) > CASES_STORED:
        del found[next(iter(found))]


_NOTES: Final[dict[bytes, _Note]] = {
    b"agent.started": _started,
    b"agent.start_failed": _start_failed,
    b"agent.crashed": _broken,
    b"agent.unhealthy": _broken,
    b"agent.failed": _failed,
    b"agent.restart_requested": _over,
    b"agent.terminated": _over,
    b"worker.lost": _lost,
}
RECALLED: Final = ("worker.lost", "agent.failed", "agent.crashed", "agent.start_failed")
"""Types that are read from the archive at the start. The rate of failures counts from there on."""
RECALLED_MS: Final = 2 * WINDOW_MS
