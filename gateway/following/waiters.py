"""Waiting for an agent: a request for a spawn or an end is woken by the event that answers it.

Nothing is polled. A `Watch` is opened before the step is written, so that no event is missed, and
folds what it receives with the same `evolve` as everything else.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import structlog

from eventstore.errors import UnknownEvent
from eventstore.language import agents, events
from eventstore.language.agents import Agent
from eventstore.log.reader import Entry

log = structlog.get_logger("muster.gateway")

SUBJECT_INDEX = 9
"""The index of an entry's subject among its names and values."""


class Watch:
    """The events of one agent from now on. A watch that is not `open` returns None at once."""

    def __init__(self) -> None:
        self.open = True
        self._events: deque[events.Event] = deque()
        self._arrived = asyncio.Event()

    def put(self, event: events.Event) -> None:
        self._events.append(event)
        self._arrived.set()

    def close(self) -> None:
        self.open = False
        self._arrived.set()

    async def next(self, deadline: float) -> events.Event | None:
        """The next event; None if none has come by `deadline` (the event loop's time)."""
        if not self._events and self.open:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self.next_nowait()

    def next_nowait(self) -> events.Event | None:
        """The next event, if it is here already."""
        return self._events.popleft() if self._events else None


class Waiters:
    """All watches of a gateway, by agent; a listener of the tail."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._agent_watches: dict[str, list[Watch]] = {}
        self._pool_watches: dict[str, list[Watch]] = {}
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return self._count

    def watch(self, agent_id: str) -> AbstractContextManager[Watch]:
        """Watch an agent for a while. Over the limit the watch is closed from the start."""
        return self._open_watch(self._agent_watches, agent_id)

    def watch_pool(self, pool: str) -> AbstractContextManager[Watch]:
        """Watch all events of a pool for a while, likewise."""
        return self._open_watch(self._pool_watches, pool)

    @contextmanager
    def _open_watch(self, watches: dict[str, list[Watch]], name: str) -> Iterator[Watch]:
        watch = Watch()
        if self._closed or self._count >= self._limit:
            watch.close()
            yield watch
            return
        self._count += 1
        watches.setdefault(name, []).append(watch)
        try:
            yield watch
        finally:
            self._count -= 1
            watches[name].remove(watch)
            if not watches[name]:
                del watches[name]

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        """Notify the watches of the pool and of the subject of each event."""
        pool_watches = self._pool_watches.get(pool, [])
        if not self._agent_watches and not pool_watches:
            return
        for stream_id, fields in entries:
            watches = [*self._agent_watches.get(fields[SUBJECT_INDEX].decode(), ()), *pool_watches]
            if not watches:
                continue
            try:
                event = events.decode_entry(stream_id, fields)
            except UnknownEvent as error:
                log.warning("gateway.unknown_event", pool=pool, error=str(error))
                for watch in watches:  # what comes after it cannot be folded
                    watch.close()
                continue
            for watch in watches:
                watch.put(event)

    def close(self) -> None:
        """Wake all requests: the gateway stops, and what was accepted goes on without it."""
        self._closed = True
        self.release()

    def release(self) -> None:
        """Let all requests that wait now answer with what is known."""
        for watches in (*self._agent_watches.values(), *self._pool_watches.values()):
            for watch in watches:
                watch.close()


SPAWN_OUTCOMES = (
    events.AgentStarted,
    events.AgentStartFailed,
    events.AgentTerminated,
    events.AgentFailed,
)
"""The events that end the wait for a spawn."""


async def wait_until_started(
    watch: Watch, agent: Agent, deadline: float
) -> tuple[Agent, events.Event | None]:
    """Fold what happens to a new agent until it runs, has failed to, or has ended."""
    while event := await watch.next(deadline):
        agent = agents.evolve(agent, event, agent.pool_name)
        if isinstance(event.body, SPAWN_OUTCOMES):
            return _apply_pending(watch, agent, event)
    return agent, None


def _apply_pending(watch: Watch, agent: Agent, event: events.Event) -> tuple[Agent, events.Event]:
    """The events of a step come together: a failed start and the last failure are one outcome."""
    while next_event := watch.next_nowait():
        agent, event = agents.evolve(agent, next_event, agent.pool_name), next_event
    return agent, event
