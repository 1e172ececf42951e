"""How the system is doing: figures, the dashboard's data, alerts, health of agents."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Final

from msgspec import Struct

from eventstore.keys import CATALOGUE
from eventstore.language.agents import shared_fields
from eventstore.language.events import EVENT_TYPES
from eventstore.language.pool_config import PoolConfig
from gateway.access.grants import Grant, Verdict, decide, need_of_event
from gateway.alerts.alerts import Alert
from gateway.alerts.facts import RedisFacts, ViewFacts
from gateway.backend.backend import Backend
from gateway.backend.call import Call, answered_once
from gateway.backend.durability_levels import DurabilityFacts
from gateway.health import facts
from gateway.health.alert_list import own_alerts
from gateway.health.alerts import current_alerts
from gateway.wire.answer import Answer
from gateway.wire.requests import HealthQuery
from gateway.wire.responses import decode_cursor, encode_cursor
from projector.queries.views import (
    AgentFilter,
    AgentRow,
    EventRow,
    HostRow,
    PoolRow,
    Timed,
    WorkerRow,
    page,
)

RECENT_MS: Final = 3_600_000
DECISIONS_MAX: Final = 50
EVENTS_MAX: Final = 50
EVENTS_LENGTH_MAX: Final = 256 * 1024
"""Of the data of the events that are shown."""
WORKERS_MAX: Final = 2_000
SILENT_LEASES_MAX: Final = 3
"""An agent's health is unknown once its worker was silent for so many of the pool's leases."""
WRITTEN_MS: Final = 3_000
"""How often heartbeats are written to the views, which is added to that."""


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
    """Empty, or a sentence: this log replaces another."""
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
    """Empty, or a sentence: this log replaces another."""
    pools: Sequence[PoolRow]
    workers: Sequence[WorkerRow]
    hosts: Sequence[HostRow]
    agents: dict[str, dict[str, int]]
    decisions: Sequence[EventRow]
    events: Sequence[EventRow]
    """The newest ones, newest first."""
    alerts: Sequence[Alert]


class AgentHealth(Timed, frozen=True, kw_only=True):
    agent_id: str
    status: str
    health: str
    """`healthy`, `starting`, `waiting`, `unhealthy`, or `unknown` when its worker is silent."""
    activity: str
    last_heartbeat: int | None = None
    last_heartbeat_time: datetime | None = None
    reason: str


class HealthReport(Struct, frozen=True, kw_only=True):
    """Agents by pool. `next` is the cursor of the next page, if there is one."""

    pools: dict[str, list[AgentHealth]]
    healthy: int
    total: int
    next: str | None = None
    fallback: bool = False
    fallback_reason: str = ""


@answered_once
async def system(call: Call) -> Answer:
    """Figures of the whole system."""
    backend = call.backend
    async with backend.read_views() as views:
        await backend.catch_up(views, call.read_state, call.logs_of(None))
        agent_counts, workers = await views.count_agents(), await views.workers()
    redis = await facts.redis_facts(backend)
    return Answer(
        SystemFigures(
            version=backend.options.version,
            mode=backend.options.mode,
            fallback=facts.fallback_description(backend),
            pid=os.getpid(),
            uptime_seconds=round(time.time() - backend.started_at, 1),
            host=_host_figures(),
            redis=redis,
            durability=backend.capabilities.facts(),
            database=backend.options.database_url.partition(":")[0].partition("+")[0],
            views=await facts.view_facts(backend),
            agents=agent_counts,
            workers=len(workers),
            event_streams=len(backend.subscriptions),
            parked=await facts.parked_counts(backend, redis),
        )
    )


def _host_figures() -> HostFigures:
    memory: dict[str, int] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            name, _, amount = line.partition(":")
            memory[name] = int(amount.split()[0]) * 1024
    return HostFigures(
        cpus=os.cpu_count() or 1,
        load_1m=round(os.getloadavg()[0], 2),
        memory_total=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
    )


@answered_once
async def dashboard(call: Call) -> Answer:
    """What the dashboard shows."""
    backend = call.backend
    alerts = own_alerts(call, await current_alerts(backend))
    own = call.own_pools
    async with backend.read_views() as views:
        await backend.catch_up(views, call.read_state, call.logs_of(None))
        data = Dashboard(
            version=backend.options.version,
            fallback=facts.fallback_description(backend),
            pools=await views.pools(names=own),
            workers=await views.workers(limit=WORKERS_MAX, pools=own),
            hosts=await views.hosts() if own is None else (),
            agents={
                pool: counts
                for pool, counts in (await views.count_agents()).items()
                if call.grant.has_pool(pool)
            },
            decisions=await facts.recent_events(
                backend,
                views,
                ("pool.scaling_decided",),
                within_ms=RECENT_MS,
                limit=DECISIONS_MAX,
                pools=own,
            ),
            events=_short(
                await facts.recent_events(
                    backend,
                    views,
                    _types(call.grant),
                    within_ms=RECENT_MS,
                    limit=EVENTS_MAX,
                    pools=own,
                )
            ),
            alerts=alerts,
        )
    return Answer(data)


def _types(grant: Grant) -> list[str]:
    """Those of events that a caller may read, wherever they are."""
    needs = ((kind, need_of_event(CATALOGUE, kind)) for kind in EVENT_TYPES)
    return [kind for kind, need in needs if decide(grant, need) is not Verdict.OUT_OF_SCOPE]


def _short(events: Sequence[EventRow]) -> list[EventRow]:
    """The first of them: one may have all that an agent was given."""
    lengths = accumulate(len(event.data) for event in events)
    shown = takewhile(lambda length: length <= EVENTS_LENGTH_MAX, lengths)
    return list(events[: len(list(shown))])


async def health(call: Call, query: HealthQuery) -> Answer:
    """Health of the agents, by pool."""
    backend = call.backend
    after_id = decode_cursor(query.cursor)
    async with backend.read_views() as views:
        await backend.catch_up(views, call.read_state, call.logs_of(None))
        agent_filter = AgentFilter(pool_name=query.pool_name, ended=False, **call.own_agents)
        found = await views.agents(
            agent_filter, after=after_id, limit=query.limit + 1, with_input=False
        )
    if not found:
        await backend.explain_empty(query.pool_name)
    encoded, more = page(found, query.limit)
    rows = found[: len(encoded)]
    pools: dict[str, list[AgentHealth]] = {}
    for row in rows:
        pools.setdefault(row.pool_name, []).append(_agent_health(row, backend))
    healthy = sum(agent.health == "healthy" for agents in pools.values() for agent in agents)
    next_cursor = encode_cursor(rows[-1].agent_id) if more else None
    return Answer(
        HealthReport(
            pools=pools,
            healthy=healthy,
            total=len(rows),
            next=next_cursor,
            fallback=backend.options.fallback is not None,
            fallback_reason=facts.fallback_description(backend),
        )
    )


def _agent_health(row: AgentRow, backend: Backend) -> AgentHealth:
    pool = backend.live_pool(row.pool_name)
    lease_ms = (pool.config if pool else PoolConfig()).lease_seconds * 1000
    last_observed_ms = max(row.last_heartbeat or 0, row.started_at or 0)
    silent_ms = backend.log.now_ms(row.pool_name) - last_observed_ms
    silent = silent_ms > SILENT_LEASES_MAX * lease_ms + WRITTEN_MS
    running = "unknown" if silent else "healthy"
    verdicts = {"running": running, "pending": "waiting", "restarting": "unhealthy"}
    verdict = verdicts.get(row.status, row.status)
    return AgentHealth(health=verdict, **shared_fields(row, AgentHealth))
