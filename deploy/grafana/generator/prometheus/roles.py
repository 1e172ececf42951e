"""Redis, and the roles that use it, from Prometheus."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.promql import query

REDIS: Final = Row(
    "Redis and projection",
    [
        Panel(
            title="Memory of Redis",
            about="Compare it with maxmemory: at that limit all commands are refused. Shorter"
            " retention, or more memory.",
            docs="operations.md#redis-memory",
            queries=[query("max(muster_redis_memory_bytes{JOB})", "used")],
            unit="bytes",
        ),
        Panel(
            title="Connections to Redis",
            about="A few for each role and worker. Growing without workers: clients of others.",
            docs="operations.md#redis-and-valkey",
            queries=[query("max(muster_redis_clients{JOB})", "connections")],
        ),
        Panel(
            title="Appends a second",
            about="Calls that append to the log, by the process that made them.",
            docs="performance.md",
            queries=[
                query(
                    "sum by (process) (rate(muster_append_seconds_count{JOB}[$__rate_interval]))",
                    "{{process}}",
                )
            ],
            unit="cps",
        ),
        Panel(
            title="Events in Redis",
            about="They leave it once they are archived and older than the retention. Growing"
            " without end: the archive does not keep up.",
            docs="operations.md#stream-not-trimmed",
            queries=[query("sum by (pool) (muster_stream_entries{POOL})", "{{pool}}")],
        ),
        Panel(
            title="Events that leave Redis, a second",
            about="None for long, while the panel before grows: see its link.",
            docs="operations.md#retention",
            queries=[
                query(
                    "sum by (pool) (rate(muster_stream_trimmed_total{POOL}[$__rate_interval]))",
                    "{{pool}}",
                )
            ],
            unit="cps",
        ),
        Panel(
            title="Batches of the projector a second",
            about="Transactions that wrote events of a log to the views.",
            docs="operations.md#postgresql-and-sqlite",
            queries=[
                query(
                    "sum by (pool) (rate(muster_projection_lag_seconds_count{LOG}"
                    "[$__rate_interval]))",
                    "{{pool}}",
                )
            ],
            unit="cps",
        ),
    ],
)


GATEWAYS: Final = Row(
    "Gateways",
    [
        Panel(
            title="Requests by route",
            about="Of all gateways together.",
            docs="operations.md#the-access-log",
            queries=[
                query(
                    "sum by (method, route) (rate(muster_http_requests_total{JOB}"
                    "[$__rate_interval]))",
                    "{{method}} {{route}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Requests by status",
            about="429: a backlog or too many streams; 503: Redis or the views are unreachable.",
            docs="events.md#problems",
            queries=[
                query(
                    "sum by (status) (rate(muster_http_requests_total{JOB}[$__rate_interval]))",
                    "{{status}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Requests that fail, by gateway",
            about="The share with a status of 500 and above. If one gateway differs, it cannot"
            " reach what the others can.",
            docs="events.md#problems",
            queries=[
                query(
                    "(sum by (instance) (rate(muster_http_requests_total"
                    '{JOB, status=~"5.."}[$__rate_interval]))'
                    " or 0 * sum by (instance) (rate(muster_http_requests_total{JOB}"
                    "[$__rate_interval])))"
                    " / sum by (instance) (rate(muster_http_requests_total{JOB}"
                    "[$__rate_interval]))",
                    "{{instance}}",
                )
            ],
            unit="percentunit",
            top=1,
        ),
        Panel(
            title="Refused commands",
            about="By the type of the problem; the linked table says what each means, and whether"
            " a caller may retry.",
            docs="events.md#problems",
            queries=[
                query(
                    "sum by (problem) (increase(muster_commands_refused_total{JOB}"
                    "[$__rate_interval]))",
                    "{{problem}}",
                )
            ],
            stacked=True,
            bars=True,
        ),
        Panel(
            title="Commands by durability",
            about="What was asked for, and what was reached. If the second is less, replicas are"
            " late or missing.",
            docs="reliability.md#levels-of-durability",
            queries=[
                query(
                    "sum by (asked, reached) (rate(muster_commands_total{JOB}[$__rate_interval]))",
                    "{{asked}}, reached: {{reached}}",
                )
            ],
            unit="cps",
        ),
        Panel(
            title="Fallback",
            kind="stat",
            about="Whether a log of this host replaces a Redis that was unreachable at the start,"
            " and whether that Redis answers again: then restart.",
            docs="operations.md#the-fallback",
            queries=[
                query("max(muster_fallback{JOB})", "a fallback serves"),
                query("max(muster_fallback_can_end{JOB})", "it can end"),
            ],
            words={"0": ("no", "green"), "1": ("yes", "red")},
        ),
    ],
)


PROCESSES: Final = Row(
    "Processes",
    [
        Panel(
            title="Processors",
            about="Of each role, without workers. A gateway or projector at 1 has a full core:"
            " more gateways help, more projectors do not.",
            docs="performance.md",
            queries=[
                query(
                    "rate(process_cpu_seconds_total{JOB}[$__rate_interval])",
                    "{{job}} {{instance}}",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            title="Memory",
            about="Resident memory of each role, without workers.",
            docs="performance.md",
            queries=[query("process_resident_memory_bytes{JOB}", "{{job}} {{instance}}")],
            unit="bytes",
        ),
        Panel(
            title="Open files, of those allowed",
            about="Sockets are files: near 1 a gateway refuses connections. Raise the limit of"
            " open files.",
            docs="operations.md#bounds-for-clients",
            queries=[query("process_open_fds{JOB} / process_max_fds{JOB}", "{{job}} {{instance}}")],
            unit="percentunit",
            top=1,
        ),
    ],
)
