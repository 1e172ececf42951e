"""The pools, from Prometheus."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.promql import query

POOLS: Final = Row(
    "Pools",
    [
        Panel(
            title="Pools now",
            kind="table",
            about="Utilisation is the share of slots with an agent. Agents that wait while it is"
            " below 1 are about to be claimed, or are held back by a cap.",
            docs="scaling.md",
            queries=[
                query("sum by (pool) (muster_autoscaler_current_workers{POOL})", "workers"),
                query("sum by (pool) (muster_autoscaler_desired_workers{POOL})", "desired"),
                query("sum by (pool) (muster_worker_slots_used{POOL})", "slots used"),
                query("sum by (pool) (muster_worker_slots_available{POOL})", "slots free"),
                query(
                    "sum by (pool) (muster_worker_slots_used{POOL}) / sum by (pool)"
                    " (muster_worker_slots_used{POOL} + muster_worker_slots_available{POOL})",
                    "utilisation",
                ),
                query('sum by (pool) (muster_agents{POOL, state="running"})', "running"),
                query('sum by (pool) (muster_agents{POOL, state="pending"})', "waiting"),
                query('sum by (pool) (muster_agents{POOL, state="restarting"})', "in back-off"),
            ],
            columns={
                "pool": "pool",
                "Value #A": "workers",
                "Value #B": "wanted",
                "Value #C": "slots used",
                "Value #D": "slots free",
                "Value #E": "utilisation",
                "Value #F": "running",
                "Value #G": "waiting",
                "Value #H": "in back-off",
            },
            units={"utilisation": "percentunit"},
            width=24,
        ),
        Panel(
            title="Utilisation",
            about="Slots with an agent, of all slots of active workers. At 1 new agents wait for a"
            " worker: a `buffer` or `target_utilisation` keeps slots free.",
            docs="scaling.md#policies",
            queries=[
                query(
                    "sum by (pool) (muster_worker_slots_used{POOL}) / sum by (pool)"
                    " (muster_worker_slots_used{POOL} + muster_worker_slots_available{POOL})",
                    "{{pool}}",
                )
            ],
            unit="percentunit",
            top=1,
        ),
        Panel(
            title="Agents by state",
            about="Agents that have not ended. `restarting`: in a back-off after a failure.",
            docs="architecture.md#an-agent",
            queries=[query("sum by (state) (muster_agents{POOL})", "{{state}}")],
            stacked=True,
        ),
        Panel(
            title="Slots",
            about="Of active workers. Agents that wait are above them.",
            docs="scaling.md",
            queries=[
                query("sum(muster_worker_slots_used{POOL})", "used"),
                query("sum(muster_worker_slots_available{POOL})", "free"),
                query('sum(muster_agents{POOL, state="pending"})', "waiting agents"),
            ],
            stacked=True,
        ),
        Panel(
            title="Workers, and how many are wanted",
            about="A gap that stays: workers die at their start (`muster tail --type worker.lost`),"
            " or their hosts are full.",
            docs="scaling.md#full-hosts",
            queries=[
                query("sum by (pool) (muster_autoscaler_current_workers{POOL})", "{{pool}}"),
                query("sum by (pool) (muster_autoscaler_desired_workers{POOL})", "{{pool}} wanted"),
            ],
        ),
        Panel(
            title="Arrivals a minute",
            about="Agents that were requested.",
            docs="usage.md#charts",
            queries=[
                query(
                    "60 * sum by (pool) (rate(muster_spawns_total{POOL}[$__rate_interval]))",
                    "{{pool}}",
                )
            ],
            unit="cpm",
        ),
        Panel(
            title="Ends a minute, by reason",
            about="`completed`: run returned; `idle`: for max_idle_time; failed ones had spent"
            " their budget of restarts or starts.",
            docs="events.md#reasons",
            queries=[
                query(
                    "60 * sum by (state, reason) (rate(muster_agents_ended_total{POOL}"
                    "[$__rate_interval]))",
                    "{{state}}: {{reason}}",
                )
            ],
            unit="cpm",
            stacked=True,
        ),
        Panel(
            title="Restarts a minute, by reason",
            about="Agents that were queued again: after a failure, a drain, or a move. Many of one"
            " reason and one pool point at its code, or at its hosts.",
            docs="operations.md#restarting-agents",
            queries=[
                query(
                    "60 * sum by (reason) (rate(muster_restarts_total{POOL}[$__rate_interval]))",
                    "{{reason}}",
                )
            ],
            unit="cpm",
            stacked=True,
        ),
        Panel(
            title="Scaling decisions",
            about="Up and down in turn within minutes: `down.window_seconds` makes it calmer.",
            docs="scaling.md#calmly",
            queries=[
                query(
                    "sum by (direction, reason) (increase(muster_scaling_decisions_total{POOL}"
                    "[$__rate_interval]))",
                    "{{direction}}: {{reason}}",
                )
            ],
            stacked=True,
            bars=True,
        ),
        Panel(
            title="Spawn commands",
            about="Unclaimed ones wait for a free slot; claimed ones start. Claimed ones that stay:"
            " a `start` hangs, until start_timeout_seconds.",
            docs="operations.md#pending-too-long",
            queries=[
                query("sum by (pool) (muster_stream_lag{POOL})", "{{pool}} unclaimed"),
                query("sum by (pool) (muster_stream_pending{POOL})", "{{pool}} claimed"),
            ],
        ),
    ],
)
