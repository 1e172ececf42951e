"""The log that `muster up` runs on: a Redis that others run, an embedded server, or a fallback.

`start` ends with a log that is prepared: the declared pools are in its catalogue, and a fallback of
an earlier start is handed over where this one reaches the real log. An embedded server rewrites its
append-only file when a full disk may have left a hole in it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec.structs import replace

from eventstore.connection import requirements
from eventstore.connection.calls import UNREACHABLE
from eventstore.connection.clients import Client
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import LogError, ServerUnsuitable
from eventstore.redis_errors import RedisError
from eventstore.ticks import set_within, until_tick
from muster.fallback import directory, standby
from muster.fallback.last_seen import Recorder
from muster.fallback.standby import ActiveFallback
from muster.process.log_preparation import prepare
from muster.process.redis_wait import retry_until_reachable
from muster.process.restarts import RestartableServer, restart_on_exit
from muster.settings.settings import Settings
from muster.up.background import Background
from muster.up.messages import echo, echo_status, remedy

log = structlog.get_logger("muster.up")

REWRITE_POLL_SECONDS: Final = 2.0
REWRITE_RETRY_SECONDS = 10.0
"""Between one rewrite and the next, where that failed."""


class LogServer:
    """`settings` are those to run with: `start` fills in the address of a server of our own.

    `intact`: whether the log accepts writes, known once it has started.
    """

    def __init__(self, settings: Settings, background: Background) -> None:
        self.settings = settings
        self.fallback: ActiveFallback | None = None
        self.intact = True
        self._server: EmbeddedServer | None = None
        self._background = background
        self._stopping = background.stopping

    @property
    def pid(self) -> int | None:
        """Of a server of our own."""
        return self._server.pid if self._server is not None else None

    async def start(self) -> bool:
        """False if the end was asked for before the log was prepared. Raises `MusterError`."""
        self.fallback = await standby.start_if_needed(self.settings)
        if self.fallback is not None:
            self._enter_fallback(self.fallback)
        elif self.settings.redis_url:
            return await self._retry(self._check_redis) and await self._hand_over()
        if not await self._start_embedded():
            return False
        if self.fallback is None and directory.not_handed_over(self.settings.data_dir):
            echo("  (a fallback's log waits here; a start with its Redis hands it over)")
        return await self._prepare()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    # ---- a server of our own -----------------------------------------------------------------

    def _enter_fallback(self, fallback: ActiveFallback) -> None:
        echo(f"\n  WARNING: {fallback.status.description}")
        echo("  Agents of its log do not run meanwhile. What is asked for now is handed over to it")
        echo("  at the next start that reaches it.\n")
        watching = standby.watch(self.settings.redis_url, fallback.status, echo)
        self._background.run("fallback", watching)
        self.settings = fallback.settings

    async def _start_embedded(self) -> bool:
        started_at, settings = time.monotonic(), self.settings
        folder = self.fallback.folder.path if self.fallback else settings.data_dir
        self._server = EmbeddedServer(folder / "redis", appendfsync=settings.appendfsync)
        server = RestartableServer(self._server, self._stopping, echo)
        if not await server.first_start():
            return False
        url = self._server.url
        self.settings = replace(settings, redis_url=url)
        self._background.run("redis", restart_on_exit(server, server.start, self._stopping, echo))
        self._background.run("redis.rewrite", rewrite_when_needed(url, self._stopping))

        async def check() -> None:
            text = f"embedded {await check_server(self.settings)}, append-only file on, fsync"
            echo_status("redis", f"{text} {settings.appendfsync}", server.pid, started_at)

        return await self._retry(check)

    # ---- a Redis that others run -------------------------------------------------------------

    async def _check_redis(self) -> None:
        echo_status("redis", f"{self.settings.redis_named}, {await check_server(self.settings)}")

    async def _hand_over(self) -> bool:
        """Prepare the log, hand over what earlier fallbacks left, and record how far the log is."""
        from muster.fallback.handover import Handover

        handover = Handover(self.settings)
        if not await self._retry(handover.check) or not await self._prepare():
            return False
        if handover.needed:
            self._server = handover.server
            server = RestartableServer(handover.server, self._stopping, echo)
            for text in await handover.run(server, intact=self.intact):
                echo(text)
        recorder = Recorder(self.settings)
        if not await self._retry(recorder.refresh):
            return False
        self._background.run("last_seen", recorder.follow())
        return True

    # ---- either ------------------------------------------------------------------------------

    async def _prepare(self) -> bool:
        async def attempt() -> None:
            self.intact = await prepare(self.settings, echo=lambda text: echo_status("views", text))

        if not await self._retry(attempt):
            return False
        if not self.intact:
            problem = "the log has lost what is archived: commands are refused"
            echo(f"{problem}; {remedy(self.settings)}")
        return True

    async def _retry(self, attempt: Callable[[], Awaitable[object]]) -> bool:
        """Wait while Redis is unreachable; False if the end was asked for."""
        return await retry_until_reachable(
            attempt, self._stopping, lambda text: echo_status("redis", text)
        )


async def check_server(settings: Settings) -> str:
    """The version of a server that is fit and accepts writes, and what it would lose.

    Raises `MusterError`.
    """
    try:
        async with Client(settings.redis_url) as client:
            info = await requirements.inspect(client)
            requirements.require_suitable(info)
            await requirements.require_writable(client)
    except (LogError, ServerUnsuitable) as error:
        raise type(error)(f"{settings.redis_named}: {error}") from None
    kind, version = requirements.server_version(info)
    found = f"{kind.capitalize()} {'.'.join(map(str, version))}"
    if warning := requirements.persistence_warning(info):
        log.warning("redis.not_persistent", reason=warning)
        warning = f"; WARNING: {warning}"
    return f"{found}{warning}"


async def rewrite_when_needed(url: str, stopping: asyncio.Event) -> None:
    """Whenever a rewrite is needed, ask for one until one has succeeded."""
    check, retry_at = requirements.AofCheck(), 0.0
    async with Client(url) as client:
        while not await set_within(stopping, until_tick(REWRITE_POLL_SECONDS)):
            with contextlib.suppress(*UNREACHABLE, RedisError):  # the next poll tries again
                needed = await check.poll(client) and not check.failing
                if needed and time.monotonic() > retry_at:
                    await client.execute_command("BGREWRITEAOF")
                    log.warning("redis.rewriting")
                    retry_at = time.monotonic() + REWRITE_RETRY_SECONDS
