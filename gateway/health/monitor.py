"""How the system is doing: figures, the dashboard's data, health of agents, probes."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiohttp import web
from msgspec import Struct

from eventstore.language.events import EVENT_TYPES
from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.backend.durability_levels import DurabilityFacts
from gateway.health.alerts import Alert, current_alerts
from gateway.health.facts import (
    RedisFacts,
    ViewFacts,
    parked_counts,
    redis_facts,
    unreadiness,
    view_facts,
)
from gateway.wire.requests import HealthQuery, Nothing, query
from gateway.wire.responses import after, answer, cursor_of
from projector.queries.views import AgentFilter, AgentRow, EventRow, HostRow, PoolRow, WorkerRow

RECENT_MS: Final = 3_600_000
DECISIONS_MAX: Final = 50
EVENTS_MAX: Final = 50
LATE_HEARTBEATS: Final = 3
"""An agent's health is unknown once its worker was silent for so many of the pool's leases."""


class HostFigures(Struct, frozen=True, kw_only=True):
    """The gateway's own host. Memory in bytes."""

    cpus: int
    load_1m: float
    memory_total: int
    memory_available: int


class SystemFigures(Struct, frozen=True, kw_only=True):
    version: str
    mode: str
    fallback: str
    """Empty, or a sentence: this log stands in for another."""
    pid: int
    uptime_seconds: float
    host: HostFigures
    redis: RedisFacts
    durability: DurabilityFacts
    database: str
    views: Sequence[ViewFacts]
    agents: dict[str, dict[str, int]]
    """Numbers of agents that have not ended, by pool and status."""
    workers: int
    event_streams: int
    parked: dict[str, int]
    """How many things could not be processed and wait for an operator, by pool."""


class Dashboard(Struct, frozen=True, kw_only=True):
    version: str
    fallback: str
    """Empty, or a sentence: this log stands in for another."""
    pools: Sequence[PoolRow]
    workers: Sequence[WorkerRow]
    hosts: Sequence[HostRow]
    agents: dict[str, dict[str, int]]
    decisions: Sequence[EventRow]
    events: Sequence[EventRow]
    """The newest ones, newest first."""
    alerts: Sequence[Alert]


class AlertList(Struct, frozen=True):
    alerts: Sequence[Alert]


class AgentHealth(Struct, frozen=True, kw_only=True):
    agent_id: str
    status: str
    health: str
    """`healthy`, `starting`, `waiting`, `unhealthy`, or `unknown` when its worker is silent."""
    activity: str
    last_heartbeat: int
    reason: str


class HealthReport(Struct, frozen=True, kw_only=True):
    """Agents by pool. `next` is the cursor of the next page, if there is one."""

    pools: dict[str, list[AgentHealth]]
    healthy: int
    total: int
    next: str | None = None
    fallback: bool = False
    fallback_reason: str = ""


class Alive(Struct, frozen=True):
    status: str = "alive"


class Readiness(Struct, frozen=True):
    """`fallback`: the log stands in for another, which could not be reached at the start."""

    status: str
    reasons: Sequence[str] = ()
    fallback: bool = False
    fallback_reason: str = ""
    fallback_can_end: bool = False
    """Whether the other answers again, so that the next start changes over to it."""


