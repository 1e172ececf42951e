"""Whether Redis answers: asked again and again in the background, so no request has to find out.

While Redis is away, calls are refused at once and nothing is sent: a command gets its 503 without
waiting, and a read goes on from the views. What was under way when Redis went is given up then: of
a write nobody knows the outcome, and it says so. A probe in the background notices the return.

One slow answer is no outage: Redis is away once it has failed to answer twice in a row. Time that
this process itself was late does not count. A Redis that answers a probe with an error, as one
whose disk is full does, takes no writes: it is as good as away, and what it says is told.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from eventstore.connection.calls import UNREACHABLE, Absent, interruptible
from eventstore.connection.clients import connect
from gateway.backend.aof_rewrite import Rewriting
from gateway.backend.background import persist

log = structlog.get_logger("muster.gateway")

PROBE_SECONDS: Final = 1.0
"""How long Redis may take to answer a probe."""
LOOK_SECONDS: Final = 1.0
AWAY_LOOK_SECONDS: Final = 0.25
LATE_SECONDS: Final = 0.3
"""A probe that took so much longer than it may says something of us, not of Redis."""

Change = Callable[[bool], Awaitable[None]]


class Presence:
    """Knows whether Redis answers. `changed(away)` is called when that changes."""

    def __init__(self, url: str, changed: Change) -> None:
        self.away = False
        self._since = 0.0
        self._refusal = ""
        self._rewriting = Rewriting()
        self._url = url
        self._changed = changed
        self._doubt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Redis | None = None

    def start(self) -> None:
        if self._task is None:
            self._client = connect(self._url, max_connections=1)
            running = persist("gateway.presence", self._run)
            self._task = asyncio.create_task(running, name="gateway.presence")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._client is not None:
            await self._client.aclose()

    def demand(self) -> None:
        """Raises `Absent` while Redis is away."""
        if self.away:
            seconds = f"{time.monotonic() - self._since:.0f} s"
            refuses = f"it has refused all for {seconds}: {self._refusal}"
            raise Absent(refuses if self._refusal else f"it has not answered for {seconds}")

    def doubt(self) -> None:
        """A call failed: look now."""
        self._doubt.set()

    # ---- looking -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            answers = await self._look()
            if answers is False and not self.away:
                answers = await self._look()
            if answers is not None and answers is self.away:
                await self._turn(away=not answers)
            if answers:
                await self._have_rewritten()
            await self._pause()

    async def _look(self) -> bool | None:
        """Whether Redis answers now; None where that cannot be told."""
        assert self._client is not None
        begun = time.monotonic()
        refusal = ""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await interruptible(self._client, "PING")
        except ResponseError as error:
            refusal = str(error)
            self._rewriting.heed(refusal)
            return False
        except (*UNREACHABLE, RedisError, OSError):
            late = time.monotonic() - begun > PROBE_SECONDS + LATE_SECONDS
            return None if late else False
        finally:
            self._refusal = refusal
        return True

    async def _turn(self, *, away: bool) -> None:
        seconds = time.monotonic() - self._since
        self.away, self._since = away, time.monotonic()
        if away:
            log.warning("gateway.redis_away", reason=self._refusal or "it does not answer")
        else:
            log.info("gateway.redis_back", seconds=round(seconds, 1))
        await self._changed(away)

    async def _have_rewritten(self) -> None:
        assert self._client is not None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._rewriting.go_on(self._client)
        except (*UNREACHABLE, RedisError, OSError):
            pass  # with the next look again

    async def _pause(self) -> None:
        self._doubt.clear()
        try:
            async with asyncio.timeout(AWAY_LOOK_SECONDS if self.away else LOOK_SECONDS):
                await self._doubt.wait()
        except TimeoutError:
            pass


class WatchedRedis(Redis):
    """A client that sends nothing while Redis is known to be away, and tells of its failures."""

    presence: Presence | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        presence = self.presence
        if presence is None:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        presence.demand()
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except UNREACHABLE:
            presence.doubt()
            raise
