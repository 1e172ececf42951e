"""Waiting out a Redis that is away: back-off with jitter, and one log line per outage."""

import random

import structlog

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0

log = structlog.get_logger("muster.outage")


class Outage:
    """What one loop knows of the outage that it is in, if any."""

    def __init__(self, name: str, **ids: object) -> None:
        self._log = log.bind(during=name, **ids)
        self._delay = 0.0

    @property
    def on(self) -> bool:
        return self._delay > 0

    def delay(self, error: BaseException) -> float:
        """How many seconds to wait after this error."""
        if not self.on:
            self._log.warning("redis.unreachable", error=str(error))
        self._delay = min(max(self._delay * 2, FIRST_SECONDS), LONGEST_SECONDS)
        return self._delay * random.uniform(0.5, 1.0)

    def over(self) -> bool:
        """A call went through; True if that ends an outage."""
        ended, self._delay = self.on, 0.0
        if ended:
            self._log.info("redis.reachable")
        return ended
