"""The dashboard from the views: what Prometheus cannot have as labels: projects, agents, errors."""

from typing import Final

from deploy.grafana.generator.dashboard import Dashboard, Variable
from deploy.grafana.generator.sql import ROWS_MAX, between, query
from deploy.grafana.generator.views.agents import AGENTS, FAILED
from deploy.grafana.generator.views.overview import WRONG
from deploy.grafana.generator.views.pools import SLOTS, USAGE
from deploy.grafana.generator.views.workers import ALERTS, WORKERS

DASHBOARD: Final = Dashboard(
    uid="muster-views",
    title="Muster, from the views",
    about="Agents, errors, usage, workers and alerts, from the views and the archive in SQL.",
    source="grafana-postgresql-datasource",
    source_uid="muster-views-source",
    variables=[
        Variable("pool", "Pool", "SELECT pool_name FROM muster.pools WHERE NOT deleted ORDER BY 1"),
        Variable(
            "project",
            "Project",
            "SELECT DISTINCT project_id FROM muster.usage_accounts WHERE account <> 0 ORDER BY 1",
        ),
    ],
    rows=[WRONG, AGENTS, FAILED, SLOTS, USAGE, WORKERS, ALERTS],
    since="now-6h",
    refresh="1m",
    marks={
        "name": "Alerts",
        "iconColor": "red",
        "target": {
            "refId": "Alerts",
            "format": "table",
            "editorMode": "code",
            "rawQuery": True,
            "rawSql": query(f"""
                SELECT opened_at AS "time", nullif(closed_at, 0) AS "timeend",
                    subject || ': ' || message AS "text", name AS "tags"
                FROM muster.alerts WHERE {between("opened_at")}
                ORDER BY opened_at DESC LIMIT {ROWS_MAX}""").text,
        },
    },
    other=("From Prometheus", "muster-prometheus"),
)
