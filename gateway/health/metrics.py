"""`/metrics`, in the text format of Prometheus (version 0.0.4).

Names and labels are a public contract, listed in docs/events.md. No label is the id of an agent,
and that of a worker only while it lives: there is no end of those.
"""

from collections.abc import Mapping
from typing import Final

from eventstore.errors import LogUnreachable
from gateway.backend.backend import Backend
from gateway.backend.call import Call, answered_once
from gateway.following.counters import Histogram
from gateway.health.facts import (
    ask_about_pools,
    parked_counts,
    redis_facts,
    stored_events,
    view_facts,
)
from gateway.wire.answer import Answer
from gateway.wire.problems import Problem

CONTENT_TYPE: Final = "text/plain"
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "muster_up": ("gauge", "Whether Redis and the views answer this gateway."),
    "muster_agents": ("gauge", "Agents that have not ended, by pool, role and state."),
    "muster_worker_slots_used": ("gauge", "Slots that hold an agent."),
    "muster_worker_slots_available": ("gauge", "Slots that are free."),
    "muster_autoscaler_current_workers": ("gauge", "Worker processes that live."),
    "muster_autoscaler_desired_workers": (
        "gauge",
        "Workers that the last scaling decision wanted.",
    ),
    "muster_projection_lag_seconds": ("gauge", "How far the views are behind."),
    "muster_loop_lag_seconds": ("gauge", "The latest event loop lag, by process kind."),
    "muster_worker_memory_bytes": ("gauge", "Resident memory of each worker that lives."),
    "muster_stream_lag": ("gauge", "Spawn commands that no worker has claimed."),
    "muster_stream_pending": ("gauge", "Spawn commands that were claimed and are not settled."),
    "muster_stream_entries": ("gauge", "Events that are in Redis."),
    "muster_stream_trimmed_total": ("counter", "Events that have left Redis for the archive."),
    "muster_parked": ("gauge", "Things that could not be processed and were parked."),
    "muster_redis_memory_bytes": ("gauge", "Memory that Redis uses."),
    "muster_redis_clients": ("gauge", "Connections to Redis."),
    "muster_fallback": ("gauge", "Whether the log replaces another."),
    "muster_fallback_can_end": ("gauge", "Whether that one answers again."),
    "muster_restarts_total": ("counter", "Agents requeued, by reason."),
    "muster_spawn_schedule_to_start_seconds": (
        "histogram",
        "From the request for an agent until it ran.",
    ),
    "muster_commands_total": ("counter", "Commands answered, by durability asked for and reached."),
    "muster_http_request_seconds": ("histogram", "Answering a call, by method and route."),
    "muster_http_requests_total": ("counter", "Requests answered, by method, route and status."),
}
"""Kind and help text by name, in the order in which they are printed."""


