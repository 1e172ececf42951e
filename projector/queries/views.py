"""The read side: the module of the projector that the gateway imports."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection

from eventstore.language.agents import Agent
from projector.fold.projection import read_positions
from projector.history.history import ArchiveUnreadable, History
from projector.history.positions import ArchiveIncomplete, AsOf, NotYetArchived, PointInTime
from projector.history.replay import TooExpensive
from projector.history.statistics import rows_of_pools
from projector.intake import archive
from projector.intake.archive import EventRange
from projector.intake.source import is_lost
from projector.queries import selects
from projector.store.database import Database, DatabaseError, DatabaseUnreachable
from projector.store.rows import (
    AgentFilter,
    AgentRow,
    EventRow,
    HostRow,
    PoolRow,
    Position,
    WorkerRow,
)
from projector.store.tables import SERVING

__all__ = [
    "HISTORY_SECONDS", "AgentFilter", "AgentRow", "ArchiveIncomplete", "AsOf", "DatabaseError",
    "DatabaseUnreachable", "EventRow", "History", "HostRow", "PointInTime", "NotYetArchived",
    "PoolRow", "Position", "TooExpensive", "EventRange", "ArchiveUnreadable", "Views",
    "WorkerRow", "is_lost", "rows_of_pools",
]  # fmt: skip

CONNECTIONS: Final = 4
HISTORY_SECONDS: Final = 4.0
"""How long a query of the past may take."""
POLL_MIN_SECONDS: Final = 0.001
POLL_MAX_SECONDS: Final = 0.02

T = TypeVar("T")


class Views:
    """Queries over the views of one database. All methods are coroutines and read-only.

    Each query sees one snapshot of the database, and raises `DatabaseError` where the database does
    not answer. Raises `ConfigurationError` for an address of an unsupported database.
    """

    def __init__(self, database_url: str) -> None:
        self._database = Database(database_url, connections=CONNECTIONS)
        self.history = History(database_url, seconds=HISTORY_SECONDS)
        """The same queries, of the past."""
        self._positions: dict[str, Position] = {}
        self._refresh_lock = asyncio.Lock()

    def open(self) -> None:
        """Set up for reading only: no tables are created where no projector has run."""
        self._database.open()

    async def start(self) -> None:
        """Connect. Where no projector has run yet, empty tables are created."""
        self._database.open()
        self.history.open()
        await self._database.prepare()

    async def stop(self) -> None:
        """Close all connections. Safe to call twice."""
        await self.history.close()
        await self._database.close()

    # ---- how far the views are ---------------------------------------------------------------

    async def positions(self) -> dict[str, Position]:
        """Every checkpoint, by pool."""
        self._positions = await self._read(lambda c: read_positions(c, SERVING))
        return self._positions

    async def wait_for(self, pool: str, seq: int, *, timeout_seconds: float) -> bool:
        """Wait until the pool's views have reached `seq`; False if they have not in time.

        However many callers wait, one at a time reads the database, for all of them.
        """
        deadline = time.monotonic() + timeout_seconds
        delay = POLL_MIN_SECONDS
        while not self._has_reached(pool, seq):
            known = self._positions
            async with self._refresh_lock:
                if known is self._positions:
                    await self.positions()
            if self._has_reached(pool, seq):
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            await asyncio.sleep(min(delay, remaining))
            delay = min(delay * 2, POLL_MAX_SECONDS)
        return True

    def _has_reached(self, pool: str, seq: int) -> bool:
        return self._positions.get(pool, Position(pool)).seq >= seq

    # ---- agents ------------------------------------------------------------------------------

    async def agents(
        self,
        filter: AgentFilter,  # noqa: A002 - reads best where it is called
        *,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[AgentRow]:
        """Agents in the order of their ids, after the id `after` (keyset paging)."""
        return await self._read(lambda c: selects.agents(c, filter, after=after, limit=limit))

    async def agent(self, agent_id: str, pool: str | None = None) -> AgentRow | None:
        """One agent, ended or not."""
        return await self._read(lambda c: selects.agent(c, agent_id, pool))

    async def count_agents(self) -> dict[str, dict[str, int]]:
        """Numbers of agents by pool and status, without ended ones."""
        return await self._read(selects.count_agents)

    # ---- workers, pools, hosts ---------------------------------------------------------------

    async def workers(
        self,
        pool: str | None = None,
        *,
        ended: bool = False,
        after: str = "",
        limit: int | None = None,
    ) -> Sequence[WorkerRow]:
        """Workers in the order of their ids; `ended`: stopped and lost ones too."""
        return await self._read(
            lambda c: selects.workers(c, pool, ended=ended, after=after, limit=limit)
        )

    async def pools(self) -> Sequence[PoolRow]:
        """Pools that were not deleted, in the order of their names."""
        return await self._read(selects.pools)

    async def pool(self, name: str) -> PoolRow | None:
        """A pool that was not deleted."""
        found = await self._read(lambda c: selects.pools(c, name))
        return found[0] if found else None

    async def hosts(self) -> Sequence[HostRow]:
        """Hosts in the order of their ids, those that left too."""
        return await self._read(selects.hosts)

    # ---- events ------------------------------------------------------------------------------

    async def events(
        self,
        pool: str,
        *,
        after_seq: int = 0,
        subject: str | None = None,
        types: Sequence[str] = (),
        limit: int = 1000,
    ) -> Sequence[EventRow]:
        """Archived events of a pool, in order."""
        return await self._read(
            lambda c: selects.events(
                c, pool, after_seq=after_seq, subject=subject, types=types, limit=limit
            )
        )

    async def archived(
        self, pool: str, stream_id: str, until: str = "+", count: int = 1000
    ) -> Sequence[EventRow]:
        """Archived events after an id of the pool's stream and up to another, in order."""
        return await self._read(
            lambda c: archive.after(c, pool, stream_id, until=until, count=count)
        )

    async def archived_before(
        self, pool: str, stream_id: str, count: int = 1000
    ) -> Sequence[EventRow]:
        """Archived events before an id of the pool's stream, newest first."""
        return await self._read(lambda c: archive.before(c, pool, stream_id, count=count))

    async def archived_id(self, pool: str, seq: int) -> str:
        """The id of the last archived event below a seq; `0` if there is none."""
        return await self._read(lambda c: archive.id_before(c, pool, seq))

    async def agent_state(self, pool: str, agent_id: str) -> Agent | None:
        """An agent as the fold of its events: its hash can be rebuilt from that."""
        return await self._read(lambda c: selects.agent_state(c, pool, agent_id))

    async def recent(
        self, types: Sequence[str], *, since_ms: int, limit: int = 100
    ) -> Sequence[EventRow]:
        """The newest events of some types over all pools, newest first (for alerts)."""
        return await self._read(lambda c: selects.recent(c, types, since_ms=since_ms, limit=limit))

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._database.read_with_retry(work)
