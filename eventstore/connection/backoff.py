"""Pauses between attempts: each twice as long as the last, with jitter, up to a maximum."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

import structlog

from eventstore.errors import LogError

SECONDS = (0.1, 5.0)
"""The pause after the first failure, and the longest."""

T = TypeVar("T")

log = structlog.get_logger("muster.backoff")


class Backoff:
    """The failures of one loop since its last success.

    `during` names the loop in the log, which then has one line when Redis becomes unreachable and
    one when it is reachable again. A failure after `reset_after_seconds` without one is the first
    of another outage.
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
        self._log = log.bind(during=during, **ids) if during else None
        self._first_seconds, self._max_seconds = seconds
        self._reset_after_seconds = reset_after_seconds
        self._outage_ends_at = inf

    @property
    def active(self) -> bool:
        """Whether an outage lasts: the last attempt failed, less than the reset time ago."""
        return self.failures > 0 and time.monotonic() < self._outage_ends_at

    def next_delay(self, error: BaseException | None = None) -> float:
        """How many seconds to pause after this failure."""
        if not self.active:
            self.failures = 0
            if self._log is not None:
                self._log.warning("redis.unreachable", error=str(error))
        longest = min(self._first_seconds * 2.0 ** min(self.failures, 60), self._max_seconds)
        delay = longest * random.uniform(0.5, 1.0)
        self.failures += 1
        self._outage_ends_at = time.monotonic() + delay + self._reset_after_seconds
        return delay

    def reset(self) -> bool:
        """An attempt succeeded; True if that ends an outage."""
        ended, self.failures = self.active, 0
        if ended and self._log is not None:
            self._log.info("redis.reachable")
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
