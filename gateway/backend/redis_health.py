"""Whether Redis answers: probed in the background, so that no request has to find out.

While clients are served that is once a second. A gateway at rest probes every five seconds, with
what else it does then, and when the next request comes.

While Redis is unreachable, calls are refused at once and nothing is sent: a command gets its 503
without waiting, and a read uses the views. What was under way when Redis became unreachable is
abandoned: the outcome of a write is unknown then, and its answer says so. The probe notices when
Redis answers again.

One slow answer is no outage: Redis is unreachable once it has failed to answer twice in a row. Time
by which this process itself was late does not count. A Redis that answers a probe with an error, as
one whose disk is full does, accepts no writes: it counts as unreachable, and its reply is reported.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from eventstore.connection.calls import UNREACHABLE, execute_blocking
from eventstore.connection.clients import Client
from eventstore.connection.reply_parser import Argument, Command
from eventstore.connection.requirements import AofCheck
from eventstore.connection.wire import NotSent
from eventstore.redis_errors import RedisError, ResponseError
from eventstore.ticks import set_within, until_tick

log = structlog.get_logger("muster.gateway")

PROBE_TIMEOUT_SECONDS: Final = 1.0
"""How long Redis may take to answer a probe."""
PROBE_INTERVAL_SECONDS: Final = 1.0
REST_PROBE_INTERVAL_SECONDS: Final = 5.0
UNREACHABLE_PROBE_INTERVAL_SECONDS: Final = 0.25
LATENESS_SECONDS: Final = 0.3
"""A probe that took so much longer than it may shows that this process was late."""


class RedisHealth:
    """Knows whether Redis answers. `on_change(unreachable)` is called when that changes.

    `awaited`: whether requests wait for what is to come.
    """

    def __init__(
        self,
        url: str,
        on_change: Callable[[bool], Awaitable[None]],
        awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unreachable = False
        self._awaited = awaited
        self._requested = True
        """Whether a request came since the last probe."""
        self._resting = False
        self._changed_at = 0.0
        self._answered_at: float | None = None
        self._error_reply = ""
        self.aof = AofCheck()
        self._on_change = on_change
        self.probe_requested = asyncio.Event()
        """Set when a call failed."""
        self._client = Client(url)

    async def close(self) -> None:
        await self._client.aclose()

    @property
    def age_seconds(self) -> float | None:
        """Since Redis last answered a probe; None if it never has."""
        return None if self._answered_at is None else time.monotonic() - self._answered_at

    def require_reachable(self) -> None:
        """Raises `NotSent` while Redis is unreachable."""
        if self.unreachable:
            seconds = f"{time.monotonic() - self._changed_at:.0f} s"
            detail = f"it has refused all for {seconds}: {self._error_reply}"
            raise NotSent(detail if self._error_reply else f"it has not answered for {seconds}")

    # ---- the probe ---------------------------------------------------------------------------

    async def watch(self) -> None:
        """Probe Redis until cancelled."""
        while True:
            reachable = await self._probe()
            if self._error_reply or self.aof.needs_rewrite:
                # A failure does no harm: the next probe tries again.
                with suppress(*UNREACHABLE, RedisError, OSError):
                    async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                        await self.aof.poll(self._client)
            if reachable is False and not self.unreachable:
                reachable = await self._probe()
            if reachable is not None and reachable is self.unreachable:
                await self._set_unreachable(not reachable)
            self.probe_requested.clear()
            await set_within(self.probe_requested, until_tick(self._interval_seconds()))

    def note_request(self) -> None:
        """A client is served: probe now if that was not done lately, and then every second."""
        self._requested = True
        if self._resting:
            self._resting = False
            self.probe_requested.set()

    def _interval_seconds(self) -> float:
        """For how long the last probe is enough."""
        requested, self._requested = self._requested, False
        self._resting = not (self.unreachable or requested or self._awaited())
        if self.unreachable:
            return UNREACHABLE_PROBE_INTERVAL_SECONDS
        return REST_PROBE_INTERVAL_SECONDS if self._resting else PROBE_INTERVAL_SECONDS

    async def _probe(self) -> bool | None:
        """Whether Redis answers now; None if this process was too late to know."""
        started_at = time.monotonic()
        error_reply = ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await execute_blocking(self._client, "PING")
        except ResponseError as error:
            error_reply = str(error)
            return False
        except (*UNREACHABLE, RedisError, OSError):
            late = time.monotonic() - started_at > PROBE_TIMEOUT_SECONDS + LATENESS_SECONDS
            return None if late else False
        finally:
            self._error_reply = error_reply
        self._answered_at = time.monotonic()
        return True

    async def _set_unreachable(self, unreachable: bool) -> None:
        seconds = time.monotonic() - self._changed_at
        self.unreachable, self._changed_at = unreachable, time.monotonic()
        if unreachable:
            reason = self._error_reply or "it does not answer"
            log.warning("gateway.redis_unreachable", reason=reason)
        else:
            log.info("gateway.redis_reachable", seconds=round(seconds, 1))
        await self._on_change(unreachable)


class FailFastClient(Client):
    """A client that sends nothing while Redis is unreachable, and has failures probed."""

    health: RedisHealth

    async def execute_command(self, *command: Argument) -> Any:
        self.health.require_reachable()
        try:
            return await super().execute_command(*command)
        except UNREACHABLE:
            self.health.probe_requested.set()
            raise

    async def execute_all(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        self.health.require_reachable()
        try:
            return await super().execute_all(commands, atomic=atomic)
        except UNREACHABLE:
            self.health.probe_requested.set()
            raise