async def system(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/monitor/system`."""
    query(request, Nothing)
    backend = request.app[BACKEND]
    async with backend.reading() as views:
        await backend.settle(views, request)
        counted, workers = await views.count_agents(), await views.workers()
    facts = await redis_facts(backend)
    return answer(
        SystemFigures(
            version=backend.options.version,
            mode=backend.options.mode,
            fallback=_fallback_sentence(backend),
            pid=os.getpid(),
            uptime_seconds=round(time.time() - backend.started_at, 1),
            host=_host_figures(),
            redis=facts,
            durability=backend.capabilities.facts(),
            database=backend.options.database_url.partition(":")[0].partition("+")[0],
            views=await view_facts(backend),
            agents=counted,
            workers=len(workers),
            event_streams=len(backend.feed),
            parked=await parked_counts(backend, facts),
        )
    )


def _host_figures() -> HostFigures:
    memory: dict[str, int] = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            memory[name] = int(amount.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        memory = {}
    return HostFigures(
        cpus=os.cpu_count() or 1,
        load_1m=round(os.getloadavg()[0], 2),
        memory_total=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
    )


async def dashboard(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/monitor/dashboard`."""
    query(request, Nothing)
    backend = request.app[BACKEND]
    facts = await redis_facts(backend)
    async with backend.reading() as views:
        await backend.settle(views, request)
        figures = Dashboard(
            version=backend.options.version,
            fallback=_fallback_sentence(backend),
            pools=await views.pools(),
            workers=await views.workers(),
            hosts=await views.hosts(),
            agents=await views.count_agents(),
            decisions=await backend.recent(
                views, ("pool.scaling_decided",), within_ms=RECENT_MS, limit=DECISIONS_MAX
            ),
            events=await backend.recent(views, EVENT_TYPES, within_ms=RECENT_MS, limit=EVENTS_MAX),
            alerts=await current_alerts(backend, views, facts),
        )
    return answer(figures)


async def alerts(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/monitor/alerts`."""
    query(request, Nothing)
    backend = request.app[BACKEND]
    facts = await redis_facts(backend)
    async with backend.reading() as views:
        await backend.settle(views, request)
        return answer(AlertList(await current_alerts(backend, views, facts)))


async def health(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/health`."""
    backend = request.app[BACKEND]
    asked = query(request, HealthQuery)
    begin = after(asked.cursor)
    async with backend.reading() as views:
        await backend.settle(views, request)
        chosen = AgentFilter(pool_name=asked.pool_name, ended=False)
        found = await views.agents(chosen, after=begin, limit=asked.limit + 1)
    rows = found[: asked.limit]
    pools: dict[str, list[AgentHealth]] = {}
    for row in rows:
        pools.setdefault(row.pool_name, []).append(_health_of(row, backend))
    healthy = sum(agent.health == "healthy" for agents in pools.values() for agent in agents)
    following = cursor_of(rows[-1].agent_id) if len(found) > len(rows) else None
    return answer(
        HealthReport(
            pools=pools,
            healthy=healthy,
            total=len(rows),
            next=following,
            fallback=backend.options.fallback is not None,
            fallback_reason=_fallback_sentence(backend),
        )
    )


def _health_of(row: AgentRow, backend: Backend) -> AgentHealth:
    pool = backend.pools().get(row.pool_name)
    lease_ms = (pool.config if pool else backend.options.pool_defaults).lease_seconds * 1000
    told = max(row.last_heartbeat, row.started_at)
    silent = backend.log.now_ms(row.pool_name) - told > LATE_HEARTBEATS * lease_ms
    match row.status:
        case "running":
            verdict = "unknown" if silent else "healthy"
        case "pending":
            verdict = "waiting"
        case "restarting":
            verdict = "unhealthy"
        case status:
            verdict = status
    return AgentHealth(
        agent_id=row.agent_id,
        status=row.status,
        health=verdict,
        activity=row.activity,
        last_heartbeat=row.last_heartbeat,
        reason=row.reason,
    )


async def alive(_request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return answer(Alive())


async def ready(request: web.Request) -> web.Response:
    """`GET /readyz`: it makes progress, or says why it does not."""
    backend = request.app[BACKEND]
    reasons = await unreadiness(backend)
    fallback = backend.options.fallback
    told = Readiness(
        "not ready" if reasons else "ready",
        reasons,
        fallback=fallback is not None,
        fallback_reason=_fallback_sentence(backend),
        fallback_can_end=bool(fallback and fallback.returned_ms),
    )
    return answer(told, status=503 if reasons else 200)


def _fallback_sentence(backend: Backend) -> str:
    fallback = backend.options.fallback
    return fallback.sentence if fallback else ""
