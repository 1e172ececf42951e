"""The dashboards for Grafana, read as Grafana reads them: their panels, queries and variables."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.unit.source.pages import ROOT, section

FOLDER = ROOT / "deploy" / "grafana"
PROMETHEUS, VIEWS = (
    json.loads((FOLDER / f"{name}.json").read_text())
    for name in ("muster-prometheus", "muster-views")
)


class Asked(NamedTuple):
    """A query, and where it is."""

    where: str
    text: str


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without the rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Mapping[str, Any]) -> Iterator[Asked]:
    """Those of all panels, and of what marks all of them."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            where = f"{panel['title']} {target['refId']}"
            yield Asked(where, target.get("expr") or target["rawSql"])
    for mark in dashboard["annotations"]["list"]:
        yield Asked(mark["name"], mark.get("expr") or mark["target"]["rawSql"])


def documented() -> Iterator[Asked]:
    """The queries for Grafana in the pages."""
    for page, heading in (("operations", "## The views in SQL"), ("usage", "## Charts")):
        text = section((ROOT / "docs" / f"{page}.md").read_text(), heading)
        for block in re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for statement in block.strip().split(";"):
                if statement.strip():
                    yield Asked(f"docs/{page}.md", statement)


def variables(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """By name, the queries of those that are read from the source."""
    found = [one for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return {one["name"]: one["definition"] for one in found}


def promql(text: str, chosen: Mapping[str, list[str]], interval: str) -> str:
    """With the values of variables as a regular expression, and with intervals.

    Grafana also escapes what has a meaning in these, which names of pools and jobs do not contain.
    """
    for name, values in chosen.items():
        text = text.replace(f"${name}", f"({'|'.join(values)})")
    return text.replace("$__rate_interval", interval).replace("$__range", interval)


def sql(text: str, chosen: Mapping[str, list[str]], span: timedelta) -> str:
    """With the values of variables quoted, and with macros as Grafana's PostgreSQL source has them.

    The time that is shown ends now.
    """
    until = datetime.now(UTC) + timedelta(seconds=1)
    since = until - span
    macros = {
        "$__unixEpochFrom()": f"{since.timestamp():.0f}",
        "$__unixEpochTo()": f"{until.timestamp():.0f}",
        "$__timeFrom()": f"'{since:%Y-%m-%dT%H:%M:%SZ}'",
        "$__timeTo()": f"'{until:%Y-%m-%dT%H:%M:%SZ}'",
        "$__interval_ms": "60000",
        "$__interval": "1m",
    }
    for name, values in chosen.items():
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in values)
        macros[f"${name}"] = quoted
    for name, value in macros.items():
        text = text.replace(name, value)
    return text


def left_over(text: str) -> list[str]:
    """Variables and macros that were not replaced."""
    return re.findall(r"\$\w+", text)
