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
    Moment,
    Place,
    find_moment,
)
from projector.history.replay import (
    CHUNK,
    Census,
    Past,
    Population,
    TooCostly,
    candidates,
    matching,
    room_in,
    row_of_agent,
    row_of_worker,
    rows_of_pools,
)
from projector.store.database import Database
from projector.store.rows import AgentFilter, AgentRow, PoolRow, Room, WorkerRow
from projector.store.tables import EVENTS

CONNECTIONS: Final = 2
PLACES_REMEMBERED: Final = 500
IDS_REMEMBERED: Final = 500_000
"""So many ids of agents and workers are kept at hand, over all places."""

T = TypeVar("T")


class ArchiveUnreadable(MusterError):
    """The archive holds an event that cannot be read, or that cannot follow those before it."""


class Known(Struct):
    """What was found out about a place."""

    agents: Population
    workers: Population
    census: Census | None = None

    def __len__(self) -> int:
        return len(self.agents.ever) + len(self.workers.ever)


class History:
    """Questions about the past. Methods are coroutines and read-only.

    They raise `TooCostly`, `ArchiveIncomplete`, `ArchiveUnreadable`, and `DatabaseError`.
    """

    def __init__(self, database_url: str, *, seconds: float) -> None:
        self._database = Database(database_url, connections=CONNECTIONS)
        self._seconds = seconds
        self._known: OrderedDict[Place, Known] = OrderedDict()
        self._catalogues: OrderedDict[Place, Catalogue] = OrderedDict()
        self._turn = Lock()

    def open(self) -> None:
        self._database.open()

    async def close(self) -> None:
        """Safe to call twice."""
        await self._database.close()

    # ---- questions ---------------------------------------------------------------------------

    async def moment(self, asked: AsOf, pools: Iterable[str] | None = None) -> Moment:
        """The places of some logs (None: of all), and of the catalogue. Raises `NotReached`."""
        named = None if pools is None else {CATALOGUE, *pools, *asked.events}

        def work(connection: Connection, _: float) -> Moment:
            return find_moment(connection, asked, named)

        return await self._ask(work)

    async def pool_of(self, agent_id: str) -> str | None:
        """The pool that an agent was in, at any time."""

        def work(connection: Connection, _: float) -> str | None:
            of_agents = EVENTS.c.type.startswith("agent.")
            chosen = select(EVENTS.c.pool).where(EVENTS.c.subject == agent_id, of_agents)
            pool: str | None = connection.execute(chosen.limit(1)).scalar()
            return pool

        return await self._ask(work)

    async def agent(self, moment: Moment, agent_id: str, pool: str | None) -> AgentRow | None:
        """One agent, ended or not; `pool` None: nothing is archived of it."""

        def work(connection: Connection, deadline: float) -> AgentRow | None:
            if pool is None:
                for place in moment.places.values():
                    if place.begins_late:
                        Past(connection, place, deadline).demand_whole()
                return None
            past = Past(connection, moment.of(pool), deadline)
            if not past.requested([agent_id]):
                past.demand_whole()
                return None
            past.demand_whole(agent_id)
            [row] = self._agent_rows(connection, moment, {pool: past.agents([agent_id])}, deadline)
            return row

        return await self._ask(work)

    async def agents(
        self,
        moment: Moment,
        filter: AgentFilter,  # noqa: A002 - as in `Views`
        *,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[AgentRow]:
        """Agents in the order of their ids, after the id `after`."""

        def work(connection: Connection, deadline: float) -> list[AgentRow]:
            pools = [pool for pool in moment.places if pool != CATALOGUE]
            if filter.pool_name is not None:
                pools = [filter.pool_name]
            pasts = {pool: Past(connection, moment.of(pool), deadline) for pool in pools}
            populations = {pool: self._know(past).agents for pool, past in pasts.items()}
            wanted = candidates(populations, filter, after)
            rows: list[AgentRow] = []
            while len(rows) < limit and (chunk := list(islice(wanted, CHUNK))):
                found = {
                    pool: matching(pasts[pool], [i for i, p in chunk if p == pool], filter)
                    for pool in {pool for _, pool in chunk}
                }
                rows += self._agent_rows(connection, moment, found, deadline)
            return rows[:limit]

        return await self._ask(work)

    async def workers(
        self,
        moment: Moment,
        pool: str | None = None,
        *,
        ended: bool = False,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[WorkerRow]:
        """Workers in the order of their ids; `ended`: stopped and lost ones too."""

        def work(connection: Connection, deadline: float) -> list[WorkerRow]:
            rows: list[WorkerRow] = []
            for name, place in moment.places.items():
                if name == CATALOGUE or pool not in (None, name):
                    continue
                past = Past(connection, place, deadline)
                known, census = self._know(past), self._census(past)
                ids = known.workers.ever if ended else known.workers.living
                some = past.workers([worker_id for worker_id in ids if worker_id > after][:limit])
                rows += [row_of_worker(worker, census) for worker in some.values()]
            return sorted(rows, key=lambda row: row.worker_id)[:limit]

        return await self._ask(work)

    async def pools(self, moment: Moment) -> Sequence[PoolRow]:
        """Pools that there were, in the order of their names."""

        def work(connection: Connection, deadline: float) -> list[PoolRow]:
            catalogue = self._catalogue(connection, moment, deadline)
            censuses = {
                name: self._census(Past(connection, moment.of(name), deadline))
                for name in catalogue.live_pools()
            }
            return rows_of_pools(catalogue, censuses)

        return await self._ask(work)

    async def pool(self, moment: Moment, name: str) -> PoolRow | None:
        def work(connection: Connection, deadline: float) -> PoolRow | None:
            catalogue = self._catalogue(connection, moment, deadline)
            if name not in catalogue.live_pools():
                return None
            census = self._census(Past(connection, moment.of(name), deadline))
            only = Catalogue(pools={name: catalogue.pools[name]})
            return rows_of_pools(only, {name: census})[0]

        return await self._ask(work)

    # ---- what is put together ----------------------------------------------------------------

    def _agent_rows(
        self,
        connection: Connection,
        moment: Moment,
        found: Mapping[str, Mapping[str, tuple[Any, int]]],
        deadline: float,
    ) -> list[AgentRow]:
        rows: list[AgentRow] = []
        for pool, agents in found.items():
            room = None
            if any(agent.status is Status.PENDING for agent, _ in agents.values()):
                room = self._room(connection, moment, pool, deadline)
            rows += [row_of_agent(agent, generation, room) for agent, generation in agents.values()]
        return sorted(rows, key=lambda row: row.agent_id)

    def _room(
        self, connection: Connection, moment: Moment, pool: str, deadline: float
    ) -> Room | None:
        """What decides on what pending agents waited for; None where that cannot be told."""
        try:
            census = self._census(Past(connection, moment.of(pool), deadline))
            return room_in(self._catalogue(connection, moment, deadline), pool, census)
        except ArchiveIncomplete:
            return None

    def _know(self, past: Past) -> Known:
        """Who there was; from memory, if it was asked for lately."""
        place = past.place
        with self._turn:
            if known := self._known.get(place):
                self._known.move_to_end(place)
                return known
        past.demand_whole()
        known = Known(*past.population())
        with self._turn:
            self._known[place] = known
            while self._too_much():
                self._known.popitem(last=False)
        return known

    def _too_much(self) -> bool:
        ids = sum(map(len, self._known.values()))
        return len(self._known) > 1 and (
            ids > IDS_REMEMBERED or len(self._known) > PLACES_REMEMBERED
        )

    def _census(self, past: Past) -> Census:
        known = self._know(past)
        if known.census is None:
            known.census = past.census(known.agents, known.workers)
        return known.census

    def _catalogue(self, connection: Connection, moment: Moment, deadline: float) -> Catalogue:
        past = Past(connection, moment.of(CATALOGUE), deadline)
        with self._turn:
            if known := self._catalogues.get(past.place):
                return known
        past.demand_whole()
        known = past.catalogue()
        with self._turn:
            self._catalogues[past.place] = known
            while len(self._catalogues) > PLACES_REMEMBERED:
                self._catalogues.popitem(last=False)
        return known

    # ---- for a bounded time ------------------------------------------------------------------

    async def _ask(self, work: Callable[[Connection, float], T]) -> T:
        def bounded(connection: Connection) -> T:
            deadline = time.monotonic() + self._seconds
            try:
                with _limited(connection, self._seconds):
                    return work(connection, deadline)
            except OperationalError as error:
                if time.monotonic() < deadline:
                    raise
                raise TooCostly from error
            except (Unfoldable, UnknownEvent, msgspec.DecodeError) as error:
                raise ArchiveUnreadable(str(error)) from error

        return await self._database.ask(bounded)


@contextmanager
def _limited(connection: Connection, seconds: float) -> Iterator[None]:
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
