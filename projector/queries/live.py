"""What runs now, in as few columns as a dashboard draws: read again several times a second.

Rows are plain tuples in the order of the names here. Columns that change with every heartbeat are
the last ones, so that a comparison can leave them out.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.language.agents import Status
from eventstore.language.workers import ALIVE, WorkerStatus
from projector.queries.agent_pages import LIVE_STATUSES
from projector.store.tables import run
from projector.store.usage_rows import MINUTE_MS, POOL_ACCOUNT

AGENTS_MAX: Final = 10_000
WORKERS_MAX: Final = 2_000
MINUTES: Final = 60
AGENT_NAMES: Final = (
    "agent_id", "pool_name", "process_id", "status", "activity", "role_type", "project_id",
    "incarnation", "created_at", "started_at", "last_heartbeat",
)  # fmt: skip
WORKER_NAMES: Final = (
    "worker_id", "pool_name", "host", "pid", "status", "reason", "agent_count", "max_agents",
    "alone", "cordoned", "requested_at", "started_at", "last_heartbeat", "loop_lag_ms",
    "memory_bytes",
)  # fmt: skip
SERIES_NAMES: Final = (
    "pending", "slots_used", "slots", "arrivals", "ends", "failures", "losses",
)  # fmt: skip
AGENT_VOLATILE: Final = 1
WORKER_VOLATILE: Final = 3
"""So many columns, the last ones, are of heartbeats."""

_LIVE: Final = ", ".join(f"'{status}'" for status in LIVE_STATUSES)
_WORKING: Final = ", ".join(f"'{one}'" for one in (WorkerStatus.REQUESTED.value, *sorted(ALIVE)))
_POOLS: Final = "(SELECT pool_name FROM {}pools)"
_AGENTS: Final = f"""
SELECT a.agent_id, a.pool_name, a.process_id, a.status, coalesce(l.activity, ''), a.role_type,
    a.project_id, a.incarnation, a.created_at, a.started_at, coalesce(l.last_heartbeat, 0)
FROM {{}}agents a LEFT JOIN {{}}agent_live l ON l.agent_id = a.agent_id
    AND l.pool_name = a.pool_name AND l.process_id = a.process_id
WHERE a.pool_name IN {_POOLS} AND a.status IN ({_LIVE}) LIMIT ?"""
_WORKERS: Final = f"""
SELECT w.worker_id, w.pool_name, w.host, w.pid, w.status, w.reason, w.agent_count, w.max_agents,
    w.alone, w.cordoned, w.requested_at, w.started_at, coalesce(l.last_heartbeat, 0),
    coalesce(l.loop_lag_ms, 0), coalesce(l.memory_bytes, 0)
FROM {{}}workers w LEFT JOIN {{}}worker_live l
    ON l.worker_id = w.worker_id AND l.pool_name = w.pool_name
WHERE w.pool_name IN {_POOLS} AND w.status IN ({_WORKING}) LIMIT ?"""
_COUNTS: Final = f"""
SELECT pool_name, status, count(*) FROM {{}}agents
WHERE pool_name IN {_POOLS} AND status IN ({_LIVE}, '{Status.FAILED.value}')
GROUP BY pool_name, status"""
_SUMS: Final = """
SELECT minute, pending, slots_used, slots, requested, ended, failures, losses
FROM {}usage_sums WHERE pool_name = ? AND account = ? AND minute >= ? ORDER BY minute"""
_BEFORE: Final = """
SELECT minute, pending, slots_used, slots, requested, ended, failures, losses
FROM {}usage_sums WHERE pool_name = ? AND account = ? AND minute < ?
ORDER BY minute DESC LIMIT 1"""
_LEVELS: Final = 3
"""Of the columns of sums after the minute, so many last until they change; the others count up."""
_Sums = Sequence[int]


class Running(Struct, frozen=True):
    """All that lives: tuples as `AGENT_NAMES` and `WORKER_NAMES` say, by id."""

    agents: dict[str, tuple[Any, ...]]
    workers: dict[str, tuple[Any, ...]]
    counts: dict[str, dict[str, int]]
    """Numbers of agents by pool and status, failed ones too."""
    cut_off: bool
    """Whether there are more agents or workers than are read."""


def running(connection: Connection) -> Running:
    """What lives now, in pools that were not deleted."""
    agents = {row[0]: tuple(row) for row in run(connection, _AGENTS, AGENTS_MAX + 1)}
    workers = {row[0]: tuple(row) for row in run(connection, _WORKERS, WORKERS_MAX + 1)}
    counts: dict[str, dict[str, int]] = {}
    for pool, status, count in run(connection, _COUNTS):
        counts.setdefault(pool, {})[status] = count
    cut_off = len(agents) > AGENTS_MAX or len(workers) > WORKERS_MAX
    if cut_off:
        agents = dict(islice(sorted(agents.items()), AGENTS_MAX))
        workers = dict(islice(sorted(workers.items()), WORKERS_MAX))
    return Running(agents, workers, counts, cut_off)


def last_hour(
    connection: Connection, pools: Sequence[str], now_ms: int
) -> dict[str, dict[str, list[int]]]:
    """For each pool, lists of the last sixty minutes by name of `SERIES_NAMES`.

    The last item is of the minute that is not over yet.
    """
    last = now_ms // MINUTE_MS
    first = last - MINUTES + 1
    found: dict[str, dict[str, list[int]]] = {}
    for pool in pools:
        rows: list[_Sums] = [tuple(r) for r in run(connection, _SUMS, pool, POOL_ACCOUNT, first)]
        before = run(connection, _BEFORE, pool, POOL_ACCOUNT, first).first()
        start: _Sums = (first, *([0] * len(SERIES_NAMES))) if before is None else tuple(before)
        minutes = list(_minutes(start, rows, first, last))
        found[pool] = dict(zip(SERIES_NAMES, map(list, zip(*minutes, strict=True)), strict=True))
    return found


def _minutes(start: _Sums, rows: Sequence[_Sums], first: int, last: int) -> Iterator[list[int]]:
    """Levels at the end of each minute, and what was counted in it."""
    by_minute, now = {row[0]: row[1:] for row in rows}, start[1:]
    for minute in range(first, last + 1):
        after = by_minute.get(minute, now)
        counted = [new - old for new, old in zip(after[_LEVELS:], now[_LEVELS:], strict=True)]
        yield [*after[:_LEVELS], *counted]
        now = after
