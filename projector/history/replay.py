"""Agents, workers and pools at a position in a log's history, folded from the archive only.

Agents and workers change by their own events only, so that to know some of them does not take a
fold of the whole log: those that were requested and had not ended were alive, and their events are
folded, some hundred subjects at a time. The load of workers is counted over live agents.
"""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, func, select

from eventstore.errors import MusterError
from eventstore.language.agents import TERMINAL, Agent, Status
from eventstore.language.catalogue import Catalogue, Pool
from eventstore.language.workers import ALIVE, Worker, WorkerStatus
from projector.fold.fold import State, WorkerLoad, fold, fold_catalogue
from projector.history.beginning import Beginning
from projector.history.positions import LogPosition, require_complete
from projector.intake.entries import event_of
from projector.store.capacity import PoolCapacity
from projector.store.mapping import agent_record, chunks, pool_record, worker_record
from projector.store.rows import (
    SEARCHED,
    AgentFilter,
    EventRow,
    PoolRow,
    WorkerRow,
    pool_row,
    worker_row,
)
from projector.store.tables import EVENTS

CHUNK: Final = 500
"""Subjects whose events are read at once."""
LIFECYCLE_EVENTS_MAX: Final = 2_000_000
"""Starts and ends of agents and workers that are read at most."""
LIFECYCLE_EVENTS: Final = (
    "agent.requested",
    "agent.terminated",
    "agent.failed",
    "agent.restart_requested",
    "worker.requested",
    "worker.stopped",
    "worker.lost",
)


class TooExpensive(MusterError):
    """The history up to that point takes too long to fold; ask for one pool, or one agent."""


class Population(Struct, frozen=True):
    """Ids of agents or workers, sorted: all up to then, and those that had not ended."""

    all_ids: Sequence[str] = ()
    live_ids: Sequence[str] = ()


class PoolStatistics(Struct, frozen=True):
    """Counted over live agents and workers."""

    statuses: Mapping[str, int] = {}
    """Agents by status."""
    agent_counts: Mapping[str, int] = {}
    """Agents by worker."""
    isolated: Mapping[str, str] = {}
    """The agent of each worker that has one isolated agent."""
    workers: Sequence[Worker] = ()

    def _used(self, worker: Worker) -> int:
        """Slots that no other agent can have."""
        is_full = worker.worker_id in self.isolated and not worker.cordoned
        return worker.max_agents if is_full else self._agents(worker)

    def _agents(self, worker: Worker) -> int:
        return self.agent_counts.get(worker.worker_id, 0)

    def capacity(self) -> dict[str, Any]:
        """As the SQL view `pool_capacity` counts it."""
        counts = Counter(worker.status for worker in self.workers)
        active = [worker for worker in self.workers if worker.status is WorkerStatus.ACTIVE]
        total = sum(self._agents(one) if one.cordoned else one.max_agents for one in active)
        used = sum(map(self._used, active))
        return {
            "process_count": sum(counts[status] for status in ALIVE),
            "active_worker_processes": len(active),
            "ordered_worker_processes": counts[WorkerStatus.REQUESTED],
            "total_capacity": total,
            "used_capacity": used,
            "available_capacity": total - used,
            "agent_count": sum(self.statuses.values()),
            "pending_count": self.statuses.get(Status.PENDING.value, 0),
            "utilization": int(used * 10_000 / total + 0.5) / 10_000 if total else 0.0,
        }


