"""Pauses between attempts: each twice as long as the last, with jitter, up to a maximum."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

import structlog

from eventstore import errors
from eventstore.errors import LogError
from eventstore.redis_errors import ResponseError, TransientError

SECONDS = (0.1, 5.0)
"""The pause after the first failure, and the longest."""

NAMES: Final[dict[type[BaseException], str]] = {
    BaseException: "redis.unreachable",
    ResponseError: "redis.refuses",
    TransientError: "redis.unreachable",
    LogError: "redis.refuses",
    errors.LogUnreachable: "redis.unreachable",
    errors.NotEnoughReplicas: "redis.not_enough_replicas",
    errors.MemoryExhausted: "redis.memory_exhausted",
    errors.Recovered: "log.recovered_meanwhile",
    errors.OutcomeUnknown: "log.outcome_unknown",
    errors.LogMissing: "log.missing",
    errors.RolledBack: "log.rolled_back",
    errors.Halted: "log.halted",
    errors.CommandLost: "log.command_lost",
    errors.Busy: "log.busy",
    errors.WrongType: "log.wrong_type",
    errors.LayoutTooNew: "log.layout_too_new",
    errors.Unreadable: "log.unreadable",
    errors.UnknownEvent: "log.unknown_event",
}
"""What a failure is called in the log: by the nearest of its classes."""

T = TypeVar("T")

log = structlog.get_logger("muster.backoff")


class Backoff:
    """The failures of one loop since its last success.

    `during` names the loop in the log, which then has one line when it begins to fail, by what
    fails, another when something else does, and one when it works again. A failure after
    `reset_after_seconds` without one is the first of another outage.
    """

    def __init__(
        self,
        during: str = "",
        *,
        seconds: tuple[float, float] = SECONDS,
        reset_after_seconds: float = inf,
        **ids: object,
    ) -> None:
        self.failures = 0
        self._named: dict[str, object] = {"during": during, **ids} if during else {}
        self._first_seconds, self._max_seconds = seconds
        self._reset_after_seconds = reset_after_seconds
        self._outage_ends_at = inf
        self._failure = ""

    @property
    def active(self) -> bool:
        """Whether an outage lasts: the last attempt failed, less than the reset time ago."""
        return self.failures > 0 and time.monotonic() < self._outage_ends_at

    def next_delay(self, error: BaseException | None = None) -> float:
        """How many seconds to pause after this failure."""
        if not self.active:
            self.failures, self._failure = 0, ""
        if self._named and error is not None:
            self._log_failure(error)
        longest = min(self._first_seconds * 2.0 ** min(self.failures, 60), self._max_seconds)
        delay = longest * random.uniform(0.5, 1.0)
        self.failures += 1
        self._outage_ends_at = time.monotonic() + delay + self._reset_after_seconds
        return delay

    def _log_failure(self, error: BaseException) -> None:
        kind = next(kind for kind in type(error).__mro__ if kind in NAMES)
        if NAMES[kind] != self._failure:
            self._failure = NAMES[kind]
            log.warning(NAMES[kind], **self._named, error=str(error))

    def reset(self) -> bool:
        """An attempt succeeded; True if that ends an outage."""
        ended, self.failures = self.active, 0
        if ended and self._named:
            if self._failure == NAMES[errors.LogUnreachable]:
                log.info("redis.reachable", **self._named)
            else:
                log.info("log.usable", **self._named, after=self._failure)
        return ended


async def retry(backoff: Backoff, work: Callable[[], Awaitable[T]]) -> T:
    """Repeat the work after each `LogError`, until it succeeds or is cancelled."""
    while True:
        try:
            result = await work()
        except LogError as error:
            await asyncio.sleep(backoff.next_delay(error))
            continue
        backoff.reset()
        return result
