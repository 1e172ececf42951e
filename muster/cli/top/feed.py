"""Keeps the model current: events say when to read again, and time does where they do not.

What comes is coalesced: the state is read at most twice a second, less often where reading takes
long, at least every five seconds. A gateway that is restarted or unreachable is tried again, and
events go on after the last one that came.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import msgspec

from muster.cli.arguments.command import CommandError, Refused
from muster.cli.client.api_client import BASE
from muster.cli.client.shapes import AgentAnswer
from muster.cli.events.lines import recorded_from_json
from muster.cli.resources.selection import STATES
from muster.cli.top.connection import Connection
from muster.cli.top.model import Model, Snapshot

READ_SECONDS: Final = (0.5, 5.0)
"""The shortest and the longest pause between two reads."""
AGENTS_SECONDS: Final = (1.0, 10.0)
SHARE: Final = 5
"""Of the time, reading takes at most one part in so many."""
RETRY_SECONDS: Final = 1.0
PAGE: Final = 1000
AGENTS_MAX: Final = 10_000
LISTED: Final = ",".join(state for state in STATES if state != "terminated")


class _Page(msgspec.Struct, frozen=True):
    agents: tuple[AgentAnswer, ...] = ()
    next: str | None = None


class Feed:
    """Reads from a gateway into a model, until it is cancelled."""

    def __init__(self, connection: Connection, model: Model) -> None:
        self._connection, self._model = connection, model
        self._wake = asyncio.Event()
        self._last_id = ""
        self._agents_due = 0.0
        """When agents are read again at the latest; by the monotonic clock."""
        self._agents_changed = True
        self._agents_not_before = 0.0

    async def run(self) -> None:
        """Follow and read, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._refresh())

    def wake(self) -> None:
        """Read soon: something was done."""
        self._agents_changed = True
        self._wake.set()

    async def read(self) -> None:
        """Read once. Raises `CommandError`."""
        answer = await self._connection.get(f"{BASE}/monitor/dashboard")
        snapshot = answer.read(Snapshot)
        if not self._model.is_read:
            for document in reversed(snapshot.events):
                self._model.add_event(recorded_from_json(msgspec.json.encode(document)))
        self._model.read_snapshot(snapshot, stale="muster-stale" in answer.headers)
        now = time.monotonic()
        if now >= self._agents_due or (self._agents_changed and now >= self._agents_not_before):
            await self._read_agents()

    async def _read_agents(self) -> None:
        self._agents_changed, started = False, time.monotonic()
        agents: list[AgentAnswer] = []
        query: dict[str, Any] = {"status": LISTED, "limit": PAGE}
        page = (await self._connection.get(BASE, query)).read(_Page)
        agents += page.agents
        while page.next and page.agents and len(agents) < AGENTS_MAX:
            page = (await self._connection.get(page.next)).read(_Page)
            agents += page.agents
        self._model.read_agents(agents, more=bool(page.next))
        now = time.monotonic()
        self._agents_not_before = now + max(AGENTS_SECONDS[0], SHARE * (now - started))
        self._agents_due = max(now + AGENTS_SECONDS[1], self._agents_not_before)

    async def _refresh(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self.read()
            except CommandError as error:
                self._model.lose(str(error), refused=isinstance(error, Refused))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            pause = max(READ_SECONDS[0], SHARE * (time.monotonic() - started))
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience(pause)):
                    await self._wake.wait()
            self._wake.clear()

    def _patience(self, paused: float) -> float:
        """How long to wait for an event: agents that changed meanwhile are not forgotten."""
        longest = READ_SECONDS[1] - paused
        if self._agents_changed:
            longest = min(longest, self._agents_not_before - time.monotonic())
        return max(longest, 0.01)

    async def _follow(self) -> None:
        """Events, one connection after the other; without the right to them, only time wakes."""
        while True:
            try:
                async for event_id, data in self._connection.events(self._last_id):
                    self._last_id = event_id or self._last_id
                    if data:
                        self._take(data)
            except Refused:
                if self._last_id:  # it may be too old for the archive
                    self._last_id = ""
            except CommandError as error:
                self._model.lose(str(error))
                self._wake.set()
            await asyncio.sleep(RETRY_SECONDS)

    def _take(self, data: bytes) -> None:
        try:
            event = recorded_from_json(data)
        except (msgspec.MsgspecError, KeyError):
            return
        self._model.add_event(event)
        self._agents_changed = True
        self._wake.set()
