"""What agents, workers and pools were at a place in the history: folded from the archive alone.

Agents and workers change by their own events only, so it takes no fold of the whole log to know
some of them: who lived then is told by who was requested and had not ended, and the events of those
are folded, some hundreds at a time. How full workers were is counted over the living.
"""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, func, select

from eventstore.errors import MusterError
from eventstore.language.agents import TERMINAL, Agent, Status
from eventstore.language.catalogue import Catalogue
from eventstore.language.workers import Worker, WorkerStatus
from projector.fold.fold import State, fold, fold_catalogue
from projector.history.positions import Place, demand_whole
from projector.intake.entries import event_of
from projector.store.mapping import agent_record, pool_record, worker_record
from projector.store.rows import (
    AgentFilter,
    AgentRow,
    EventRow,
    PoolRow,
    Room,
    WorkerRow,
    agent_row,
    pool_row,
    worker_row,
)
from projector.store.tables import EVENTS

CHUNK: Final = 500
"""Subjects whose events are read at once."""
TURNS_MAX: Final = 2_000_000
"""Beginnings and ends of agents and workers that a place may have behind it."""
LIVING_WORKERS: Final = (WorkerStatus.ACTIVE, WorkerStatus.SUSPECT, WorkerStatus.DRAINING)
TURNS: Final = (
    "agent.requested",
    "agent.terminated",
    "agent.failed",
    "worker.requested",
    "worker.stopped",
    "worker.lost",
)


class TooCostly(MusterError):
    """So much happened until then that it takes too long to fold; ask for a pool, or one agent."""


class Population(Struct, frozen=True):
    """Ids of a kind, sorted: all there ever were until then, and those that had not ended."""

    ever: Sequence[str] = ()
    living: Sequence[str] = ()


class Census(Struct, frozen=True):
    """What the living add up to. `held`: agents by worker; `alone`: who has one for itself."""

    statuses: Mapping[str, int]
    held: Mapping[str, int]
    alone: Mapping[str, str]
    workers: Sequence[Worker]

    def _used(self, worker: Worker) -> int:
        """Slots that nobody else can have."""
        alone = worker.worker_id in self.alone
        return worker.max_agents if alone else self.held.get(worker.worker_id, 0)

    def capacity(self) -> dict[str, Any]:
        """As the SQL view `pool_capacity` counts it."""
        active = [w for w in self.workers if w.status is WorkerStatus.ACTIVE]
        total = sum(worker.max_agents for worker in active)
        used = sum(map(self._used, active))
        ordered = sum(worker.status is WorkerStatus.REQUESTED for worker in self.workers)
        return {
            "process_count": sum(worker.status in LIVING_WORKERS for worker in self.workers),
            "active_worker_processes": len(active),
            "ordered_worker_processes": ordered,
            "total_capacity": total,
            "used_capacity": used,
            "available_capacity": total - used,
            "agent_count": sum(self.statuses.values()),
            "pending_count": self.statuses.get(Status.PENDING.value, 0),
            "utilization": int(used * 10_000 / total + 0.5) / 10_000 if total else 0.0,
        }


class Past:
    """One place, for the time of one transaction. Raises `TooCostly` after `deadline`."""

    def __init__(self, connection: Connection, place: Place, deadline: float) -> None:
        self.place = place
        self._connection = connection
        self._deadline = deadline

    def demand_whole(self, agent_id: str = "") -> None:
        """Raises `ArchiveIncomplete`. What was before an agent was asked for does not matter."""
        first = 1
        if agent_id:
            of = (EVENTS.c.subject == agent_id, self.place.events())
            first = self._connection.execute(select(func.min(EVENTS.c.seq)).where(*of)).scalar_one()
        demand_whole(self._connection, self.place, first)

    # ---- who there was -----------------------------------------------------------------------

    def population(self) -> tuple[Population, Population]:
        """Agents and workers."""
        chosen = select(EVENTS.c.type, EVENTS.c.subject).where(
            EVENTS.c.type.in_(TURNS), self.place.events()
        )
        found: dict[str, set[str]] = {kind: set() for kind in TURNS}
        for turns in self._connection.execute(chosen.limit(TURNS_MAX)).partitions(CHUNK):
            self._watch_the_time()
            for kind, subject in turns:
                found[kind].add(subject)
        if sum(map(len, found.values())) >= TURNS_MAX:
            raise TooCostly
        agents, workers = found["agent.requested"], found["worker.requested"]
        gone = found["agent.terminated"] | found["agent.failed"]
        left = found["worker.stopped"] | found["worker.lost"]
        return (
            Population(sorted(agents), sorted(agents - gone)),
            Population(sorted(workers), sorted(workers - left)),
        )

    def catalogue(self) -> Catalogue:
        """Where this is a place of the catalogue."""
        state = Catalogue()
        chosen = select(EVENTS).where(self.place.events()).order_by(EVENTS.c.seq)
        for rows in self._connection.execute(chosen).mappings().partitions(CHUNK):
            self._watch_the_time()
            state = fold_catalogue((event_of(EventRow(**row)) for row in rows), state)
        return state

    def census(self, agents: Population, workers: Population) -> Census:
        statuses: Counter[str] = Counter()
        held: Counter[str] = Counter()
        alone: dict[str, str] = {}
        for ids in _chunks(agents.living):
            for agent, _ in self.agents(ids).values():
                statuses[agent.status.value] += 1
                if agent.held:
                    held[agent.worker_id] += 1
                    if agent.alone:
                        alone[agent.worker_id] = agent.agent_id
        return Census(statuses, held, alone, list(self.workers(workers.living).values()))

    # ---- some of them --------------------------------------------------------------------------

    def agents(self, ids: Iterable[str]) -> dict[str, tuple[Agent, int]]:
        """Agents, each with the generation in which it last changed."""
        rows = self._of(ids)
        generations = {row.subject: row.generation for row in rows}
        found = fold(self.place.pool, map(event_of, rows), State()).agents
        return {agent_id: (agent, generations[agent_id]) for agent_id, agent in found.items()}

    def requested(self, ids: Iterable[str]) -> dict[str, Agent]:
        """Agents as they were when they were asked for."""
        rows = self._of(ids, "agent.requested")
        return fold(self.place.pool, map(event_of, rows), State()).agents

    def workers(self, ids: Iterable[str]) -> dict[str, Worker]:
        found: dict[str, Worker] = {}
        for chunk in _chunks(list(ids)):
            events = map(event_of, self._of(chunk))
            crews = fold(self.place.pool, events, State()).workers
            found.update((worker_id, crew.worker) for worker_id, crew in crews.items())
        return found

    def _of(self, ids: Iterable[str], kind: str = "") -> list[EventRow]:
        """Events of some subjects up to the place, in order; `kind`: of that type only."""
        self._watch_the_time()
        # By the index on subjects, and by nothing else: what is in it counts a handful each, but
        # SQLite, which knows no numbers, would rather walk through all that happened in the pool.
        chosen = select(EVENTS).where(EVENTS.c.subject.in_(list(ids)))
        if kind:
            chosen = chosen.where(EVENTS.c.type.concat("") == kind)
        rows = (EventRow(**row) for row in self._connection.execute(chosen).mappings())
        return sorted(filter(self.place.holds, rows), key=lambda row: row.seq)

    def _watch_the_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooCostly


