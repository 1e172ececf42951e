"""Restarts on exit what `muster up` has started, for as long as it runs.

What goes wrong is printed and logged, with advice, and tried again ever more slowly, without end.
A stop, once asked for, ends every wait, and nothing is started after it.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore import errors
from eventstore.connection.backoff import Backoff
from eventstore.embedded.directory import disk_full, log_tail
from eventstore.embedded.server import PONG, EmbeddedServer
from eventstore.ticks import set_within
from muster.process.child import Child, describe_exit
from muster.process.redis_wait import run_unless_stopped
from workers.host.processes import Process, start_time

log = structlog.get_logger("muster.up")

Echo = Callable[[str], None]

RESTART_SECONDS = (0.2, 10.0)
"""The shortest and the longest pause before what ended is started again."""
STEADY_SECONDS = 30.0
"""What ran for this long starts with a short pause again."""
LOCK_SECONDS = 5.0
"""How long a predecessor in the server's folder may take to save and end."""
POLL_SECONDS: Final = 0.1
FIRST_REPORT_SECONDS = 2.0
"""A server that does not serve after this time is reported ..."""
REPORT_INTERVAL_SECONDS = 60.0
"""... and again at this interval."""

_LOG_PREFIX: Final = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ \S ")
"""What the server's log puts in front of a line, as `17:M 09 Feb 2026 10:11:12.131 * `."""


class RestartableServer:
    """The embedded server. It is waited for while it lives, however long it loads its data."""

    name = "redis"

    def __init__(self, server: EmbeddedServer, stopping: asyncio.Event, echo: Echo) -> None:
        self._server = server
        self._stopping = stopping
        self._echo = echo

    @property
    def pid(self) -> int | None:
        return self._server.pid

    async def first_start(self) -> bool:
        """The first start; False if a stop came before it served. Raises `EmbeddedServerError`."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                self._server.launch()
                return await self._wait_ready()
            except errors.DirectoryInUse:
                if time.monotonic() > deadline:
                    raise
            if await set_within(self._stopping, POLL_SECONDS):
                return False

    async def exit_reason(self) -> str:
        if pid := self.pid:
            ended = asyncio.Event()
            stop_watching = Process(pid, start_time(pid)).watch(ended.set)
            try:
                await run_unless_stopped(self._stopping, ended.wait())
            finally:
                stop_watching()
        code = self._server.exit_code
        log_line = self._last_log_line() if (code or 0) >= 0 else ""  # killed: it has none of it
        return f"ended ({describe_exit(code)}{log_line}){self._advice()}"

    async def start(self) -> str:
        try:
            self._server.launch()
            await self._wait_ready()
        except errors.ServerNotReady as error:
            return f"{error.reason}{self._last_log_line()}{self._advice()}"
        except errors.ServerNotLaunched as error:
            return f"{error.reason}{self._advice()}"
        except errors.DirectoryInUse as error:
            return f"cannot be started: {error}; waiting for its end"
        except errors.EmbeddedServerError as error:
            return f"cannot be started: {error}"
        return ""

    async def _wait_ready(self) -> bool:
        """False if a stop came before. Raises `ServerNotReady` where it ends."""
        seconds, reported, report_due = 0.002, "", 0.0
        report_from = time.monotonic() + FIRST_REPORT_SECONDS
        while (reply := await self._ping()) != PONG:
            self._server.require_running()
            why, now = _not_ready_reason(reply), time.monotonic()
            if now > report_from and (why != reported or now > report_due):
                reported, report_due = why, now + REPORT_INTERVAL_SECONDS
                self._echo(f"redis (pid {self.pid}) {why}; waiting for it{self._advice()}")
                log.warning("redis.silent", pid=self.pid, answer=reply)
            if await set_within(self._stopping, seconds):
                return False
            seconds = min(seconds * 1.5, POLL_SECONDS)
        return True

    async def _ping(self) -> str:
        try:
            return await asyncio.to_thread(self._server.ping)
        except RuntimeError:  # where the system gives no process, it gives no thread either
            return ""

    def _last_log_line(self) -> str:
        """After a colon, if there is one, and without what differs from one to the next."""
        line = _LOG_PREFIX.sub("", log_tail(self._server.log_path, lines=1))
        return f": {line}" if line else ""

    def _advice(self) -> str:
        """What would help, where that is known, else where to read more."""
        advice = disk_full(self._server.directory) or f"see {self._server.log_path}"
        return f"; {advice}"


async def restart_on_exit(
    process: Child | RestartableServer,
    start: Callable[[], Awaitable[str]],
    stopping: asyncio.Event,
    echo: Echo,
) -> None:
    """Start it again whenever it ends, until a stop is asked for.

    `start` raises nothing, but returns why it does not run; empty where it does.
    """
    backoff = Backoff(seconds=RESTART_SECONDS, reset_after_seconds=STEADY_SECONDS)
    while not stopping.is_set():
        reason, reported = await process.exit_reason(), ""
        while reason:
            seconds = backoff.next_delay()
            if stopping.is_set():
                return
            if reason != reported:
                echo(f"{process.name} {reason}; starting it again in {seconds:.1f} s")
            reported = reason
            log.warning("role.ended", process=process.name, reason=reason, again_in_seconds=seconds)
            if await set_within(stopping, seconds):
                return
            reason = await start()
        if not stopping.is_set():
            echo(f"{process.name} is running again (pid {process.pid})")
            log.info("role.restarted", process=process.name, pid=process.pid)


def _not_ready_reason(reply: str) -> str:
    if reply.startswith("LOADING"):
        return "loads its append-only file"
    return f"answers {reply}" if reply else "does not answer yet"
