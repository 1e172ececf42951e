"""Write both dashboards next to this package."""

from pathlib import Path
from typing import Final

from deploy.grafana.generator import prometheus, views
from deploy.grafana.generator.dashboard import Dashboard, text_of

FOLDER: Final = Path(__file__).parents[1]
DASHBOARDS: Final = (prometheus.DASHBOARD, views.DASHBOARD)


def file_of(dashboard: Dashboard) -> Path:
    """Where its JSON is."""
    return FOLDER / f"{dashboard.uid}.json"


if __name__ == "__main__":
    for one in DASHBOARDS:
        file_of(one).write_text(text_of(one), encoding="utf-8")
