"""What is wrong, from the views."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import RED_FROM_ONE, Panel
from deploy.grafana.generator.sql import (
    LIVING,
    LIVING_AGENTS,
    ROWS_MAX,
    at,
    between,
    json_of,
    query,
)

FAILING: Final = LIVING.replace(")", ", 'failed')")
WRONG: Final = Row(
    "What is wrong",
    [
        Panel(
            title="Open alerts",
            kind="table",
            about="Each with what to do; the runbook is a heading of docs/operations.md.",
            docs="operations.md#alerts",
            queries=[
                query(f"""
                    SELECT severity AS "severity", name AS "alert", subject AS "subject",
                        count AS "of", message AS "message", action AS "what to do",
                        {at("opened_at")} AS "since", runbook AS "runbook"
                    FROM muster.alerts
                    WHERE closed_at = 0 AND (pool_name = '' OR pool_name IN ($pool))
                    ORDER BY severity, opened_at DESC LIMIT {ROWS_MAX}""")
            ],
            widths={"severity": 90, "of": 60, "since": 170},
            width=16,
        ),
        Panel(
            title="Now",
            kind="stat",
            about="In back-off: they failed, and are started again later. Failing: three times in"
            " a row or more.",
            docs="operations.md#crash-looping",
            queries=[
                query(f"""
                    SELECT count(*) FILTER (WHERE status = 'pending') AS "waiting",
                        count(*) FILTER (WHERE status = 'restarting') AS "in back-off",
                        count(*) FILTER (WHERE failures_in_row >= 3) AS "failing"
                    {LIVING_AGENTS}"""),
            ],
            width=8,
            height=4,
            steps=(("green", None), ("orange", 1)),
        ),
        Panel(
            title="Views stopped",
            kind="stat",
            about="Logs whose views are not kept up to date, because the log broke its promise."
            " `muster doctor` says which, and why.",
            docs="operations.md#projection-stopped",
            queries=[
                query("""
                    SELECT count(*) FILTER (WHERE status <> 'ok') AS "stopped"
                    FROM muster.checkpoints""")
            ],
            width=4,
            height=4,
            steps=RED_FROM_ONE,
        ),
        Panel(
            title="Newest heartbeat",
            kind="stat",
            about="How old it is. While workers run it is a few seconds; older, and no projector is"
            " active: then all of this dashboard is as old as that.",
            docs="operations.md#projection-lag",
            queries=[
                query("""
                    SELECT round(extract(epoch FROM now()) - max(last_heartbeat) / 1000.0, 1)
                        AS "age" FROM muster.worker_live""")
            ],
            unit="s",
            width=4,
            height=4,
            steps=(("green", None), ("red", 60)),
        ),
        Panel(
            title="Waiting agents, and what for",
            kind="table",
            about="At max_workers: raise it, or end agents. A worker that is starting for long dies"
            " at its start. Ready, and not claimed: a cap holds it back, or no supervisor"
            " runs. `muster explain AGENT` has the story of one.",
            docs="operations.md#pending-too-long",
            queries=[
                query(f"""
                    SELECT agent.pool_name AS "pool", agent.project_id AS "project",
                        CASE WHEN agent.state_lost THEN 'its saved state is lost'
                            WHEN agent.alone THEN 'a worker of its own'
                            WHEN capacity.available_capacity > 0 THEN 'being claimed, or a cap'
                            WHEN capacity.process_count + capacity.ordered_worker_processes
                                >= (pool.config::json ->> 'max_workers')::integer
                                THEN 'a slot: the pool is at max_workers'
                            WHEN capacity.ordered_worker_processes > 0
                                THEN 'a worker that is starting'
                            ELSE 'a worker' END AS "waits for",
                        agent.reason AS "queued again because", count(*) AS "agents",
                        {at("min(agent.changed_at)")} AS "since"
                    FROM muster.agents AS agent
                    JOIN muster.pools AS pool ON pool.pool_name = agent.pool_name
                    JOIN muster.pool_capacity AS capacity ON capacity.pool_name = agent.pool_name
                    WHERE agent.status = 'pending' AND agent.pool_name IN ($pool)
                        AND agent.project_id IN ($project)
                    GROUP BY 1, 2, 3, 4 ORDER BY "agents" DESC LIMIT {ROWS_MAX}""")
            ],
            width=12,
        ),
        Panel(
            title="Agents that fail",
            kind="table",
            about="Those that have failed since they last ran well, and those that have failed for"
            " good within the time that is shown, with their last errors. `muster ps AGENT` has"
            " the traceback.",
            docs="operations.md#restarting-agents",
            queries=[
                query(f"""
                    SELECT {at("changed_at")} AS "at", agent_id AS "agent", pool_name AS "pool",
                        project_id AS "project", status AS "status", failures_in_row AS "in a row",
                        {json_of("last_error")} ->> 'type' AS "error",
                        {json_of("last_error")} ->> 'message' AS "message",
                        {at("due_at")} AS "next try"
                    FROM muster.agents
                    WHERE pool_name IN ($pool) AND project_id IN ($project)
                        AND status IN {FAILING}
                        AND last_error <> '' AND (status <> 'failed' AND failures_in_row > 0
                            OR status = 'failed' AND {between("ended_at")})
                    ORDER BY changed_at DESC LIMIT {ROWS_MAX}""")
            ],
            width=12,
        ),
    ],
)
