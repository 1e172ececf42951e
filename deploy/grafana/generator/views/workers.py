"""The lives of workers, and the alerts of the past, from the views."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.sql import FROM, NOW, ROWS_MAX, TO, at, between, bucket, query

LIFE: Final = f"(coalesce(nullif(ended_at, 0), {NOW}) - started_at) / 1000.0"


WORKERS: Final = Row(
    "Workers",
    [
        Panel(
            title="Living workers",
            kind="table",
            about="By their newest heartbeats. An old one: its host, or its event loop, hangs.",
            docs="operations.md#memory-of-workers",
            queries=[
                query(f"""
                    SELECT pool_name AS "pool", count(*) AS "workers",
                        min(memory_bytes) AS "least memory", max(memory_bytes) AS "most memory",
                        max(loop_lag_ms) AS "longest lag",
                        round(({NOW} - min(last_heartbeat)) / 1000.0, 1) AS "oldest heartbeat"
                    FROM muster.worker_live WHERE pool_name IN ($pool) GROUP BY 1 ORDER BY 1""")
            ],
            units={
                "least memory": "bytes",
                "most memory": "bytes",
                "longest lag": "ms",
                "oldest heartbeat": "s",
            },
        ),
        Panel(
            title="Hosts",
            kind="table",
            about="With the workers that run there.",
            docs="operations.md#separate-roles-on-several-hosts",
            queries=[
                query(f"""
                    SELECT host.hostname AS "host", host.status AS "status",
                        host.reason AS "reason", count(worker.worker_id) AS "workers",
                        coalesce(sum(worker.agent_count), 0) AS "agents",
                        {at("host.joined_at")} AS "joined"
                    FROM muster.hosts AS host
                    LEFT JOIN muster.workers AS worker ON worker.host = host.host
                        AND worker.status IN ('active', 'suspect', 'draining')
                    GROUP BY host.host, 1, 2, 3, 6 ORDER BY 1 LIMIT {ROWS_MAX}""")
            ],
        ),
        Panel(
            title="How workers ended",
            kind="table",
            about="In the time that is shown. Short lives: what they run kills them, or a limit of"
            " the host does.",
            docs="operations.md#worker-lost",
            queries=[
                query(f"""
                    SELECT pool_name AS "pool", status AS "status", left(reason, 60) AS "reason",
                        count(*) AS "workers",
                        percentile_cont(0.5) WITHIN GROUP (ORDER BY {LIFE}) AS "median life",
                        min({LIFE}) AS "shortest life"
                    FROM muster.workers
                    WHERE pool_name IN ($pool) AND started_at > 0 AND {between("ended_at")}
                    GROUP BY 1, 2, 3 ORDER BY "workers" DESC LIMIT {ROWS_MAX}""")
            ],
            units={"median life": "s", "shortest life": "s"},
        ),
        Panel(
            title="Lives of workers",
            kind="table",
            about="Those that lived in the time that is shown, the newest first. `muster explain"
            " WORKER` has the story of one.",
            docs="explain.md#a-worker",
            queries=[
                query(f"""
                    SELECT {at("worker.started_at")} AS "started",
                        {at("worker.ended_at")} AS "ended",
                        {LIFE} AS "life", worker.worker_id AS "worker", worker.pool_name AS "pool",
                        worker.host AS "host", worker.pid AS "pid", worker.status AS "status",
                        worker.reason AS "reason", worker.cordoned AS "cordoned",
                        worker.agent_count AS "agents", live.memory_bytes AS "memory",
                        live.loop_lag_ms AS "lag"
                    FROM muster.workers AS worker
                    LEFT JOIN muster.worker_live AS live ON live.worker_id = worker.worker_id
                        AND live.pool_name = worker.pool_name
                    WHERE worker.pool_name IN ($pool)
                        AND worker.started_at BETWEEN 1 AND {TO}
                        AND (worker.ended_at = 0 OR worker.ended_at >= {FROM})
                    ORDER BY worker.started_at DESC LIMIT {ROWS_MAX}""")
            ],
            units={"life": "s", "memory": "bytes", "lag": "ms"},
            width=24,
        ),
    ],
)


ALERTS: Final = Row(
    "Alerts of the past",
    [
        Panel(
            title="Alerts opened",
            about="By name, when they were opened.",
            docs="operations.md#alerts",
            queries=[
                query(f"""
                    SELECT {bucket("opened_at")} AS "time", name AS "metric", count(*) AS "alerts"
                    FROM muster.alerts
                    WHERE {between("opened_at")} AND (pool_name = '' OR pool_name IN ($pool))
                    GROUP BY 1, 2 ORDER BY 1""")
            ],
            stacked=True,
            bars=True,
        ),
        Panel(
            title="Alerts",
            kind="table",
            about="That were open in the time that is shown. Closed ones stay for"
            " `retention_alerts_days`.",
            docs="operations.md#runbooks",
            queries=[
                query(f"""
                    SELECT {at("opened_at")} AS "opened", {at("closed_at")} AS "closed",
                        round((coalesce(nullif(closed_at, 0), {NOW}) - opened_at) / 1000.0)
                            AS "open for", severity AS "severity", name AS "alert",
                        subject AS "subject", count AS "of", message AS "message"
                    FROM muster.alerts
                    WHERE opened_at <= {TO} AND (closed_at = 0 OR closed_at >= {FROM})
                        AND (pool_name = '' OR pool_name IN ($pool))
                    ORDER BY opened_at DESC LIMIT {ROWS_MAX}""")
            ],
            units={"open for": "s"},
            width=16,
        ),
    ],
)