class HistoricalState(Struct, frozen=True):
    """One position, within one transaction. Raises `TooExpensive` after `deadline`."""

    connection: Connection
    position: LogPosition
    deadline: float

    @property
    def _beginning(self) -> Beginning:
        return Beginning(self.connection, self.position.start)

    def require_complete(self, agent_id: str = "") -> None:
        """Raises `ArchiveIncomplete`; for one agent, events before its request do not matter."""
        first = 1
        if agent_id and not self._beginning.agents([agent_id]):
            conditions = (EVENTS.c.subject == agent_id, self.position.event_filter())
            first = self.connection.execute(
                select(func.min(EVENTS.c.seq)).where(*conditions)
            ).scalar_one()
        require_complete(self.connection, self.position, first)

    # ---- all ---------------------------------------------------------------------------------

    def population(self) -> tuple[Population, Population]:
        """Of agents and of workers."""
        query = select(EVENTS.c.type, EVENTS.c.subject, EVENTS.c.seq).where(
            EVENTS.c.type.in_(LIFECYCLE_EVENTS), self.position.event_filter()
        )
        found: dict[str, dict[str, int]] = {kind: {} for kind in LIFECYCLE_EVENTS}
        for rows in self.connection.execute(query.limit(LIFECYCLE_EVENTS_MAX)).partitions(CHUNK):
            self._check_deadline()
            for kind, subject, seq in rows:
                found[kind][subject] = max(seq, found[kind].get(subject, 0))
        if sum(map(len, found.values())) >= LIFECYCLE_EVENTS_MAX:
            raise TooExpensive
        agents_then, workers_then = self._beginning.all()
        agents = found["agent.requested"].keys() | agents_then.keys()
        workers = found["worker.requested"].keys() | workers_then.keys()
        for name in (name for name, agent in agents_then.items() if agent.ended):
            found["agent.failed"].setdefault(name, 0)
        for name in (name for name, worker in workers_then.items() if worker.ended):
            found["worker.lost"].setdefault(name, 0)
        restarted = found["agent.restart_requested"]
        failed = {
            name for name, at in found["agent.failed"].items() if at > restarted.get(name, -1)
        }
        ended_agents = found["agent.terminated"].keys() | failed
        ended_workers = found["worker.stopped"].keys() | found["worker.lost"].keys()
        return (
            Population(sorted(agents), sorted(agents - ended_agents)),
            Population(sorted(workers), sorted(workers - ended_workers)),
        )

    def catalogue(self) -> Catalogue:
        """If this is a position of the catalogue's log."""
        state = Catalogue()
        query = select(EVENTS).where(self.position.event_filter()).order_by(EVENTS.c.seq)
        for rows in self.connection.execute(query).mappings().partitions(CHUNK):
            self._check_deadline()
            state = fold_catalogue((event_of(EventRow(**row)) for row in rows), state)
        return state

    def statistics(self, agents: Population, workers: Population) -> PoolStatistics:
        statuses: Counter[str] = Counter()
        agent_counts: Counter[str] = Counter()
        isolated: dict[str, str] = {}
        for ids in chunks(agents.live_ids, CHUNK):
            for agent, _ in self.agents(ids).values():
                statuses[agent.status.value] += 1
                if agent.held:
                    agent_counts[agent.worker_id] += 1
                    if agent.alone:
                        isolated[agent.worker_id] = agent.agent_id
        return PoolStatistics(
            statuses, agent_counts, isolated, list(self.workers(workers.live_ids).values())
        )

    # ---- some of them --------------------------------------------------------------------------

    def agents(self, ids: Iterable[str]) -> dict[str, tuple[Agent, int]]:
        """Agents, each with the generation in which it last changed."""
        ids = list(ids)
        rows, before = self._events_of(ids), self._beginning.agents(ids)
        generations = dict.fromkeys(before, self._beginning.generation)
        generations |= {row.subject: row.generation for row in rows}
        found = before | fold(self.position.pool, map(event_of, rows), State(before)).agents
        return {agent_id: (agent, generations[agent_id]) for agent_id, agent in found.items()}

    def requested(self, ids: Iterable[str]) -> dict[str, Agent]:
        """Agents as they were requested, in what never changes."""
        ids = list(ids)
        rows = self._events_of(ids, "agent.requested")
        found = fold(self.position.pool, map(event_of, rows), State()).agents
        return self._beginning.agents(ids) | found

    def workers(self, ids: Iterable[str]) -> dict[str, Worker]:
        found: dict[str, Worker] = {}
        for chunk in chunks(ids, CHUNK):
            events, before = map(event_of, self._events_of(chunk)), self._beginning.workers(chunk)
            state = State(workers={name: WorkerLoad(one) for name, one in before.items()})
            loads = fold(self.position.pool, events, state).workers
            found |= before
            found.update((worker_id, load.worker) for worker_id, load in loads.items())
        return found

    def _events_of(self, ids: Iterable[str], kind: str = "") -> list[EventRow]:
        """Events of some subjects up to the position, in order; `kind`: of that type only."""
        self._check_deadline()
        # By the index on subjects only: each has a handful of events. SQLite has no statistics,
        # and would choose to read all events of the pool.
        query = select(EVENTS).where(EVENTS.c.subject.in_(list(ids)))
        if kind:
            query = query.where(EVENTS.c.type.concat("") == kind)
        rows = (EventRow(**row) for row in self.connection.execute(query).mappings())
        return sorted(filter(self.position.includes, rows), key=lambda row: row.seq)

    def _check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise TooExpensive