class Exposition:
    """The samples of each family."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {name: [] for name in FAMILIES}

    def add(self, name: str, value: float | Histogram, **labels: object) -> None:
        lines = self._lines[name]
        if not isinstance(value, Histogram):
            lines.append(_line(name, value, labels))
            return
        total = 0
        for bound, count in zip((*value.bounds, "+Inf"), value.counts, strict=True):
            total += count
            lines.append(_line(f"{name}_bucket", total, {**labels, "le": bound}))
        lines += (_line(f"{name}_sum", value.sum, labels), _line(f"{name}_count", total, labels))

    def text(self) -> str:
        lines: list[str] = []
        for name, (kind, summary) in FAMILIES.items():
            lines += (f"# HELP {name} {summary}", f"# TYPE {name} {kind}", *self._lines[name])
        return "\n".join(lines) + "\n"


def _line(name: str, value: float, labels: Mapping[str, object]) -> str:
    text = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
    return f"{name}{{{text}}} {value!r}" if text else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@answered_once
async def metrics(call: Call) -> Answer:
    """Figures for Prometheus.

    What cannot be asked now is left out, and `muster_up` says so.
    """
    backend = call.backend
    out = Exposition()
    facts = await redis_facts(backend)
    out.add("muster_up", int(facts.reachable), part="redis")
    if facts.reachable:
        out.add("muster_redis_memory_bytes", facts.memory_used)
        out.add("muster_redis_clients", facts.clients)
    await _views(out, backend)
    await _streams(out, backend)
    for pool, count in (await parked_counts(backend, facts)).items():
        out.add("muster_parked", count, pool=pool)
    fallback = backend.options.fallback
    out.add("muster_fallback", int(fallback is not None))
    out.add("muster_fallback_can_end", int(bool(fallback and fallback.primary_reachable_ms)))
    _counters(out, backend)
    return Answer(out.text().encode(), content_type=f"{CONTENT_TYPE}; charset=utf-8")


async def _views(out: Exposition, backend: Backend) -> None:
    try:
        async with backend.read_views() as views:
            pools, agents = await views.pools(), await views.count_agents()
            workers = await views.workers()
        facts = await view_facts(backend)
    except Problem:
        out.add("muster_up", 0, part="views")
        return
    out.add("muster_up", 1, part="views")
    for pool in pools:
        name = pool.pool_name
        for state, count in agents.get(name, {}).items():
            out.add("muster_agents", count, pool=name, role=pool.role_type, state=state)
        out.add("muster_worker_slots_used", pool.used_capacity, pool=name)
        out.add("muster_worker_slots_available", pool.available_capacity, pool=name)
        out.add("muster_autoscaler_current_workers", pool.process_count, pool=name)
    for fact in facts:
        out.add("muster_projection_lag_seconds", fact.lag_seconds, pool=fact.pool or "catalogue")
    loop_lag_ms = max((worker.loop_lag_ms for worker in workers), default=0.0)
    out.add("muster_loop_lag_seconds", loop_lag_ms / 1000, process="worker")
    for worker in workers:
        if worker.memory_bytes:
            labels = {"pool": worker.pool_name, "worker": worker.worker_id}
            out.add("muster_worker_memory_bytes", worker.memory_bytes, **labels)


async def _streams(out: Exposition, backend: Backend) -> None:
    """Commands that wait (lag) or are not settled (pending); events here, and those that left."""
    commands = (("HGET", "meta", "waiting"), ("XLEN", "commands"), ("ZCARD", "alone"))
    try:
        queues, stored = await ask_about_pools(backend, commands), await stored_events(backend)
    except LogUnreachable:
        return
    for pool, (waiting, length, isolated) in queues.items():
        out.add("muster_stream_lag", int(waiting or 0) + int(isolated), pool=pool)
        out.add("muster_stream_pending", max(int(length) - int(waiting or 0), 0), pool=pool)
    for pool, events in stored.items():
        out.add("muster_stream_entries", events.entries, pool=pool)
        out.add("muster_stream_trimmed_total", events.first_seq - 1, pool=pool)


def _counters(out: Exposition, backend: Backend) -> None:
    """What this gateway has counted itself."""
    observed = backend.observations
    out.add("muster_loop_lag_seconds", observed.loop_lag_seconds, process="gateway")
    for pool, decision in observed.decisions.items():
        out.add("muster_autoscaler_desired_workers", decision.desired, pool=pool)
    for (pool, reason), count in observed.restarts.items():
        out.add("muster_restarts_total", count, pool=pool, reason=reason)
    for pool, histogram in observed.schedule_to_start.items():
        out.add("muster_spawn_schedule_to_start_seconds", histogram, pool=pool)
    for (asked, reached), count in observed.durability_levels.items():
        out.add("muster_commands_total", count, asked=asked, reached=reached)
    for (method, route), histogram in observed.durations.items():
        out.add("muster_http_request_seconds", histogram, method=method, route=route)
    for (method, route, status), count in observed.requests.items():
        out.add("muster_http_requests_total", count, method=method, route=route, status=status)
