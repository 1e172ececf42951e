"""Every metric of Muster: its kind, what it says, and its labels, as docs/events.md lists them.

Names follow Prometheus' conventions: base units (`_seconds`, `_bytes`), `_total` for counters. They
and their labels are a public contract. No label is the id of an agent or a worker, a project, or a
text that anyone wrote: there is no end of those.

What is true of the whole system is reported by the active projector only, and what happens to one
process by that process, so that each figure may be summed over all instances.
"""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

CALL_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
WAIT_SECONDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
)  # fmt: skip
MEMORY_BYTES: Final = tuple(float(2**power) for power in range(24, 36))
"""16 MiB to 32 GiB."""


class Family(Struct, frozen=True):
    """A metric. `bounds`: the upper ones of a histogram's buckets, without the infinite one."""

    kind: Literal["counter", "gauge", "histogram"]
    of: str
    """Which processes report it: `gateway`, `supervisor`, `projector`, several, or `every role`."""
    summary: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _family(kind: Literal["counter", "gauge"], of: str, summary: str, labels: str = "") -> Family:
    return Family(kind, of, summary, tuple(labels.split()))


def _histogram(of: str, summary: str, labels: str, bounds: tuple[float, ...]) -> Family:
    return Family("histogram", of, summary, tuple(labels.split()), bounds)


FAMILIES: Final[Mapping[str, Family]] = {
    # a process
    "muster_loop_lag_seconds": _histogram(
        "every role", "How late its event loop was, once a second.", "process", CALL_SECONDS
    ),
    "muster_append_seconds": _histogram(
        "gateway, supervisor",
        "A call that appends to the log, often of many steps, until Redis has answered.",
        "process",
        CALL_SECONDS,
    ),
    # gateways
    "muster_up": _family(
        "gauge", "gateway", "Whether Redis and the views answer this gateway.", "part"
    ),
    "muster_http_requests_total": _family(
        "counter", "gateway", "Requests answered.", "method route status"
    ),
    "muster_http_request_seconds": _histogram(
        "gateway", "Answering a request.", "method route status_class", CALL_SECONDS
    ),
    "muster_commands_total": _family(
        "counter",
        "gateway",
        "Commands answered, by the durability that was asked for and reached.",
        "asked reached",
    ),
    "muster_commands_refused_total": _family(
        "counter", "gateway", "Commands refused, by the type of the problem.", "route problem"
    ),
    "muster_fallback": _family("gauge", "gateway", "Whether the log replaces another."),
    "muster_fallback_can_end": _family(
        "gauge", "gateway", "Whether the log that was replaced answers again."
    ),
    # supervisors, of the workers of their hosts
    "muster_worker_processes": _family(
        "gauge", "supervisor", "Worker processes of this host.", "pool"
    ),
    "muster_worker_memory_bytes": _histogram(
        "supervisor", "Resident memory of a worker, at each heartbeat.", "pool", MEMORY_BYTES
    ),
    "muster_worker_loop_lag_seconds": _histogram(
        "supervisor",
        "How long a worker's event loop took to answer, at each heartbeat.",
        "pool",
        CALL_SECONDS,
    ),
    "muster_claim_seconds": _histogram(
        "supervisor", "A call that claims or places agents.", "pool", CALL_SECONDS
    ),
    # projectors, each of the events that it has written
    "muster_projector_active": _family(
        "gauge", "projector", "Whether this projector is the active one."
    ),
    "muster_projection_lag_seconds": _histogram(
        "projector",
        "From an event until the views have it: the oldest of each batch.",
        "pool",
        WAIT_SECONDS,
    ),
    "muster_spawn_schedule_to_start_seconds": _histogram(
        "projector",
        "From the request for an agent until it ran for the first time.",
        "pool",
        WAIT_SECONDS,
    ),
    "muster_agent_start_seconds": _histogram(
        "projector", "From the claim of an agent until it ran.", "pool", WAIT_SECONDS
    ),
    "muster_spawns_total": _family("counter", "projector", "Agents requested.", "pool"),
    "muster_agents_ended_total": _family(
        "counter", "projector", "Agents that were terminated or failed.", "pool state reason"
    ),
    "muster_restarts_total": _family(
        "counter", "projector", "Agents put back into the queue.", "pool reason"
    ),
    "muster_workers_lost_total": _family(
        "counter", "projector", "Workers declared lost.", "pool cause"
    ),
    "muster_scaling_decisions_total": _family(
        "counter", "projector", "Scaling decisions.", "pool direction reason"
    ),
    "muster_archive_pruned_events_total": _family(
        "counter", "projector", "Events that the retention removed from the archive.", "pool"
    ),
    "muster_archive_retention_failing": _family(
        "gauge", "projector", "Whether the last attempt to prune the archive failed."
    ),
    # the active projector, of the whole system
    "muster_agents": _family(
        "gauge", "projector", "Agents that have not ended.", "pool role state"
    ),
    "muster_worker_slots_used": _family(
        "gauge", "projector", "Slots of active workers that hold an agent.", "pool"
    ),
    "muster_worker_slots_available": _family(
        "gauge", "projector", "Slots of active workers that are free.", "pool"
    ),
    "muster_autoscaler_current_workers": _family(
        "gauge", "projector", "Worker processes that live.", "pool"
    ),
    "muster_autoscaler_desired_workers": _family(
        "gauge", "projector", "Workers that the last scaling decision wanted.", "pool"
    ),
    "muster_stream_lag": _family(
        "gauge", "projector", "Spawn commands that no worker has claimed.", "pool"
    ),
    "muster_stream_pending": _family(
        "gauge", "projector", "Spawn commands that were claimed and are not settled.", "pool"
    ),
    "muster_stream_entries": _family("gauge", "projector", "Events in Redis.", "pool"),
    "muster_stream_trimmed_total": _family(
        "counter", "projector", "Events that have left Redis for the archive.", "pool"
    ),
    "muster_parked": _family(
        "gauge", "projector", "Agents that cannot be read and are parked.", "pool"
    ),
    "muster_projection_backlog_events": _family(
        "gauge", "projector", "Events in the log that the views do not have yet.", "pool"
    ),
    "muster_projection_stopped": _family(
        "gauge", "projector", "Whether the projection of a log has stopped.", "pool"
    ),
    "muster_alerts_open": _family(
        "gauge", "projector", "Alerts that are open, of those that were stored.", "rule severity"
    ),
    "muster_redis_memory_bytes": _family("gauge", "projector", "Memory that Redis uses."),
    "muster_redis_clients": _family("gauge", "projector", "Connections to Redis."),
}
"""By name, in the order in which they are reported."""
CATALOGUE_LABEL: Final = "muster:catalogue"
"""In place of a pool, for the log of pools and hosts; no pool may be named so."""
