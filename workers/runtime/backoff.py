"""Waiting out a Redis that is away: back-off with jitter, and one log line per outage."""

import random

import structlog

FIRST_SECONDS = 0.1
MAX_SECONDS = 5.0

log = structlog.get_logger("muster.outage")


class Backoff:
    """What one loop knows of the outage that it is in, if any."""

    def __init__(self, name: str, **ids: object) -> None:
        self._log = log.bind(during=name, **ids)
        self._delay = 0.0

    @property
    def active(self) -> bool:
        return self._delay > 0

    def next_delay(self, error: BaseException) -> float:
        """How many seconds to wait after this error."""
        if not self.active:
            self._log.warning("redis.unreachable", error=str(error))
        self._delay = min(max(self._delay * 2, FIRST_SECONDS), MAX_SECONDS)
        return self._delay * random.uniform(0.5, 1.0)

    def reset(self) -> bool:
        """A call went through; True if that ends an outage."""
        ended, self._delay = self.active, 0.0
        if ended:
            self._log.info("redis.reachable")
        return ended