def candidates(
    populations: Mapping[str, Population], wanted: AgentFilter, after: str
) -> Iterator[tuple[str, str]]:
    """Ids and pools of agents that may match, in the order of their ids."""
    live_only = wanted.ended is False or (
        bool(wanted.status) and not TERMINAL.intersection(map(Status, wanted.status))
    )

    def in_pool(pool: str) -> Iterator[tuple[str, str]]:
        ids = populations[pool].live_ids if live_only else populations[pool].all_ids
        return ((ids[i], pool) for i in range(bisect_right(ids, after), len(ids)))

    return merge(*map(in_pool, populations))


def matching(
    state: HistoricalState, ids: Sequence[str], wanted: AgentFilter
) -> dict[str, tuple[Agent, int]]:
    """Those of some agents that match, each with its generation."""
    fixed = (wanted.project_id, wanted.projects, wanted.role_type, wanted.label)
    if any(one is not None for one in fixed):
        # Constant fields first: for most agents the other events need not be read.
        ids = [i for i, agent in state.requested(ids).items() if _matches_fixed(agent, wanted)]
    found = state.agents(ids) if ids else {}
    return {i: agent for i, agent in found.items() if _matches_state(agent[0], wanted)}


def _matches_fixed(agent: Agent, wanted: AgentFilter) -> bool:
    label = wanted.label
    return (
        wanted.project_id in (None, agent.project_id)
        and (wanted.projects is None or agent.project_id in wanted.projects)
        and wanted.role_type in (None, agent.role_type)
        and (label is None or agent.labels.get(label[0]) == label[1])
    )


def _matches_state(agent: Agent, wanted: AgentFilter) -> bool:
    return (
        (not wanted.status or agent.status.value in wanted.status)
        and wanted.process_id in (None, agent.worker_id)
        and wanted.ended in (None, agent.ended)
        and (wanted.text is None or _has_text(agent, wanted.text.lower()))
    )


def _has_text(agent: Agent, text: str) -> bool:
    """As the query of the present, which searches in rows."""
    record = agent_record(agent, 0)
    return any(text in (record[name] or "").lower() for name in SEARCHED)


def row_of_worker(worker: Worker, statistics: PoolStatistics) -> WorkerRow:
    name, live = worker.worker_id, {"last_heartbeat": 0, "loop_lag_ms": 0.0, "memory_bytes": 0}
    record = worker_record(
        worker, statistics.agent_counts.get(name, 0), statistics.isolated.get(name, "")
    )
    return worker_row({**record, **live})


def row_of_pool(pool: Pool, statistics: PoolStatistics | None = None) -> PoolRow:
    counts = (statistics or PoolStatistics()).capacity()
    return pool_row({**pool_record(pool), **counts})


def capacity_of(catalogue: Catalogue, pool: str, statistics: PoolStatistics) -> PoolCapacity:
    """What a pool's pending agents waited for depends on this."""
    counts, pool_state = statistics.capacity(), catalogue.pools.get(pool)
    if pool_state is None or pool_state.deleted:
        return PoolCapacity()
    return PoolCapacity(
        free_slots=counts["available_capacity"],
        workers=counts["process_count"],
        ordered_workers=counts["ordered_worker_processes"],
        max_workers=pool_state.config.max_workers,
        isolated_workers=len(statistics.isolated),
        cordoned_workers=sum(
            bool(worker.cordoned) for worker in statistics.workers if worker.alive
        ),
    )
