"""What a dashboard draws of the whole system: read from the views, and from what is known here.

Entries of agents and workers are lists, to be short: the section `names` has their columns. What
changes with every heartbeat is only renewed every few seconds.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.keys import CATALOGUE
from gateway.alerts.alerts import Alert
from gateway.backend.agent_rows import with_blocked
from gateway.backend.backend import Backend
from gateway.following.live_feed import Audience, Sections
from gateway.health import facts
from gateway.health.alerts import current_alerts
from gateway.wire.problems import Problem
from projector.queries import live
from projector.queries.views import PoolRow, Position, WaitingAgents, is_lost

HEARTBEATS_SECONDS: Final = 5.0
ALERTS_SECONDS: Final = 2.0
ALERTS_WAIT_SECONDS: Final = 0.5
"""How long the first picture waits for them."""
HOUR_SECONDS: Final = 3.0
_SETTINGS: Final = ("min_workers", "max_workers", "paused")
_COUNTED: Final = (
    "role_type", "process_count", "active_worker_processes", "total_capacity", "used_capacity",
    "available_capacity", "agent_count", "pending_count", "utilization",
)  # fmt: skip


class Proof(Struct, frozen=True, kw_only=True):
    """When a picture was found, and how far behind it may be. Times and ages in ms."""

    at: int
    """By the clock of this gateway."""
    redis_age: int | None
    """Since Redis last answered; null if it never has."""
    redis_error: str
    """Why it counts as unreachable; empty if it does not."""
    lag: int
    """How long the oldest event waits that the views do not have."""
    views_error: str
    """Why they cannot be read, or have stopped; empty if neither."""


class PictureReader:
    """Reads pictures, one after the other. What has not been read again is as it was."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sections: dict[str, dict[str, Any]] = {}
        self._read_at: dict[str, float] = {}
        self._positions: Mapping[str, Position] = {}
        self._error = ""
        self._alerts: asyncio.Task[list[Alert]] | None = None

    @property
    def behind(self) -> bool:
        """Whether something has happened that the views did not have."""
        heads = self._backend.tail.heads.items()
        return any(head.seq > _at(self._positions, pool) for pool, head in heads)

    async def read(self) -> tuple[Sections, Proof]:
        """The picture of all, as it is now, also while the database is unreachable."""
        backend = self._backend
        try:
            async with backend.read_views() as views:
                self._positions = await backend.positions()
                found = await views.running()
                pools = await views.pools()
                waiting = await views.waiting()
                if self._due("hour", HOUR_SECONDS):
                    names = [pool.pool_name for pool in pools]
                    now_ms = max(map(backend.log.now_ms, (CATALOGUE, *names)))
                    hours = await views.last_hour(names, now_ms)
                    self._sections["hour"] = {
                        name: {"until": now_ms // 60_000 * 60_000, **series}
                        for name, series in hours.items()
                    }
            self._error = ""
        except Problem as problem:
            self._error = str(problem)
        else:
            self._take(found)
            self._sections["pools"] = {
                pool.pool_name: _pool(pool, found.counts.get(pool.pool_name, {})) for pool in pools
            }
            await self._add_reasons(waiting)
        await self._read_alerts()
        self._sections["names"] = {"agents": live.AGENT_NAMES, "workers": live.WORKER_NAMES}
        self._sections["service"] = {
            "version": backend.options.version,
            "mode": backend.options.mode,
            "fallback": facts.fallback_description(backend),
        }
        return dict(self._sections), self._proof()

    def _due(self, name: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._read_at.get(name, -seconds) < seconds:
            return False
        self._read_at[name] = now
        return True

    def close(self) -> None:
        """Abandon what is still being read."""
        if self._alerts is not None:
            self._alerts.cancel()

    async def _read_alerts(self) -> None:
        """Those that apply now; a Redis that does not answer must not hold the picture back."""
        if self._alerts is None and self._due("alerts", ALERTS_SECONDS):
            self._alerts = asyncio.create_task(current_alerts(self._backend), name="live.alerts")
        if self._alerts is not None and "alerts" not in self._sections:
            await asyncio.wait({self._alerts}, timeout=ALERTS_WAIT_SECONDS)
        if self._alerts is not None and self._alerts.done():
            alerts, self._alerts = self._alerts.result(), None
            self._sections["alerts"] = {
                ":".join(alert.key): msgspec.to_builtins(alert) for alert in alerts
            }

    def _take(self, found: live.Running) -> None:
        fresh = self._due("heartbeats", HEARTBEATS_SECONDS)
        for name, rows, volatile in (
            ("agents", found.agents, live.AGENT_VOLATILE),
            ("workers", found.workers, live.WORKER_VOLATILE),
        ):
            old = {} if fresh else self._sections.get(name, {})
            self._sections[name] = {
                key: old[key] if key in old and old[key][:-volatile] == row[:-volatile] else row
                for key, row in rows.items()
            }
        self._sections["bounds"] = {"cut_off": found.cut_off}

    async def _add_reasons(self, waiting: Mapping[str, WaitingAgents]) -> None:
        """What the agent waits for that has waited longest."""
        rows = await with_blocked(self._backend, [one.oldest for one in waiting.values()])
        for row in rows:
            if pool := self._sections["pools"].get(row.pool_name):
                pool["waiting"] = {"since": row.changed_at, "reason": row.reason}

    def _proof(self) -> Proof:
        backend = self._backend
        health, lag, stopped = backend.redis_health, 0, ""
        for pool, head in backend.tail.heads.items():
            position = self._positions.get(pool, Position(pool))
            if since := head.behind_since(position.seq):
                lag = max(lag, backend.log.now_ms(pool) - since)
            if position.status != "ok" and not is_lost(position.status):
                stopped = f"the views of {pool or 'the catalogue'} have stopped: {position.status}"
        age = health.age_seconds
        error = "it does not answer" if health.unreachable else ""
        if not error and not backend.tail.following:
            error = backend.tail.error or "the log is not followed"
        return Proof(
            at=int(time.time() * 1000),
            redis_age=None if age is None else int(age * 1000),
            redis_error=error,
            lag=lag,
            views_error=self._error or stopped,
        )


def of_audience(sections: Sections, audience: Audience) -> Sections:
    """The part of a picture that is of some pools; None: all of it."""
    if audience is None:
        return sections
    own: Collection[str] = frozenset(audience)
    agent_pool = live.AGENT_NAMES.index("pool_name")
    worker_pool = live.WORKER_NAMES.index("pool_name")
    kept: dict[str, Callable[[str, Any], bool]] = {
        "pools": lambda name, _: name in own,
        "hour": lambda name, _: name in own,
        "alerts": lambda _, alert: alert["pool_name"] in own,
        "agents": lambda _, row: row[agent_pool] in own,
        "workers": lambda _, row: row[worker_pool] in own,
    }
    return {
        name: {k: v for k, v in entries.items() if kept[name](k, v)} if name in kept else entries
        for name, entries in sections.items()
    }


def _at(positions: Mapping[str, Position], pool: str) -> int:
    return positions.get(pool, Position(pool)).seq


def _pool(row: PoolRow, counts: Mapping[str, int]) -> dict[str, Any]:
    entry = {name: getattr(row, name) for name in _COUNTED}
    entry |= {name: row.config.get(name) for name in _SETTINGS}
    return {
        **entry,
        "counts": dict(counts),
        "replacing": bool(row.replacement and row.replacement.runs),
    }
