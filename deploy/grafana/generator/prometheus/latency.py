"""How long things take, from Prometheus."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.promql import distribution, quantiles

LATENCY: Final = Row(
    "Latency",
    [
        Panel(
            title="From request to start",
            about="What a caller waits for a new agent. High with free slots: see the next"
            " panels. High without: a `buffer` or a `service_level` of the pool.",
            docs="scaling.md#policies",
            queries=quantiles("muster_spawn_schedule_to_start_seconds", "POOL", "pool"),
            unit="s",
        ),
        Panel(
            title="From request to start, all agents",
            kind="heatmap",
            about="Two bands: those that found a free slot, and those that waited for a worker.",
            docs="scaling.md#policies",
            queries=distribution("muster_spawn_schedule_to_start_seconds", "POOL"),
            unit="s",
        ),
        Panel(
            title="From claim to start",
            about="The import of the role, and its agents' own `start`.",
            docs="writing-agents.md#the-four-methods",
            queries=quantiles("muster_agent_start_seconds", "POOL", "pool"),
            unit="s",
        ),
        Panel(
            title="Appends to the log",
            about="A call until Redis has answered. If all processes are slow, Redis or its disk"
            " is (`appendfsync always`); if one is, its event loop hangs.",
            docs="operations.md#redis-and-valkey",
            queries=quantiles("muster_append_seconds", "JOB", "process"),
            unit="s",
        ),
        Panel(
            title="Claims",
            about="A call by which a worker, or the placer of the pool, claims agents.",
            docs="scaling.md#placement",
            queries=quantiles("muster_claim_seconds", "POOL", "pool"),
            unit="s",
        ),
        Panel(
            title="From event to views",
            about="How late the views are: the oldest event of each batch.",
            docs="operations.md#projection-lag",
            queries=quantiles("muster_projection_lag_seconds", "LOG", "pool"),
            unit="s",
        ),
        Panel(
            title="HTTP by route",
            about="A spawn with `Prefer: wait` takes until its agent runs, an event stream as long"
            " as its client stays.",
            docs="operations.md#bounds-for-clients",
            queries=quantiles("muster_http_request_seconds", "JOB", "route"),
            unit="s",
            width=16,
        ),
        Panel(
            title="Event loops of the roles",
            about="How late they were. Above 0.1 s their host is overloaded, or something blocks"
            " them.",
            docs="operations.md#tuning",
            queries=quantiles("muster_loop_lag_seconds", "JOB", "process"),
            unit="s",
        ),
    ],
)
