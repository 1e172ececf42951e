"""The state of the whole system for Prometheus: pools, agents, workers, queues, Redis.

Only the active projector reports it, so that no figure is reported twice. It is read when someone
asks: from the views, in a transaction that proves that the lease is still held, and from Redis.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.connection.requirements import inspect
from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from eventstore.language.events import PoolScalingDecided
from eventstore.log.log import Log
from eventstore.metrics.families import CATALOGUE_LABEL
from eventstore.metrics.measures import Measures
from projector.fold.projection import Projection, stopped
from projector.intake.entries import read_entry
from projector.queries import selects
from projector.service.event_measures import EventMeasures, desired_workers
from projector.store.alerts import count_open
from projector.store.lease import Lease
from projector.store.rows import EventRow, PoolRow

REDIS_SECONDS: Final = 2.0
DECISIONS_READ: Final = 500
"""So many scaling decisions are read once, from before this projector."""
_COMMANDS: Final[Sequence[tuple[str | int, ...]]] = (
    ("HMGET", "meta", "seq", "waiting"),
    ("XLEN", "commands"),
    ("ZCARD", "alone"),
    ("XLEN", "events"),
    ("XRANGE", "events", "-", "+", "COUNT", 1),
    ("HLEN", "parked"),
)


class _Views(Struct, frozen=True):
    """What one transaction has read."""

    pools: list[PoolRow]
    agents: dict[str, dict[str, int]]
    decisions: list[EventRow]
    """The newest ones, newest first; none where they are known."""
    alerts: dict[tuple[str, str], int]
    """How many are open, by name and severity."""


class SystemState(Struct, eq=False):
    """What the active projector knows, or can ask for."""

    log: Log
    lease: Lease
    projection: Projection
    events: EventMeasures
    _knows_decisions: bool = False
    """Those from before this term."""

    async def read(self, now: Measures) -> bool:
        """Add all that can be read; False, and nothing, if another projector is active by now.

        Raises `DatabaseError`.
        """
        views = await self.lease.database.read(self._read_views)
        if views is None:
            return False
        self._knows_decisions, desired = True, self.events.desired_workers
        for decision in views.decisions:
            desired.setdefault(decision.pool, desired_workers(decision))
        for pool in views.pools:
            _add_pool(now, pool, views.agents.get(pool.pool_name, {}))
            if pool.pool_name in desired:
                wanted = desired[pool.pool_name]
                now.set("muster_autoscaler_desired_workers", wanted, pool.pool_name)
        for (rule, severity), count in views.alerts.items():
            now.set("muster_alerts_open", count, rule, severity)
        with suppress(MusterError, TimeoutError):  # Redis may be away
            async with asyncio.timeout(REDIS_SECONDS):
                await self._read_redis(now)
        return True

    def live_pools(self) -> set[str]:
        """Those that were not deleted, by what was projected."""
        return set(self.projection.catalogue.live_pools())

    def _read_views(self, connection: Connection) -> _Views | None:
        if not self.lease.is_ours(connection):
            return None
        decisions, kinds = [], [PoolScalingDecided.type]
        if not self._knows_decisions:
            decisions = selects.recent(connection, kinds, since_ms=0, limit=DECISIONS_READ)
        return _Views(
            selects.pools(connection),
            selects.count_agents(connection),
            decisions,
            count_open(connection),
        )

    async def _read_redis(self, now: Measures) -> None:
        info = await inspect(self.log.client)
        now.set("muster_redis_memory_bytes", int(info.get("used_memory", 0)))
        now.set("muster_redis_clients", int(info.get("connected_clients", 0)))
        found = await self.log.ask_about_pools(sorted(self.live_pools()), _COMMANDS)
        for pool, replies in found.items():
            self._add_log(now, pool, replies)
        self._add_position(now, CATALOGUE, (await self.log.head(CATALOGUE)).seq)

    def _add_log(self, now: Measures, pool: str, replies: Sequence[Any]) -> None:
        (seq, waiting), commands, isolated, entries, oldest, parked = replies
        head, unclaimed = int(seq or 0), int(waiting or 0)
        first_seq = read_entry(pool, 0, oldest[0]).seq if oldest else head + 1
        now.set("muster_stream_lag", unclaimed + int(isolated), pool)
        now.set("muster_stream_pending", max(int(commands) - unclaimed, 0), pool)
        now.set("muster_stream_entries", int(entries), pool)
        now.set("muster_stream_trimmed_total", max(first_seq - 1, 0), pool)
        now.set("muster_parked", int(parked), pool)
        self._add_position(now, pool, head)

    def _add_position(self, now: Measures, pool: str, head: int) -> None:
        at, name = self.projection.position_of(pool), pool or CATALOGUE_LABEL
        now.set("muster_projection_backlog_events", max(head - at.seq, 0), name)
        now.set("muster_projection_stopped", int(stopped(at)), name)


def _add_pool(now: Measures, pool: PoolRow, agents: dict[str, int]) -> None:
    name = pool.pool_name
    for state, count in agents.items():
        now.set("muster_agents", count, name, pool.role_type, state)
    now.set("muster_worker_slots_used", pool.used_capacity, name)
    now.set("muster_worker_slots_available", pool.available_capacity, name)
    now.set("muster_autoscaler_current_workers", pool.process_count, name)
