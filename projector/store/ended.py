"""Agents and workers that ended long ago, and leave the views.

A time is recorded: rows of agents that were terminated before it, and of workers that had stopped
by then, need not be there, and are removed in parts. It never goes back. Whoever compares views
leaves such rows out. An agent that failed stays: it can be restarted. So does the worker with the
highest epoch of its pool: a log that is recovered issues higher ones.
"""

from typing import Final

from sqlalchemy import Connection

from eventstore.language.agents import Agent, Status
from eventstore.language.workers import Worker, WorkerStatus
from projector.store.mapping import Row
from projector.store.tables import SERVING, ViewTables, run

ENDED_BEFORE: Final = "ended_before"
CHUNK: Final = 2000
"""Rows that are removed in one transaction."""
_READ: Final = "SELECT value FROM {}retained WHERE name = ?"
_RAISE: Final = (
    "INSERT INTO {}retained (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE"
    " SET value = CASE WHEN excluded.value > retained.value THEN excluded.value"
    " ELSE retained.value END"
)
_ENDED: Final = (Status.TERMINATED.value, WorkerStatus.STOPPED.value, WorkerStatus.LOST.value)
_ENDED_WORKERS: Final = ", ".join(f"'{status}'" for status in _ENDED[1:])
AGENT_GONE: Final = f"(status = '{Status.TERMINATED.value}' AND ended_at < ?)"
"""The condition of an agent's row that need not be there."""
WORKER_GONE: Final = f"(status IN ({_ENDED_WORKERS}) AND agent_count <= 0 AND ended_at < ?)"
"""...and of a worker's, but for that with the highest epoch."""


def ended_before(connection: Connection) -> int:
    """The time, in milliseconds of log time; 0: all rows are there."""
    return run(connection, _READ, ENDED_BEFORE).scalar() or 0


def raise_ended_before(connection: Connection, ms: int) -> None:
    """Move the time on."""
    run(connection, _RAISE, ENDED_BEFORE, ms)


def agent_gone(agent: Agent, before_ms: int) -> bool:
    """Whether the row of an agent need not be there."""
    return agent.status is Status.TERMINATED and agent.ended_ms < before_ms


def worker_gone(worker: Worker, agent_count: int, before_ms: int) -> bool:
    """Whether the row of a worker need not be there."""
    return worker.ended and agent_count <= 0 and worker.ended_ms < before_ms


def row_gone(row: Row, before_ms: int) -> bool:
    """The same of a row, of an agent or of a worker."""
    ended = row.get("status") in _ENDED and row.get("agent_count", 0) <= 0
    return bool(ended) and row["ended_at"] < before_ms


def remove_agents(connection: Connection, before_ms: int, tables: ViewTables = SERVING) -> int:
    """Remove some rows of agents; returns how many."""
    return _remove(connection, tables.agents.name, "agent_id", AGENT_GONE, before_ms)


def remove_workers(connection: Connection, before_ms: int, tables: ViewTables = SERVING) -> int:
    """Remove some rows of workers; returns how many."""
    name = tables.workers.name
    highest = f"(SELECT max(w.epoch) FROM {{}}{name} w WHERE w.pool_name = {name}.pool_name)"
    condition = f"{WORKER_GONE} AND epoch < {highest}"
    return _remove(connection, name, "worker_id", condition, before_ms)


def _remove(connection: Connection, table: str, key: str, condition: str, before_ms: int) -> int:
    chosen = f"SELECT pool_name, {key} FROM {{}}{table} WHERE {condition} LIMIT {CHUNK}"
    drop = f"DELETE FROM {{}}{table} WHERE (pool_name, {key}) IN ({chosen})"
    return run(connection, drop, before_ms).rowcount
