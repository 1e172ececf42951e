"""The states of agents and workers before a batch: from a bounded cache, else from their rows."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy import Connection, Table, select

from eventstore.language.agents import Agent
from projector.fold.fold import State, WorkerLoad
from projector.store.mapping import Row, agent_of, worker_of
from projector.store.tables import ViewTables

CACHE_MAX: Final = 50_000
"""Agents, and workers, whose state is cached."""
IDS_MAX: Final = 500
"""Ids in one SELECT."""

T = TypeVar("T")
Key = tuple[str, str]


class PriorStates:
    """Of the rows in one set of tables."""

    def __init__(self, tables: ViewTables) -> None:
        self._tables = tables
        self._agents: OrderedDict[Key, Agent] = OrderedDict()
        self._workers: OrderedDict[Key, WorkerLoad] = OrderedDict()

    def clear(self) -> None:
        self._agents.clear()
        self._workers.clear()

    def agents(self, connection: Connection, pool: str, ids: set[str]) -> dict[str, Agent]:
        found = {i: self._agents[pool, i] for i in ids if (pool, i) in self._agents}
        table = self._tables.agents
        for row in _rows(connection, table, "agent_id", pool, ids - found.keys()):
            found[row["agent_id"]] = agent_of(row)
        return found

    def workers(self, connection: Connection, pool: str, ids: set[str]) -> dict[str, WorkerLoad]:
        found = {i: self._workers[pool, i] for i in ids if (pool, i) in self._workers}
        table = self._tables.workers
        for row in _rows(connection, table, "worker_id", pool, ids - found.keys()):
            found[row["worker_id"]] = WorkerLoad(worker_of(row), row["agent_count"], row["alone"])
        return found

    def remember(self, pool: str, state: State) -> None:
        """Cache committed states, except those of ended agents and workers."""
        for agent_id, agent in state.agents.items():
            _put(self._agents, (pool, agent_id), None if agent.ended else agent)
        for worker_id, load in state.workers.items():
            finished = load.worker.ended and load.agent_count <= 0
            _put(self._workers, (pool, worker_id), None if finished else load)


def _rows(
    connection: Connection, table: Table, key: str, pool: str, ids: Iterable[str]
) -> Iterator[Row]:
    remaining = iter(sorted(ids))
    while chunk := list(islice(remaining, IDS_MAX)):
        query = select(table).where(table.c[key].in_(chunk)).where(table.c.pool_name == pool)
        yield from connection.execute(query).mappings()


def _put(cache: OrderedDict[Key, T], key: Key, value: T | None) -> None:
    if value is None:
        cache.pop(key, None)
        return
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHE_MAX:
        cache.popitem(last=False)