def candidates(
    populations: Mapping[str, Population], wanted: AgentFilter, after: str
) -> Iterator[tuple[str, str]]:
    """Ids and pools of agents that may be wanted, in the order of their ids."""
    living = wanted.ended is False or (
        bool(wanted.status) and not TERMINAL.intersection(map(Status, wanted.status))
    )

    def of(pool: str) -> Iterator[tuple[str, str]]:
        ids = populations[pool].living if living else populations[pool].ever
        return ((ids[i], pool) for i in range(bisect_right(ids, after), len(ids)))

    return merge(*map(of, populations))


def matching(past: Past, ids: Sequence[str], wanted: AgentFilter) -> dict[str, tuple[Agent, int]]:
    """Those of some agents that are wanted, each with its generation."""
    if wanted.project_id is not None or wanted.role_type is not None or wanted.label is not None:
        # What never changes is looked at first: for most that spares the rest of their events.
        ids = [i for i, agent in past.requested(ids).items() if _for_good(agent, wanted)]
    found = past.agents(ids) if ids else {}
    return {i: agent for i, agent in found.items() if _then(agent[0], wanted)}


def _for_good(agent: Agent, wanted: AgentFilter) -> bool:
    label = wanted.label
    return (
        wanted.project_id in (None, agent.project_id)
        and wanted.role_type in (None, agent.role_type)
        and (label is None or agent.labels.get(label[0]) == label[1])
    )


def _then(agent: Agent, wanted: AgentFilter) -> bool:
    return (
        (not wanted.status or agent.status.value in wanted.status)
        and wanted.process_id in (None, agent.worker_id)
        and wanted.ended in (None, agent.ended)
    )


def row_of_agent(agent: Agent, generation: int, room: Room | None) -> AgentRow:
    """What heartbeats told is not kept: `activity` and `last_heartbeat` are empty."""
    live = {"activity": "", "last_heartbeat": 0}
    row = agent_row({**agent_record(agent, generation), **live}, room or Room())
    return row if room is not None else replace(row, reason=agent.reason)


def row_of_worker(worker: Worker, census: Census) -> WorkerRow:
    name, live = worker.worker_id, {"last_heartbeat": 0, "loop_lag_ms": 0.0}
    record = worker_record(worker, census.held.get(name, 0), census.alone.get(name, ""))
    return worker_row({**record, **live})


def rows_of_pools(catalogue: Catalogue, censuses: Mapping[str, Census]) -> list[PoolRow]:
    """Pools that were not deleted, in the order of their names."""
    empty = Census({}, {}, {}, ())
    return [
        pool_row({**pool_record(pool), **censuses.get(name, empty).capacity()})
        for name, pool in sorted(catalogue.live_pools().items())
    ]


def room_in(catalogue: Catalogue, pool: str, census: Census) -> Room:
    """What decides on what a pool's pending agents waited for."""
    counted, known = census.capacity(), catalogue.pools.get(pool)
    if known is None or known.deleted:
        return Room()
    return Room(
        free=counted["available_capacity"],
        living=counted["process_count"],
        ordered=counted["ordered_worker_processes"],
        maximum=known.config.max_workers,
        alone=len(census.alone),
    )


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    left = iter(ids)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
