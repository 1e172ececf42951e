"""Slots, scaling and usage, from the views."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.sql import (
    MONTHS,
    ROWS_MAX,
    THIS_SPAN,
    at,
    between,
    bucket,
    changes,
    levels,
    query,
    usage,
)

SCALED: Final = f"""
    FROM muster.events AS event
    CROSS JOIN LATERAL json_to_record(event.data::json) AS body (reason text, current bigint,
        desired bigint, wanted bigint, pending bigint, free bigint, running bigint, maximum bigint,
        "limit" text)
    WHERE event.type = 'pool.scaling_decided' AND {between("event.ts")} AND event.pool IN ($pool)"""


DIRECTION: Final = """
    CASE WHEN desired > current THEN 'up' WHEN desired < current THEN 'down' ELSE 'held' END"""


SLOTS: Final = Row(
    "Slots and scaling",
    [
        Panel(
            title="Pools now",
            kind="table",
            about="Slots of active workers. Ordered workers have not started yet.",
            docs="operations.md#the-views-in-sql",
            queries=[
                query("""
                    SELECT pool_name AS "pool", role_type AS "role",
                        process_count AS "workers", ordered_worker_processes AS "ordered",
                        total_capacity AS "slots", used_capacity AS "used",
                        available_capacity AS "free", utilization AS "utilisation",
                        agent_count AS "agents", pending_count AS "waiting"
                    FROM muster.pool_capacity WHERE pool_name IN ($pool) ORDER BY 1""")
            ],
            units={"utilisation": "percentunit"},
            width=16,
        ),
        Panel(
            title="Slots over time",
            about="Of the chosen pools together. Waiting agents while slots are free: a cap, or"
            " agents that need a worker of their own.",
            docs="usage.md#charts",
            queries=[
                levels(
                    'sum(had.slots_used) AS "used", sum(had.slots) AS "slots",'
                    ' sum(had.pending) AS "waiting"',
                    "GROUP BY 1",
                )
            ],
        ),
        Panel(
            title="Workers over time",
            about="Those that run, by pool.",
            docs="scaling.md",
            queries=[levels('pool.pool_name AS "metric", had.workers AS "workers"')],
        ),
        Panel(
            title="Arrivals and ends",
            about="Each bar has what happened within it. More ends than arrivals: agents end by"
            " themselves, or fail.",
            docs="usage.md#charts",
            queries=[
                changes(
                    {
                        "requested": "arrivals",
                        "ended": "ends",
                        "failures": "failures",
                        "restarts": "restarts",
                        "cold_starts": "cold starts",
                    }
                )
            ],
            bars=True,
        ),
        Panel(
            title="Scaling decisions over time",
            about="By direction and the rule that called for it. `held`: a limit held it back.",
            docs="scaling.md#policies",
            queries=[
                query(f"""
                    SELECT {bucket("event.ts")} AS "time",
                        {DIRECTION} || ': ' || reason AS "metric", count(*) AS "decisions"
                    {SCALED} GROUP BY 1, 2 ORDER BY 1""")
            ],
            stacked=True,
            bars=True,
        ),
        Panel(
            title="Scaling decisions",
            kind="table",
            about="With what they were made of. `muster explain POOL` says it in words, `muster"
            " simulate --pool POOL` what another policy had done.",
            docs="explain.md#a-pool",
            queries=[
                query(f"""
                    SELECT {at("event.ts")} AS "at", event.pool AS "pool",
                        {DIRECTION} AS "direction", reason AS "rule", current AS "workers",
                        desired AS "then", wanted AS "wanted", "limit" AS "held back by",
                        pending AS "waiting", running AS "running", free AS "free slots",
                        maximum AS "max_workers"
                    {SCALED} ORDER BY event.ts DESC LIMIT {ROWS_MAX}""")
            ],
            width=24,
        ),
    ],
)


USAGE: Final = Row(
    "Usage",
    [
        Panel(
            title="By project, in the time that is shown",
            kind="table",
            about="Exact for full minutes. `muster usage --by project` answers for any span, to the"
            " millisecond.",
            docs="usage.md#what-is-counted",
            queries=[usage(THIS_SPAN, "", "1, 2")],
            units={"slot hours": "h", "waiting hours": "h", "agent hours": "h"},
            width=12,
            height=10,
        ),
        Panel(
            title="By project and month",
            kind="table",
            about="This month and the eleven before it, in UTC, whatever time is shown. These sums"
            " stay when events are pruned.",
            docs="usage.md#how-it-is-stored",
            queries=[usage(MONTHS, 'span.month AS "month",', "1, 2, 3")],
            units={"slot hours": "h", "waiting hours": "h", "agent hours": "h"},
            width=12,
            height=10,
        ),
    ],
)
