"""Time travel: the registry as it was at an event or at a time, answered from the archive.

`point_in_time` finds the position of every log at that point. The other methods answer for this
point, the same each time, whatever is archived meanwhile. All queries run on connections of their
own and for a bounded time, so that a long one does not delay queries of the present.

Answers are exact: where the archive lacks events that they need, they raise `ArchiveIncomplete`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from eventstore.errors import MusterError, UnknownEvent
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent, Status
from projector.fold.fold import Unfoldable
from projector.history import replay
from projector.history.cache import HistoryCache
from projector.history.positions import ArchiveIncomplete, AsOf, PointInTime, find_point
from projector.history.replay import HistoricalState, TooExpensive
from projector.store import archive_starts
from projector.store.archive_starts import AGENT
from projector.store.capacity import PoolCapacity
from projector.store.database import Database
from projector.store.rows import (
    READ_BYTES,
    AgentFilter,
    AgentRow,
    PoolRow,
    WorkerRow,
)
from projector.store.tables import EVENTS

CONNECTIONS: Final = 2
AGENTS_READ: Final = 100
"""How many agents are read at a time, each with an input of 64 KiB at most."""

T = TypeVar("T")
StateOf: TypeAlias = Callable[[str], HistoricalState]
"""The state of a pool's log at a point in time, within one transaction."""


class ArchiveUnreadable(MusterError):
    """The archive has an event that cannot be read, or that cannot follow those before it."""


