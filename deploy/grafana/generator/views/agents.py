"""Agents and their failures, from the views."""

from typing import Final

from deploy.grafana.generator.dashboard import Row
from deploy.grafana.generator.panels import Panel
from deploy.grafana.generator.sql import (
    LIVING_AGENTS,
    ROWS_MAX,
    at,
    between,
    bucket,
    json_of,
    levels,
    query,
)

STATES: Final = ", ".join(
    f"count(*) FILTER (WHERE status = '{status}') AS \"{shown}\""
    for status, shown in (
        ("running", "running"), ("pending", "waiting"), ("starting", "starting"),
        ("restarting", "in back-off"), ("stopping", "stopping"),
    )
)  # fmt: skip


FAILURES: Final = f"""
    FROM muster.events AS event
    JOIN muster.agents AS agent ON agent.agent_id = event.subject AND agent.pool_name = event.pool
    WHERE event.type IN ('agent.start_failed', 'agent.crashed', 'agent.unhealthy', 'agent.failed')
        AND {between("event.ts")} AND event.pool IN ($pool) AND agent.project_id IN ($project)"""


ERROR: Final = f"{json_of('event.data')} -> 'error'"


AGENTS: Final = Row(
    "Agents",
    [
        Panel(
            title="By pool and state",
            kind="table",
            about="Agents that have not ended.",
            docs="architecture.md#an-agent",
            queries=[
                query(f"""
                    SELECT pool_name AS "pool", {STATES} {LIVING_AGENTS}
                    GROUP BY 1 ORDER BY 1""")
            ],
        ),
        Panel(
            title="By project and state",
            kind="table",
            about="Agents that have not ended. `project_caps` of a pool bound the share of one"
            " project.",
            docs="scaling.md#placement",
            queries=[
                query(f"""
                    SELECT project_id AS "project", {STATES} {LIVING_AGENTS}
                    GROUP BY 1 ORDER BY "running" DESC LIMIT {ROWS_MAX}""")
            ],
        ),
        Panel(
            title="Agents over time",
            about="Agents that have not ended, by pool.",
            docs="usage.md#charts",
            queries=[levels('pool.pool_name AS "metric", had.agents AS "agents"')],
            stacked=True,
        ),
    ],
)


FAILED: Final = Row(
    "Failures",
    [
        Panel(
            title="Failures over time",
            about="Failed starts, crashes, failed checks, and agents that failed for good.",
            docs="operations.md#failure-rate",
            queries=[
                query(f"""
                    SELECT {bucket("event.ts")} AS "time",
                        replace(event.type, 'agent.', '') AS "metric", count(*) AS "failures"
                    {FAILURES} GROUP BY 1, 2 ORDER BY 1""")
            ],
            stacked=True,
            bars=True,
        ),
        Panel(
            title="Errors, the most frequent first",
            kind="table",
            about="One error of many agents points at what they share: a service, a credential, new"
            " code. An agent that raises `Unavailable` is tried again without counting.",
            docs="writing-agents.md#when-something-else-is-unavailable",
            queries=[
                query(f"""
                    SELECT event.pool AS "pool", {ERROR} ->> 'type' AS "error",
                        left({ERROR} ->> 'message', 80) AS "message", count(*) AS "times",
                        count(DISTINCT event.subject) AS "agents", {at("max(event.ts)")} AS "last"
                    {FAILURES} AND event.type <> 'agent.failed'
                    GROUP BY 1, 2, 3 ORDER BY "times" DESC LIMIT {ROWS_MAX}""")
            ],
            width=16,
        ),
        Panel(
            title="The newest failures",
            kind="table",
            about="`muster explain AGENT` has all of one agent, `muster logs AGENT` what it"
            " printed.",
            docs="explain.md#an-agent-that-fails",
            queries=[
                query(f"""
                    SELECT {at("event.ts")} AS "at", event.pool AS "pool",
                        agent.project_id AS "project", agent.role_type AS "role",
                        event.subject AS "agent", event.incarnation AS "incarnation",
                        replace(event.type, 'agent.', '') AS "what", {ERROR} ->> 'type' AS "error",
                        {ERROR} ->> 'message' AS "message"
                    {FAILURES} ORDER BY event.ts DESC LIMIT {ROWS_MAX}""")
            ],
            width=24,
        ),
    ],
)
