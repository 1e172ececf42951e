"""A dashboard: its variables, and its panels in rows from left to right."""

import json
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

from deploy.grafana.generator.panels import Json, Panel, panel_json

COLUMNS: Final = 24
SCHEMA: Final = 39
DOCS_AT: Final = "/public/muster"
"""Where Grafana has the folder docs/ in compose.yaml."""


class Variable(Struct, frozen=True):
    """One that is read from the source of the dashboard; several values of it can be chosen."""

    name: str
    label: str
    query: str


class Row(Struct, frozen=True):
    """Panels under a title."""

    title: str
    panels: Sequence[Panel]


class Dashboard(Struct, frozen=True, kw_only=True):
    """One dashboard. `uid` is also the name of its file."""

    uid: str
    title: str
    about: str
    source: Literal["prometheus", "grafana-postgresql-datasource"]
    source_uid: str
    """Of the provisioned source, which is chosen where there are several."""
    variables: Sequence[Variable]
    rows: Sequence[Row]
    since: str = "now-3h"
    refresh: str = "30s"
    marks: Json = {}
    """An annotation: what happened, as lines in all panels."""
    other: tuple[str, str]
    """Title and uid of the other dashboard."""


def text_of(dashboard: Dashboard) -> str:
    """Its JSON, as it is in the repository."""
    return json.dumps(dashboard_json(dashboard), indent=2, ensure_ascii=False) + "\n"


def dashboard_json(dashboard: Dashboard) -> Json:
    """As Grafana stores it."""
    source = {"type": dashboard.source, "uid": "${datasource}"}
    other, uid = dashboard.other
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["muster"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA,
        "version": 1,
        "refresh": dashboard.refresh,
        "time": {"from": dashboard.since, "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "links": [
            {
                "title": other,
                "type": "link",
                "url": f"/d/{uid}",
                "icon": "dashboard",
                "keepTime": True,
                "includeVars": False,
                "targetBlank": False,
            }
        ],
        "annotations": {"list": [{**dashboard.marks, "datasource": source, "enable": True}]},
        "templating": {"list": [*_variables(dashboard, source)]},
        "panels": [*_panels(dashboard.rows, source)],
    }


def _variables(dashboard: Dashboard, source: Json) -> Iterator[Json]:
    yield {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": dashboard.source,
        "regex": "",
        "current": {"text": dashboard.source_uid, "value": dashboard.source_uid},
        "hide": 0,
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    for variable in dashboard.variables:
        query: object = variable.query
        if dashboard.source == "prometheus":
            query = {"qryType": 5, "query": variable.query, "refId": variable.name}
        yield {
            "type": "query",
            "name": variable.name,
            "label": variable.label,
            "datasource": source,
            "definition": variable.query,
            "query": query,
            "regex": "",
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "options": [],
        }
    yield {
        "type": "constant",
        "name": "docs",
        "label": "The address of docs/",
        "query": DOCS_AT,
        "current": {"text": DOCS_AT, "value": DOCS_AT},
        "hide": 2,
    }


def _panels(rows: Sequence[Row], source: Json) -> Iterator[Json]:
    number, y = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield panel_json(panel, number, place, source)
            x, height = x + panel.width, max(height, panel.height)
        y += height
