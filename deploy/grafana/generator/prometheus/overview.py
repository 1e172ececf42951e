"""What is wrong, from Prometheus."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import RED_BUT_ONE, RED_FROM_ONE, Panel
from deploy.grafana.generator.promql import query

FIRING: Final = 'ALERTS{alertname=~"Muster.+", alertstate="firing"}'


FAILING: Final = 'reason=~"crashed|start_failed|unhealthy|lost"'


WRONG: Final = Row(
    "What is wrong",
    [
        Panel(
            title="Alerts that fire",
            kind="stat",
            about="Of deploy/prometheus/muster.rules.yml. The table below has them, and the runbook"
            " of each says what to do. What Muster alerts of itself: `muster alerts`.",
            docs="operations.md#metrics",
            queries=[query(f"count({FIRING}) or vector(0)", "firing")],
            width=4,
            height=4,
            steps=RED_FROM_ONE,
        ),
        Panel(
            title="Roles that do not answer",
            kind="stat",
            about="Gateways, supervisors and projectors that Prometheus cannot scrape. Is the"
            " process running, and does it have a metrics_port? A gateway needs a token.",
            docs="operations.md#metrics",
            queries=[query("sum(1 - up{JOB})", "down")],
            width=4,
            height=4,
            steps=RED_FROM_ONE,
        ),
        Panel(
            title="Active projectors",
            kind="stat",
            about="Exactly one must be active. Without one, views and archive get nothing new, and"
            " nothing is known of pools; agents run on. Start one, or read its log.",
            docs="operations.md#projector-unavailable",
            queries=[query("sum(muster_projector_active{JOB})", "active")],
            width=4,
            height=4,
            steps=RED_BUT_ONE,
        ),
        Panel(
            title="Redis and views",
            kind="stat",
            about="Whether they answer all gateways. Without Redis commands are refused; without"
            " the views they are accepted, and nothing can be read.",
            docs="operations.md#redis-unreachable",
            queries=[query("min by (part) (muster_up{JOB})", "{{part}}")],
            width=4,
            height=4,
            words={"0": ("down", "red"), "1": ("up", "green")},
        ),
        Panel(
            title="Stopped and parked",
            kind="stat",
            about="Logs whose views have stopped, because the log broke its promise; agents that"
            " cannot be read, until someone decides on them (`muster parked list`).",
            docs="operations.md#parked-agents",
            queries=[
                query("sum(max by (pool) (muster_projection_stopped{LOG}))", "views stopped"),
                query("sum(muster_parked{POOL})", "agents parked"),
            ],
            width=4,
            height=4,
            steps=RED_FROM_ONE,
        ),
        Panel(
            title="Agents failed for good",
            kind="stat",
            about="In the time that is shown. They failed more often in a row than their pool"
            " allows, and stay down until `muster restart`.",
            docs="operations.md#agent-failed",
            queries=[
                query(
                    "round(sum(increase(muster_agents_ended_total"
                    '{POOL, state="failed"}[$__range])))',
                    "failed",
                )
            ],
            width=4,
            height=4,
            steps=RED_FROM_ONE,
        ),
        Panel(
            title="Alerts of Prometheus",
            kind="table",
            about="Firing ones, and pending ones, whose condition must hold for longer.",
            docs="operations.md#metrics",
            queries=[query('ALERTS{alertname=~"Muster.+"}', "{{alertname}}")],
            columns={
                "alertname": "alert",
                "alertstate": "state",
                "severity": "severity",
                "pool": "pool",
                "instance": "instance",
            },
            width=12,
        ),
        Panel(
            title="Waiting agents",
            about="Agents that wait for a slot. What each waits for is in the dashboard of the"
            " views, and in `muster explain AGENT`.",
            docs="operations.md#pending-too-long",
            queries=[
                query('sum by (pool) (muster_agents{POOL, state="pending"})', "{{pool}}"),
            ],
            width=6,
            stacked=True,
        ),
        Panel(
            title="Scaling held back, by rule",
            about="Decisions that a limit has held back, such as max_workers, a pause, or full"
            " hosts; the reason is the rule that called for workers. `muster explain POOL` names"
            " the limit.",
            docs="explain.md#a-pool",
            queries=[
                query(
                    "sum by (pool, reason) (increase(muster_scaling_decisions_total"
                    '{POOL, direction="held"}[$__rate_interval]))',
                    "{{pool}}: {{reason}}",
                )
            ],
            width=6,
            bars=True,
        ),
        Panel(
            title="Failures a minute",
            about="Agents that are started again because they crashed, could not start, failed"
            " their check, or lost their worker. `muster ps AGENT` has the traceback.",
            docs="operations.md#crash-looping",
            queries=[
                query(
                    "60 * sum by (pool, reason) (rate(muster_restarts_total"
                    f"{{POOL, {FAILING}}}[$__rate_interval]))",
                    "{{pool}}: {{reason}}",
                )
            ],
            unit="cpm",
        ),
        Panel(
            title="Workers lost",
            about="lease: their event loops hung, their host was overloaded, or Redis did not"
            " answer. killed: often the kernel for want of memory. `muster tail --type worker.lost`"
            " has what is known of each.",
            docs="operations.md#worker-lost",
            queries=[
                query(
                    "sum by (pool, cause) (increase(muster_workers_lost_total{POOL}"
                    "[$__rate_interval]))",
                    "{{pool}}: {{cause}}",
                )
            ],
            bars=True,
        ),
        Panel(
            title="Events that the views do not have yet",
            about="Above a thousand for minutes: the projector does not keep up, its database is"
            " slow, or no projector is active. Reads are that late.",
            docs="operations.md#projection-lag",
            queries=[
                query("max by (pool) (muster_projection_backlog_events{LOG})", "{{pool}}"),
            ],
        ),
    ],
)