class History:
    """Queries of the past. Methods are coroutines and read-only.

    They raise `TooExpensive`, `ArchiveIncomplete`, `ArchivePruned`, `ArchiveUnreadable`, and
    `DatabaseError`.
    """

    def __init__(self, database_url: str, *, seconds: float) -> None:
        self.database = Database(database_url, connections=CONNECTIONS, only_reads=True)
        self._seconds = seconds
        self._cache = HistoryCache()

    # ---- queries -----------------------------------------------------------------------------

    async def point_in_time(self, as_of: AsOf, pools: Iterable[str] | None = None) -> PointInTime:
        """The positions of some logs (None: of all) and the catalogue. Raises `NotYetArchived`."""
        pool_names = None if pools is None else {CATALOGUE, *pools, *as_of.events}
        return await self.query(lambda connection, _: find_point(connection, as_of, pool_names))

    async def pool_of(self, agent_id: str) -> str | None:
        """The pool of an agent, whenever it lived."""

        def work(connection: Connection, _: float) -> str | None:
            agent_events = EVENTS.c.type.startswith("agent.")
            query = select(EVENTS.c.pool).where(EVENTS.c.subject == agent_id, agent_events)
            pool: str | None = connection.execute(query.limit(1)).scalar()
            return pool or archive_starts.pool_of(connection, AGENT, agent_id)

        return await self.query(work)

    async def agent(self, point: PointInTime, agent_id: str, pool: str | None) -> AgentRow | None:
        """One agent, ended or not; `pool` None: nothing of it is archived."""

        def work(state_of: StateOf) -> AgentRow | None:
            if pool is None:
                for name, position in point.positions.items():
                    if position.truncated:
                        state_of(name).require_complete()
                return None
            state = state_of(pool)
            if not state.requested([agent_id]):
                state.require_complete()
                return None
            state.require_complete(agent_id)
            [row] = self._agent_rows(state_of, {pool: state.agents([agent_id])})
            return row

        return await self._query_at(point, work)

    async def agents(
        self,
        point: PointInTime,
        filter: AgentFilter,  # noqa: A002 - as in `Views`
        *,
        after: str = "",
        limit: int = 100,
        with_input: bool = True,
    ) -> Sequence[AgentRow]:
        """Agents in the order of their ids, after the id `after`: as `selects.agents`."""

        def work(state_of: StateOf) -> list[AgentRow]:
            pools = [pool for pool in point.positions if pool != CATALOGUE]
            if filter.pool_name is not None:
                pools = [filter.pool_name]
            if filter.pools is not None:
                pools = [pool for pool in pools if pool in filter.pools]
            states = {pool: state_of(pool) for pool in pools}
            populations = {pool: self._cache.pool(state).agents for pool, state in states.items()}
            wanted = replay.candidates(populations, filter, after)
            rows: list[AgentRow] = []
            size = 0
            while (
                len(rows) < limit
                and size < READ_BYTES
                and (chunk := list(islice(wanted, AGENTS_READ)))
            ):
                found = {
                    pool: replay.matching(states[pool], [i for i, p in chunk if p == pool], filter)
                    for pool in {pool for _, pool in chunk}
                }
                read = self._agent_rows(state_of, found)
                read = read if with_input else [replace(row, input=UNSET) for row in read]
                rows += read
                size += sum(len(msgspec.json.encode(row)) for row in read)
            return rows[:limit]

        return await self._query_at(point, work)

    async def workers(
        self,
        point: PointInTime,
        pool: str | None = None,
        *,
        ended: bool = False,
        after: str = "",
        limit: int = 1000,
        pools: Sequence[str] | None = None,
    ) -> Sequence[WorkerRow]:
        """Workers in the order of their ids; `ended`: stopped and lost ones too.

        `pools`: only of these.
        """

        def work(state_of: StateOf) -> list[WorkerRow]:
            rows: list[WorkerRow] = []
            for name in point.positions:
                if name == CATALOGUE or pool not in (None, name):
                    continue
                if pools is not None and name not in pools:
                    continue
                state = state_of(name)
                cached, statistics = self._cache.pool(state), self._cache.statistics(state)
                ids = cached.workers.all_ids if ended else cached.workers.live_ids
                found = state.workers([worker_id for worker_id in ids if worker_id > after][:limit])
                rows += [replay.row_of_worker(worker, statistics) for worker in found.values()]
            return sorted(rows, key=lambda row: row.worker_id)[:limit]

        return await self._query_at(point, work)

    async def worker(self, point: PointInTime, worker_id: str, pool: str) -> WorkerRow | None:
        """One worker, ended or not."""

        def work(state_of: StateOf) -> WorkerRow | None:
            state = state_of(pool)
            found = state.workers([worker_id]).get(worker_id)
            return replay.row_of_worker(found, self._cache.statistics(state)) if found else None

        return await self._query_at(point, work)

    async def pools(
        self, point: PointInTime, names: Sequence[str] | None = None
    ) -> Sequence[PoolRow]:
        """Pools that were not deleted, in the order of their names; `names`: only these."""
        return await self._query_at(point, lambda state_of: self._pool_rows(state_of, names))

    async def pool(self, point: PointInTime, name: str) -> PoolRow | None:
        """A pool that was not deleted."""
        rows = await self._query_at(point, lambda state_of: self._pool_rows(state_of, [name]))
        return rows[0] if rows else None

    def _pool_rows(self, state_of: StateOf, wanted: Sequence[str] | None) -> list[PoolRow]:
        pools = self._cache.catalogue(state_of(CATALOGUE)).live_pools()
        return [
            replay.row_of_pool(pools[name], self._cache.statistics(state_of(name)))
            for name in sorted(pools)
            if wanted is None or name in wanted
        ]

    def _agent_rows(
        self, state_of: StateOf, found: Mapping[str, Mapping[str, tuple[Agent, int]]]
    ) -> list[AgentRow]:
        rows: list[AgentRow] = []
        for pool, agents in found.items():
            capacity = None
            if any(agent.status is Status.PENDING for agent, _ in agents.values()):
                capacity = self._capacity(state_of, pool)
            for agent, generation in agents.values():
                reason = agent.reason if capacity is None else capacity.reason_of(agent)
                rows.append(AgentRow.of(agent, generation, reason))  # heartbeats are not archived
        return sorted(rows, key=lambda row: row.agent_id)

    def _capacity(self, state_of: StateOf, pool: str) -> PoolCapacity | None:
        """What pending agents waited for depends on it; None where it is unknown."""
        try:
            statistics = self._cache.statistics(state_of(pool))
            return replay.capacity_of(self._cache.catalogue(state_of(CATALOGUE)), pool, statistics)
        except ArchiveIncomplete:
            return None

    # ---- transactions of a bounded time ------------------------------------------------------

    async def _query_at(self, point: PointInTime, work: Callable[[StateOf], T]) -> T:
        return await self.query(
            lambda connection, deadline: work(
                lambda pool: HistoricalState(connection, point.position_of(pool), deadline)
            )
        )

    async def query(self, work: Callable[[Connection, float], T]) -> T:
        """One transaction of a bounded time: `work` gets the connection and its deadline."""

        def bounded(connection: Connection) -> T:
            deadline = time.monotonic() + self._seconds
            try:
                with _time_limit(connection, self._seconds):
                    return work(connection, deadline)
            except OperationalError as error:
                if time.monotonic() < deadline:
                    raise
                raise TooExpensive from error
            except (Unfoldable, UnknownEvent, msgspec.DecodeError) as error:
                raise ArchiveUnreadable(str(error)) from error

        return await self.database.read_with_retry(bounded)


@contextmanager
def _time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """End a statement that takes longer; between statements the deadline is checked."""
    if connection.dialect.name != "sqlite":
        connection.execute(text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))
        yield
        return
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
