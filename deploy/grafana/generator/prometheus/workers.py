"""The workers of all hosts, from Prometheus."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.promql import distribution, quantiles, query

WORKERS: Final = Row(
    "Workers",
    [
        Panel(
            title="Memory of a worker",
            about="Resident memory at each heartbeat. If it grows without end, agents keep what"
            " they should not: `memory_max_mb` replaces such a worker.",
            docs="operations.md#memory-of-workers",
            queries=quantiles("muster_worker_memory_bytes", "POOL", "pool"),
            unit="bytes",
        ),
        Panel(
            title="Memory of all workers",
            kind="heatmap",
            about="One that is far from the others shows as a band of its own: `muster workers`.",
            docs="operations.md#memory-of-workers",
            queries=distribution("muster_worker_memory_bytes", "POOL"),
            unit="bytes",
        ),
        Panel(
            title="Worker processes by host",
            about="Of each supervisor. A host without any is full, cordoned, or has none to run.",
            docs="scaling.md#full-hosts",
            queries=[
                query(
                    "sum by (instance, pool) (muster_worker_processes{POOL})",
                    "{{instance}}: {{pool}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            title="Event loop of a worker",
            about="How long it took to answer. Above a second agents block their neighbours:"
            " `muster logs` names where; near lease_seconds the worker is lost.",
            docs="writing-agents.md#the-event-loop",
            queries=quantiles("muster_worker_loop_lag_seconds", "POOL", "pool"),
            unit="s",
        ),
        Panel(
            title="Event loops of all workers",
            kind="heatmap",
            about="A few slow workers have an agent that blocks; if all are slow, the host is"
            " overloaded.",
            docs="writing-agents.md#the-event-loop",
            queries=distribution("muster_worker_loop_lag_seconds", "POOL"),
            unit="s",
        ),
        Panel(
            title="Heartbeats a second",
            about="Of workers that report to their supervisor. Less than workers divided by"
            " renew_seconds: some were started without metrics; replace them.",
            docs="operations.md#replacing-the-workers-of-a-pool",
            queries=[
                query(
                    "sum by (pool) (rate(muster_worker_memory_bytes_count{POOL}"
                    "[$__rate_interval]))",
                    "{{pool}}",
                )
            ],
            unit="cps",
        ),
    ],
)
