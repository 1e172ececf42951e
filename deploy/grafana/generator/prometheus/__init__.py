"""The dashboard from Prometheus: what is wrong first, then the pools, then the parts."""

from typing import Final

from deploy.grafana.generator.dashboard import Dashboard, Variable
from deploy.grafana.generator.prometheus.latency import LATENCY
from deploy.grafana.generator.prometheus.overview import FIRING, WRONG
from deploy.grafana.generator.prometheus.pools import POOLS
from deploy.grafana.generator.prometheus.roles import GATEWAYS, PROCESSES, REDIS
from deploy.grafana.generator.prometheus.workers import WORKERS

DASHBOARD: Final = Dashboard(
    uid="muster-prometheus",
    title="Muster",
    about="What Muster reports to Prometheus. Each figure is reported once, so sums are right.",
    source="prometheus",
    source_uid="muster-prometheus-source",
    variables=[
        Variable("job", "Job", "label_values(muster_loop_lag_seconds_count, job)"),
        Variable("pool", "Pool", "label_values(muster_autoscaler_current_workers, pool)"),
    ],
    rows=[WRONG, POOLS, LATENCY, WORKERS, REDIS, GATEWAYS, PROCESSES],
    marks={
        "name": "Alerts",
        "iconColor": "red",
        "expr": FIRING,
        "titleFormat": "{{alertname}}",
        "textFormat": "{{pool}}{{instance}}",
        "step": "60s",
        "useValueForTime": False,
    },
    other=("From the views", "muster-views"),
)
