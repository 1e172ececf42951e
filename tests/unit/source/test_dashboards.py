"""The dashboards for Grafana are what their generator writes, and each panel can be understood."""

import re
from functools import cache
from typing import Any

import pytest

from deploy.grafana.generator.__main__ import DASHBOARDS, file_of
from deploy.grafana.generator.dashboard import DOCS_AT, text_of
from eventstore.metrics.families import FAMILIES
from projector.store.tables import METADATA, SQL_VIEWS
from tests.dashboards import PROMETHEUS, VIEWS, panels, queries
from tests.unit.source.pages import ROOT

BOTH = [PROMETHEUS, VIEWS]
PANELS = [panel for dashboard in BOTH for panel in panels(dashboard)]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one.uid))
def test_a_dashboard_is_what_is_generated(dashboard: Any) -> None:
    """Else: `python -m deploy.grafana.generator`."""
    assert file_of(dashboard).read_text() == text_of(dashboard)


def test_a_panel_says_what_to_do_and_leads_to_a_page_that_there_is() -> None:
    for panel in PANELS:
        title, [link] = panel["title"], panel["links"]
        assert len(panel["description"]) > 10, title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        page, _, anchor = link["title"].partition("#")
        assert link["url"] == link["title"].replace("docs/", "${docs}/", 1)
        assert not anchor or anchor in anchors_of(page), title


@cache
def anchors_of(page: str) -> set[str]:
    """Of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}


def test_what_a_query_finds_has_a_name() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            if "expr" in target:
                assert target["legendFormat"], panel["title"]
            else:
                has_time = 'AS "time"' in target["rawSql"]
                assert has_time == (target["format"] == "time_series"), panel["title"]


def test_columns_with_a_unit_are_columns_that_there_are() -> None:
    for panel in PANELS:
        shown = re.findall(r'AS "([^"]+)"', panel["targets"][0].get("rawSql", ""))
        for transformation in panel["transformations"]:
            shown += transformation["options"].get("renameByName", {}).values()
        named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert named <= {*shown}, panel["title"]


@pytest.mark.parametrize("dashboard", BOTH, ids=lambda one: str(one["uid"]))
def test_panels_have_numbers_and_places_of_their_own(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert sorted(set(numbers)) == numbers
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_queries_are_about_metrics_and_labels_that_there_are() -> None:
    for asked in queries(PROMETHEUS):
        for name, labels in re.findall(r"(muster_\w+)(\{[^}]*\})?", asked.text):
            family = FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
            wanted = set(re.findall(r"(\w+)=~?\"", labels)) - {"job"}
            assert wanted <= {*family.labels, "le"}, asked


def test_queries_are_about_tables_that_there_are() -> None:
    tables = {*METADATA.tables, *SQL_VIEWS}
    for asked in queries(VIEWS):
        assert {*re.findall(r"muster\.(\w+)", asked.text)} <= tables, asked


@pytest.mark.parametrize("dashboard", BOTH, ids=lambda one: str(one["uid"]))
def test_all_that_is_shown_comes_from_the_chosen_source(dashboard: dict[str, Any]) -> None:
    listed = dashboard["templating"]["list"]
    [source] = [one for one in listed if one["type"] == "datasource"]
    wanted = {"type": source["query"], "uid": "${datasource}"}
    parts = [*panels(dashboard), *dashboard["annotations"]["list"]]
    parts += [target for panel in panels(dashboard) for target in panel["targets"]]
    parts += [one for one in listed if one["type"] == "query"]
    assert all(part["datasource"] == wanted for part in parts)
    assert next(one["query"] for one in listed if one["name"] == "docs") == DOCS_AT
