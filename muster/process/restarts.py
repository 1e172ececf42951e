"""Keeping what `muster up` has started: what ends is started again, for as long as it runs.

Whatever goes wrong is said and logged, with what would help, and tried again ever more slowly, for
ever. The end, once asked for, cuts every wait short, and nothing is started after it.
"""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from eventstore.embedded.directory import log_tail
from eventstore.embedded.server import (
    PONG,
    DirectoryInUse,
    EmbeddedServer,
    EmbeddedServerError,
    ServerNotLaunched,
    ServerNotReady,
)
from eventstore.errors import MusterError
from muster.process.child import Child
from muster.process.redis_wait import pause
from muster.process.roles import Told

log = structlog.get_logger("muster.up")

Say = Callable[[str], None]

RESTART_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before what ended is started again; the last one again and again."""
STEADY_SECONDS = 30.0
"""What ran for this long starts with a short pause again."""
STOP_SECONDS = 5.0
LOCK_SECONDS = 5.0
"""So long a predecessor in the server's folder may take to save and end."""
LOOK_SECONDS: Final = 0.1
SILENCE_SECONDS = 2.0
"""A server that does not serve after so long is told of..."""
AGAIN_SECONDS = 60.0
"""...and again after so long."""
FULL_BYTES: Final = 1_000_000
"""A disk with less than this is full."""

_STAMP: Final = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ \S ")
"""What the server's log puts in front of a line, as `17:M 09 Feb 2026 10:11:12.131 * `."""


class Kept(Protocol):
    """What is started again when it ends."""

    name: str

    @property
    def pid(self) -> int | None: ...

    async def ended(self) -> str:
        """How it ended, once it has; or anything, once the end is asked for."""
        ...

    async def start(self) -> str:
        """Start it; why it does not run, or nothing where it does. Raises nothing."""
        ...


async def keep(kept: Kept, ending: asyncio.Event, say: Say) -> None:
    """Start it again whenever it ends, until the end is asked for."""
    failures = 0
    while not ending.is_set():
        began = time.monotonic()
        reason, said = await kept.ended(), ""
        if time.monotonic() - began > STEADY_SECONDS:
            failures = 0
        while reason:
            seconds = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            if ending.is_set():
                return
            if reason != said:
                say(f"{kept.name} {reason}; starting it again in {seconds:g} s")
            said = reason
            log.warning("role.ended", ended=kept.name, reason=reason, again_in_seconds=seconds)
            if await pause(ending, seconds):
                return
            failures += 1
            reason = await kept.start()
        if not ending.is_set():
            say(f"{kept.name} is running again (pid {kept.pid})")
            log.info("role.running_again", started=kept.name, pid=kept.pid)


class KeptRole:
    """A role's process. `start` starts it and tells what it says."""

    def __init__(self, child: Child, start: Callable[[], Awaitable[Told]]) -> None:
        self.name = child.name
        self._child = child
        self._start = start

    @property
    def pid(self) -> int:
        return self._child.pid

    async def ended(self) -> str:
        return f"ended ({_how(await self._child.wait())})"

    async def start(self) -> str:
        try:
            told = await self._start()
        except MusterError as error:
            told = Told(failed=str(error))
        if told.ready:
            return ""
        await self._child.stop(STOP_SECONDS)
        return f"could not be started: {told.failed}"


class KeptServer:
    """The embedded server. It is waited for as long as it lives, however long its data loads."""

    name = "redis"

    def __init__(self, server: EmbeddedServer, ending: asyncio.Event, say: Say) -> None:
        self._server = server
        self._ending = ending
        self._say = say

    @property
    def pid(self) -> int | None:
        return self._server.pid

    async def begin(self) -> bool:
        """The first start; False if the end came before it served. Raises `EmbeddedServerError`."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                self._server.launch()
                return await self._until_it_serves()
            except DirectoryInUse:
                if time.monotonic() > deadline:
                    raise
            if await pause(self._ending, LOOK_SECONDS):
                return False

    async def ended(self) -> str:
        while self._server.running and not await pause(self._ending, LOOK_SECONDS):
            pass
        how, said = _how(self._server.code), _last_words(self._server.log_path)
        by_itself = (self._server.code or 0) >= 0  # else its log tells nothing of it
        return f"ended ({how}{f': {said}' if by_itself and said else ''}){self._advice()}"

    async def start(self) -> str:
        try:
            self._server.launch()
            await self._until_it_serves()
        except ServerNotReady as error:
            said = _last_words(self._server.log_path)
            return f"{error.why}{f': {said}' if said else ''}{self._advice()}"
        except ServerNotLaunched as error:
            return f"{error.why}{self._advice()}"
        except DirectoryInUse as error:
            return f"cannot be started: {error}; waiting for its end"
        except EmbeddedServerError as error:
            return f"cannot be started: {error}"
        return ""

    async def _until_it_serves(self) -> bool:
        """False if the end came before. Raises `ServerNotReady` where it ends."""
        seconds, said, due = 0.002, "", 0.0
        patient_until = time.monotonic() + SILENCE_SECONDS
        while (answer := await self._answer()) != PONG:
            self._server.demand_running()
            why, now = _why_it_does_not_serve(answer), time.monotonic()
            if now > patient_until and (why != said or now > due):
                said, due = why, now + AGAIN_SECONDS
                self._say(f"redis (pid {self.pid}) {why}; waiting for it{self._advice()}")
                log.warning("redis.silent", pid=self.pid, answer=answer)
            if await pause(self._ending, seconds):
                return False
            seconds = min(seconds * 1.5, LOOK_SECONDS)
        return True

    async def _answer(self) -> str:
        try:
            return await asyncio.to_thread(self._server.answer)
        except RuntimeError:  # where the system gives no process, it gives no thread either
            return ""

    def _advice(self) -> str:
        """What would help, where that is known, and where more stands."""
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self._server.directory).free < FULL_BYTES:
                return f"; the disk is full: make room for {self._server.directory}"
        return f"; see {self._server.log_path}"


def _why_it_does_not_serve(answer: str) -> str:
    if answer.startswith("LOADING"):
        return "loads its append-only file"
    return f"says {answer}" if answer else "does not answer yet"


def _how(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code == -9:
        return "killed by signal 9, perhaps by the system for want of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _last_words(path: Path) -> str:
    """The last line of the server's log, without what differs from one to the next."""
    return _STAMP.sub("", log_tail(path, lines=1))
