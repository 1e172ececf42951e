"""Waiting for an agent: a request for a spawn or an end is woken by the event that answers it.

Nothing is polled. A `Watch` is opened before the step is written, so that no event is missed, and
folds what it receives with the same `evolve` as everything else.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Generic, TypeVar

import structlog

from eventstore.errors import UnknownEvent
from eventstore.language import agents, events
from eventstore.language.agents import Agent
from eventstore.log.reader import Entry

log = structlog.get_logger("muster.gateway")

T = TypeVar("T")

SUBJECT_INDEX = 9
"""The index of an entry's subject among its names and values."""


class Inbox(Generic[T]):
    """What arrives for one client, which waits in one task. `closed`: nothing is waited for."""

    def __init__(self) -> None:
        self.closed = False
        self.items: deque[T] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, items: Sequence[T]) -> None:
        self.items.extend(items)
        self._wake()

    def close(self) -> None:
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, deadline: float) -> None:
        """Wait until something is here, or until `deadline` (the event loop's time)."""
        if self.items or self.closed:
            return
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_at(deadline, self._wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


class Watch(Inbox[events.Event]):
    """The events of one agent from now on."""

    async def next(self, deadline: float) -> events.Event | None:
        """The next event; None if none has come by `deadline`, or the watch is closed."""
        await self.wait(deadline)
        return self.next_nowait()

    def next_nowait(self) -> events.Event | None:
        """The next event, if it is here already."""
        return self.items.popleft() if self.items else None


class Waiters:
    """All watches of a gateway, by pool or agent; a listener of the tail."""

    def __init__(self, limit: int) -> None:
        self.opened = asyncio.Event()
        """Set by each watch: what it waits for is to be read at once."""
        self._limit = limit
        self._watches: dict[tuple[str, str], list[Watch]] = {}
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        return self._count >= self._limit

    @contextmanager
    def watch(self, agent_id: str = "", *, pool: str = "") -> Iterator[Watch]:
        """Watch an agent, or all of a pool. Over the limit the watch is closed from the start."""
        watch, key = Watch(), (pool, agent_id)
        if self._closed or self.full:
            watch.close()
            yield watch
            return
        self._count += 1
        self.opened.set()
        self._watches.setdefault(key, []).append(watch)
        try:
            yield watch
        finally:
            self._count -= 1
            self._watches[key].remove(watch)
            if not self._watches[key]:
                del self._watches[key]

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        """Notify the watches of the pool and of the subject of each event."""
        if not self._watches:
            return
        pool_watches = self._watches.get((pool, ""), ())
        for stream_id, fields in entries:
            subject = fields[SUBJECT_INDEX].decode()
            watches = [*self._watches.get(("", subject), ()), *pool_watches]
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
                watch.put([event])

    def close(self) -> None:
        """Wake all requests: the gateway stops, and what was accepted goes on without it."""
        self._closed = True
        self.release()

    def release(self) -> None:
        """Let all requests that wait now answer with what is known."""
        for watch in chain.from_iterable(self._watches.values()):
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
            # The events of a step come together: a failed start and the last failure are one.
            while later_event := watch.next_nowait():
                agent, event = agents.evolve(agent, later_event, agent.pool_name), later_event
            return agent, event
    return agent, None
