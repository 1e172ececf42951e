"""Panels, and how Grafana writes them (schema 39, Grafana 11 and later)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["timeseries", "stat", "table", "heatmap"]

DOCS: Final = "${docs}"
"""A variable of each dashboard: the address of the folder docs/."""
SQL_POINTS_MAX: Final = 300
"""Of a chart from SQL: each point is a few reads of an index for each pool."""
RED_FROM_ONE: Final = (("green", None), ("red", 1))
RED_BUT_ONE: Final = (("red", None), ("green", 1), ("red", 2))
NEUTRAL: Final = (("text", None),)


class Query(Struct, frozen=True):
    """A query, and how what it finds is named.

    `legend`: a template over the labels, of PromQL only: SQL names its columns and `metric`.
    """

    text: str
    legend: str = ""


class Panel(Struct, frozen=True, kw_only=True):
    """One panel. Widths are of 24, heights in units of about 30 pixels."""

    title: str
    kind: Kind = "timeseries"
    about: str
    """What it shows, and what to do."""
    docs: str
    """Where more of it is: `page.md#anchor`."""
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False
    bars: bool = False
    top: float | None = None
    """The upper end of the axis."""
    decimals: int | None = None
    steps: Sequence[tuple[str, float | None]] = NEUTRAL
    """Colours, each from a value on."""
    words: Mapping[str, tuple[str, str]] = {}
    """Values that are shown as a word, and its colour."""
    columns: Mapping[str, str] = {}
    """Of a table from PromQL: the fields that are shown, in order, and their titles."""
    units: Mapping[str, str] = {}
    """Of a table: of columns that have another unit, by title."""
    widths: Mapping[str, int] = {}
    """Of a table: of columns with a fixed width in pixels, by title."""


def panel_json(panel: Panel, number: int, place: Json, source: Json) -> Json:
    """As Grafana stores it."""
    options = _OPTIONS[panel.kind]
    if panel.kind == "heatmap":
        options = {**options, "yAxis": {"axisPlacement": "left", "unit": panel.unit}}
    found = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "links": [
            {"title": f"docs/{panel.docs}", "url": f"{DOCS}/{panel.docs}", "targetBlank": True}
        ],
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": options,
        "transformations": _transformations(panel),
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, **_target(panel, query, source)}
            for number, query in enumerate(panel.queries)
        ],
    }
    if source["type"] != "prometheus":
        found |= {"interval": "1m", "maxDataPoints": SQL_POINTS_MAX}
    return found


def _target(panel: Panel, query: Query, source: Json) -> Json:
    series = panel.kind in ("timeseries", "heatmap")
    if source["type"] != "prometheus":
        form = "time_series" if series else "table"
        return {"rawSql": query.text, "rawQuery": True, "editorMode": "code", "format": form}
    form = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    return {
        "expr": query.text,
        "legendFormat": query.legend,
        "editorMode": "code",
        "format": form,
        "range": series,
        "instant": not series,
    }


def _defaults(panel: Panel) -> Json:
    steps = [{"color": color, "value": value} for color, value in panel.steps]
    mapping = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(panel.words.items())
    }
    found: Json = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [{"type": "value", "options": mapping}] if mapping else [],
        "custom": _custom(panel),
    }
    if panel.kind == "timeseries":
        found["min"] = 0
    if panel.top is not None:
        found["max"] = panel.top
    if panel.decimals is not None:
        found["decimals"] = panel.decimals
    return found


def _custom(panel: Panel) -> Json:
    match panel.kind:
        case "timeseries":
            return {
                "drawStyle": "bars" if panel.bars else "line",
                "lineWidth": 1,
                "fillOpacity": 60 if panel.bars or panel.stacked else 10,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            }
        case "table":
            return {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}
        case _:
            return {}


def _overrides(panel: Panel) -> list[Json]:
    properties: dict[str, list[Json]] = {
        name: [{"id": "unit", "value": unit}] for name, unit in panel.units.items()
    }
    for name, width in panel.widths.items():
        properties.setdefault(name, []).append({"id": "custom.width", "value": width})
    return [
        {"matcher": {"id": "byName", "options": name}, "properties": found}
        for name, found in properties.items()
    ]


def _transformations(panel: Panel) -> list[Json]:
    """A table from PromQL: its queries side by side, and of what they find the named columns."""
    if not panel.columns:
        return []
    organize: Json = {
        "renameByName": dict(panel.columns),
        "indexByName": {name: index for index, name in enumerate(panel.columns)},
    }
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": [*panel.columns]}}},
        {"id": "organize", "options": organize},
    ]


_OPTIONS: Final[Mapping[Kind, Json]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "calcs": [], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value_and_name",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": {"cellHeight": "sm", "showHeader": True, "footer": {"show": False}},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": True},
    },
}
