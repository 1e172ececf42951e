"""Time travel: the registry as it was at an event or at a time, answered from the archive.

A question names a moment; `moment` finds the place of every log in it, and the other methods answer
for that moment, as often as they are asked, whatever is archived meanwhile. All of it runs on
connections of its own and for a bounded time, so that a long look back keeps no query of the
present waiting. What was counted over all the living of a place is remembered for the next page.

What an exact answer takes has to be there: an archive that lacks events raises `ArchiveIncomplete`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from eventstore.errors import MusterError, UnknownEvent
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Status
from eventstore.language.catalogue import Catalogue
from projector.fold.fold import Unfoldable
from projector.history.positions import (
    ArchiveIncomplete,
    AsOf,
    LogPosition,
    PointInTime,
    find_point,
)
from projector.history.replay import (
    CHUNK,
    HistoricalState,
    PoolStatistics,
    Population,
    TooExpensive,
    candidates,
    capacity_of,
    matching,
    row_of_agent,
    row_of_worker,
    rows_of_pools,
)
from projector.store.database import Database
from projector.store.rows import AgentFilter, AgentRow, PoolCapacity, PoolRow, WorkerRow
from projector.store.tables import EVENTS

CONNECTIONS: Final = 2
POSITIONS_CACHED: Final = 500
IDS_CACHED: Final = 500_000
"""So many ids of agents and workers are kept at hand, over all places."""

T = TypeVar("T")


class ArchiveUnreadable(MusterError):
    """The archive holds an event that cannot be read, or that cannot follow those before it."""


class CachedPool(Struct):
    """What was found out about a place."""

    agents: Population
    workers: Population
    statistics: PoolStatistics | None = None

    def __len__(self) -> int:
        return len(self.agents.all_ids) + len(self.workers.all_ids)


class History:
    """Questions about the past. Methods are coroutines and read-only.

    They raise `TooCostly`, `ArchiveIncomplete`, `ArchiveUnreadable`, and `DatabaseError`.
    """

    def __init__(self, database_url: str, *, seconds: float) -> None:
        self._database = Database(database_url, connections=CONNECTIONS)
        self._seconds = seconds
        self._cache: OrderedDict[LogPosition, CachedPool] = OrderedDict()
        self._catalogues: OrderedDict[LogPosition, Catalogue] = OrderedDict()
        self._cache_lock = Lock()

    def open(self) -> None:
        self._database.open()

    async def close(self) -> None:
        """Safe to call twice."""
        await self._database.close()

    # ---- questions ---------------------------------------------------------------------------

    async def point_in_time(self, as_of: AsOf, pools: Iterable[str] | None = None) -> PointInTime:
        """The places of some logs (None: of all), and of the catalogue. Raises `NotReached`."""
        pool_names = None if pools is None else {CATALOGUE, *pools, *as_of.events}

        def work(connection: Connection, _: float) -> PointInTime:
            return find_point(connection, as_of, pool_names)

        return await self._ask(work)

    async def pool_of(self, agent_id: str) -> str | None:
        """The pool that an agent was in, at any time."""

        def work(connection: Connection, _: float) -> str | None:
            agent_events = EVENTS.c.type.startswith("agent.")
            query = select(EVENTS.c.pool).where(EVENTS.c.subject == agent_id, agent_events)
            pool: str | None = connection.execute(query.limit(1)).scalar()
            return pool

        return await self._ask(work)

    async def agent(self, point: PointInTime, agent_id: str, pool: str | None) -> AgentRow | None:
        """One agent, ended or not; `pool` None: nothing is archived of it."""

        def work(connection: Connection, deadline: float) -> AgentRow | None:
            if pool is None:
                for position in point.positions.values():
                    if position.truncated:
                        HistoricalState(connection, position, deadline).require_complete()
                return None
            state = HistoricalState(connection, point.position_of(pool), deadline)
            if not state.requested([agent_id]):
                state.require_complete()
                return None
            state.require_complete(agent_id)
            [row] = self._agent_rows(connection, point, {pool: state.agents([agent_id])}, deadline)
            return row

        return await self._ask(work)

    async def agents(
        self,
        point: PointInTime,
        filter: AgentFilter,  # noqa: A002 - as in `Views`
        *,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[AgentRow]:
        """Agents in the order of their ids, after the id `after`."""

        def work(connection: Connection, deadline: float) -> list[AgentRow]:
            pools = [pool for pool in point.positions if pool != CATALOGUE]
            if filter.pool_name is not None:
                pools = [filter.pool_name]
            states = {
                pool: HistoricalState(connection, point.position_of(pool), deadline)
                for pool in pools
            }
            populations = {pool: self._cached_pool(past).agents for pool, past in states.items()}
            wanted = candidates(populations, filter, after)
            rows: list[AgentRow] = []
            while len(rows) < limit and (chunk := list(islice(wanted, CHUNK))):
                found = {
                    pool: matching(states[pool], [i for i, p in chunk if p == pool], filter)
                    for pool in {pool for _, pool in chunk}
                }
                rows += self._agent_rows(connection, point, found, deadline)
            return rows[:limit]

        return await self._ask(work)

    async def workers(
        self,
        point: PointInTime,
        pool: str | None = None,
        *,
        ended: bool = False,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[WorkerRow]:
        """Workers in the order of their ids; `ended`: stopped and lost ones too."""

        def work(connection: Connection, deadline: float) -> list[WorkerRow]:
            rows: list[WorkerRow] = []
            for name, position in point.positions.items():
                if name == CATALOGUE or pool not in (None, name):
                    continue
                state = HistoricalState(connection, position, deadline)
                cached, statistics = self._cached_pool(state), self._statistics(state)
                ids = cached.workers.all_ids if ended else cached.workers.live_ids
                found = state.workers([worker_id for worker_id in ids if worker_id > after][:limit])
                rows += [row_of_worker(worker, statistics) for worker in found.values()]
            return sorted(rows, key=lambda row: row.worker_id)[:limit]

        return await self._ask(work)

    async def pools(self, point: PointInTime) -> Sequence[PoolRow]:
        """Pools that there were, in the order of their names."""

        def work(connection: Connection, deadline: float) -> list[PoolRow]:
            catalogue = self._catalogue(connection, point, deadline)
            statistics = {
                name: self._statistics(
                    HistoricalState(connection, point.position_of(name), deadline)
                )
                for name in catalogue.live_pools()
            }
            return rows_of_pools(catalogue, statistics)

        return await self._ask(work)

    async def pool(self, point: PointInTime, name: str) -> PoolRow | None:
        def work(connection: Connection, deadline: float) -> PoolRow | None:
            catalogue = self._catalogue(connection, point, deadline)
            if name not in catalogue.live_pools():
                return None
            statistics = self._statistics(
                HistoricalState(connection, point.position_of(name), deadline)
            )
            only = Catalogue(pools={name: catalogue.pools[name]})
            return rows_of_pools(only, {name: statistics})[0]

        return await self._ask(work)

    # ---- what is put together ----------------------------------------------------------------

    def _agent_rows(
        self,
        connection: Connection,
        point: PointInTime,
        found: Mapping[str, Mapping[str, tuple[Any, int]]],
        deadline: float,
    ) -> list[AgentRow]:
        rows: list[AgentRow] = []
        for pool, agents in found.items():
            capacity = None
            if any(agent.status is Status.PENDING for agent, _ in agents.values()):
                capacity = self._capacity(connection, point, pool, deadline)
            rows += [
                row_of_agent(agent, generation, capacity) for agent, generation in agents.values()
            ]
        return sorted(rows, key=lambda row: row.agent_id)

    def _capacity(
        self, connection: Connection, point: PointInTime, pool: str, deadline: float
    ) -> PoolCapacity | None:
        """What decides on what pending agents waited for; None where that cannot be told."""
        try:
            statistics = self._statistics(
                HistoricalState(connection, point.position_of(pool), deadline)
            )
            return capacity_of(self._catalogue(connection, point, deadline), pool, statistics)
        except ArchiveIncomplete:
            return None

    def _cached_pool(self, state: HistoricalState) -> CachedPool:
        """Who there was; from memory, if it was asked for lately."""
        position = state.position
        with self._cache_lock:
            if cached := self._cache.get(position):
                self._cache.move_to_end(position)
                return cached
        state.require_complete()
        cached = CachedPool(*state.population())
        with self._cache_lock:
            self._cache[position] = cached
            while self._cache_full():
                self._cache.popitem(last=False)
        return cached

    def _cache_full(self) -> bool:
        ids = sum(map(len, self._cache.values()))
        return len(self._cache) > 1 and (ids > IDS_CACHED or len(self._cache) > POSITIONS_CACHED)

    def _statistics(self, state: HistoricalState) -> PoolStatistics:
        cached = self._cached_pool(state)
        if cached.statistics is None:
            cached.statistics = state.statistics(cached.agents, cached.workers)
        return cached.statistics

    def _catalogue(self, connection: Connection, point: PointInTime, deadline: float) -> Catalogue:
        state = HistoricalState(connection, point.position_of(CATALOGUE), deadline)
        with self._cache_lock:
            if catalogue := self._catalogues.get(state.position):
                return catalogue
        state.require_complete()
        catalogue = state.catalogue()
        with self._cache_lock:
            self._catalogues[state.position] = catalogue
            while len(self._catalogues) > POSITIONS_CACHED:
                self._catalogues.popitem(last=False)
        return catalogue

    # ---- for a bounded time ------------------------------------------------------------------

    async def _ask(self, work: Callable[[Connection, float], T]) -> T:
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

        return await self._database.read_with_retry(bounded)


@contextmanager
def _time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """End a statement that takes longer; between statements the deadline is looked at."""
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
