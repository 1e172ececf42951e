"""`/metrics`, in the text format of Prometheus (version 0.0.4).

Names and labels are a public contract, listed in docs/events.md. No label is an id of an agent or
worker: there is no end of those.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from aiohttp import web
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, execute
from eventstore.errors import LogUnreachable
from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.following.counters import Histogram
from gateway.health.facts import RedisFacts, parked_counts, redis_facts, stored_events, view_facts
from gateway.wire.problems import Problem
from projector.queries.views import PoolRow

CONTENT_TYPE: Final = "text/plain"


class Exposition:
    """Lines of the format, family by family."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, summary: str) -> None:
        self._lines += (f"# HELP {name} {summary}", f"# TYPE {name} {kind}")

    def sample(self, name: str, value: float, labels: Mapping[str, object] | None = None) -> None:
        label_text = ",".join(f'{key}="{_escaped(str(v))}"' for key, v in (labels or {}).items())
        self._lines.append(
            f"{name}{{{label_text}}} {value!r}" if label_text else f"{name} {value!r}"
        )

    def histogram(self, name: str, observed: Histogram, labels: Mapping[str, object]) -> None:
        total = 0
        for bound, count in zip((*observed.bounds, "+Inf"), observed.counts, strict=True):
            total += count
            self.sample(f"{name}_bucket", total, {**labels, "le": bound})
        self.sample(f"{name}_sum", observed.sum, labels)
        self.sample(f"{name}_count", total, labels)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`. What cannot be asked at the moment is left out, and `muster_up` says so."""
    backend = request.app[BACKEND]
    out = Exposition()
    facts = await redis_facts(backend)
    out.family("muster_up", "gauge", "Whether Redis and the views answer this gateway.")
    out.sample("muster_up", int(facts.reachable), {"part": "redis"})
    try:
        async with backend.read_views() as views:
            pools, agent_counts = await views.pools(), await views.count_agents()
            workers = await views.workers()
        views_facts = await view_facts(backend)
        out.sample("muster_up", 1, {"part": "views"})
        _agents(out, pools, agent_counts)
        _workers(out, pools)
        out.family("muster_projection_lag_seconds", "gauge", "How far the views are behind.")
        for fact in views_facts:
            labels = {"pool": fact.pool or "catalogue"}
            out.sample("muster_projection_lag_seconds", fact.lag_seconds, labels)
        out.family(
            "muster_loop_lag_seconds", "gauge", "The latest event loop lag, by process kind."
        )
        out.sample(
            "muster_loop_lag_seconds",
            max((worker.loop_lag_ms for worker in workers), default=0.0) / 1000,
            {"process": "worker"},
        )
    except Problem:
        out.sample("muster_up", 0, {"part": "views"})
        out.family(
            "muster_loop_lag_seconds", "gauge", "The latest event loop lag, by process kind."
        )
    out.sample(
        "muster_loop_lag_seconds", backend.observations.loop_lag_seconds, {"process": "gateway"}
    )
    await _streams(out, backend)
    await _parked(out, backend, facts)
    _redis(out, facts)
    _fallback(out, backend)
    _counters(out, backend)
    return web.Response(text=out.text(), content_type=CONTENT_TYPE, charset="utf-8")


def _agents(
    out: Exposition, pools: Iterable[PoolRow], agent_counts: Mapping[str, Mapping[str, int]]
) -> None:
    out.family("muster_agents", "gauge", "Agents that have not ended, by pool, role and state.")
    for pool in pools:
        for state, count in agent_counts.get(pool.pool_name, {}).items():
            labels = {"pool": pool.pool_name, "role": pool.role_type, "state": state}
            out.sample("muster_agents", count, labels)


def _workers(out: Exposition, pools: Iterable[PoolRow]) -> None:
    pools = list(pools)
    for name, value, summary in (
        ("used", "used_capacity", "Slots that hold an agent."),
        ("available", "available_capacity", "Slots that are free."),
    ):
        family = f"muster_worker_slots_{name}"
        out.family(family, "gauge", summary)
        for pool in pools:
            out.sample(family, getattr(pool, value), {"pool": pool.pool_name})
    family = "muster_autoscaler_current_workers"
    out.family(family, "gauge", "Worker processes that live.")
    for pool in pools:
        out.sample(family, pool.process_count, {"pool": pool.pool_name})


async def _streams(out: Exposition, backend: Backend) -> None:
    """Commands that wait (lag) or are not settled (pending); events here, and those that left."""
    lag, pending, entries, trimmed = {}, {}, {}, {}
    for pool in backend.pools():
        try:
            commands = backend.log.keys.pool(pool, "commands")
            waiting = await execute(
                backend.log.client, "HGET", backend.log.keys.pool(pool, "meta"), "waiting"
            )
            length = await execute(backend.log.client, "XLEN", commands)
            isolated = await execute(
                backend.log.client, "ZCARD", backend.log.keys.pool(pool, "alone")
            )
            stored = await stored_events(backend, pool)
        except (*UNREACHABLE, RedisError, LogUnreachable):
            return
        lag[pool] = int(waiting or 0) + int(isolated)
        pending[pool] = max(int(length) - int(waiting or 0), 0)
        entries[pool], trimmed[pool] = stored.entries, stored.first_seq - 1
    for name, kind, counts, summary in (
        ("lag", "gauge", lag, "Spawn commands that nobody has claimed."),
        ("pending", "gauge", pending, "Spawn commands that were claimed and are not settled."),
        ("entries", "gauge", entries, "Events that stand in Redis."),
        ("trimmed_total", "counter", trimmed, "Events that have left Redis for the archive."),
    ):
        out.family(f"muster_stream_{name}", kind, summary)
        for pool, count in counts.items():
            out.sample(f"muster_stream_{name}", count, {"pool": pool})


async def _parked(out: Exposition, backend: Backend, facts: RedisFacts) -> None:
    out.family("muster_parked", "gauge", "Things that could not be processed and were put aside.")
    for pool, count in (await parked_counts(backend, facts)).items():
        out.sample("muster_parked", count, {"pool": pool})


def _redis(out: Exposition, facts: RedisFacts) -> None:
    if facts.reachable:
        out.family("muster_redis_memory_bytes", "gauge", "Memory that Redis uses.")
        out.sample("muster_redis_memory_bytes", facts.memory_used)
        out.family("muster_redis_clients", "gauge", "Connections to Redis.")
        out.sample("muster_redis_clients", facts.clients)


def _fallback(out: Exposition, backend: Backend) -> None:
    fallback = backend.options.fallback
    out.family("muster_fallback", "gauge", "Whether the log stands in for another.")
    out.sample("muster_fallback", int(fallback is not None))
    out.family("muster_fallback_can_end", "gauge", "Whether that one answers again.")
    out.sample("muster_fallback_can_end", int(bool(fallback and fallback.primary_reachable_ms)))


def _counters(out: Exposition, backend: Backend) -> None:
    observations = backend.observations
    family = "muster_autoscaler_desired_workers"
    out.family(family, "gauge", "Workers that the last scaling decision wanted.")
    for pool, decision in observations.decisions.items():
        out.sample(family, decision.desired, {"pool": pool})
    out.family("muster_restarts_total", "counter", "Agents put back into the queue, by reason.")
    for (pool, reason), count in observations.restarts.items():
        out.sample("muster_restarts_total", count, {"pool": pool, "reason": reason})
    family = "muster_spawn_schedule_to_start_seconds"
    out.family(family, "histogram", "From the request for an agent until it ran.")
    for pool, histogram in observations.schedule_to_start.items():
        out.histogram(family, histogram, {"pool": pool})
    family = "muster_commands_total"
    out.family(family, "counter", "Commands answered, by durability asked for and reached.")
    for (requested, reached), count in observations.durability_levels.items():
        out.sample(family, count, {"asked": requested, "reached": reached})
    family = "muster_http_request_seconds"
    out.family(family, "histogram", "Answering a request, by method and route.")
    for (method, route), histogram in observations.durations.items():
        out.histogram(family, histogram, {"method": method, "route": route})
    family = "muster_http_requests_total"
    out.family(family, "counter", "Requests answered, by method, route and status.")
    for (method, route, status), count in observations.requests.items():
        out.sample(family, count, {"method": method, "route": route, "status": status})
