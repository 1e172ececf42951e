"""The alerts for Prometheus: its own tests of them, and that they are about what there is."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstore.metrics.exposition import expose
from eventstore.metrics.families import FAMILIES
from tests.metrics import complaints
from tests.process import system_tool
from tests.unit.eventstore.test_metrics import everything
from tests.unit.source.pages import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RULES, TESTS = FOLDER / "muster.rules.yml", FOLDER / "muster.rules.test.yml"
[GROUP] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = GROUP["rules"]


def promtool(*arguments: str | Path) -> str:
    """What it says, which is an error if it fails."""
    command = [system_tool("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_passes_the_check() -> None:
    assert complaints(expose(everything()).decode()) == ""


def test_the_check_finds_what_is_wrong() -> None:
    assert "no help text" in complaints("# TYPE muster_x counter\nmuster_x 1\n")


def test_each_alert_fires_names_its_subject_and_ends() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_the_configuration_of_compose_is_one() -> None:
    """Its files are in containers only."""
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")


def test_a_rule_that_never_fires_fails_the_tests(tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("muster_parked) > 0", "up) > 9"))
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    with pytest.raises(AssertionError, match="MusterAgentsParked"):
        promtool("test", "rules", tmp_path / TESTS.name)


def test_each_alert_is_tested_to_fire_and_to_be_silent() -> None:
    tested: dict[str, set[bool]] = {}
    for story in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in story["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    assert tested == {alert["alert"]: {True, False} for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_is_about_metrics_and_labels_that_there_are(alert: dict[str, Any]) -> None:
    for name, labels in re.findall(r"(muster_\w+)(\{[^}]*\})?", alert["expr"]):
        family = FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert set(re.findall(r"(\w+)=", labels)) <= {*family.labels, "le"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_leads_to_a_page_that_there_is(alert: dict[str, Any]) -> None:
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}
    assert not anchor or anchor in anchors
