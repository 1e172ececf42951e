"""compose.yaml: what Prometheus scrapes and Grafana reads are services that run there."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.__main__ import main
from tests.dashboards import PROMETHEUS, VIEWS
from tests.unit.source.pages import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JOBS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
PROVISIONING = ROOT / "deploy/grafana/provisioning"
SOURCES = yaml.safe_load((PROVISIONING / "datasources/muster.yml").read_text())["datasources"]


def option(service: str, flag: str) -> str:
    """Its value in the command of a service."""
    command = SERVICES[service]["command"]
    return str(command[command.index(flag) + 1])


def test_only_what_is_published_on_loopback_can_be_reached_from_outside() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_of_others_are_of_one_version_and_report_their_health() -> None:
    for name, one in SERVICES.items():
        if "build" not in one:
            assert re.search(r":v?\d+\.?\d*", one["image"]), name
            assert one["healthcheck"]["test"], name


def test_what_is_mounted_from_here_is_here() -> None:
    mounts = [mount for one in SERVICES.values() for mount in one.get("volumes", [])]
    here = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(here) == 6
    assert all((ROOT / path).exists() for path in here)


@pytest.mark.parametrize("role", ["gateway", "supervisor", "projector"])
def test_a_role_has_the_flags_that_it_is_given(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = SERVICES[role]["command"]
    with pytest.raises(SystemExit):
        main([command[1], "--help"])
    assert {word for word in command if word.startswith("--")} <= set(
        re.findall(r"--[a-z-]+", capsys.readouterr().out)
    )


def test_every_role_is_scraped_where_it_answers() -> None:
    scraped = {}
    for job in JOBS:
        for static in job.get("static_configs", []):
            [target] = static["targets"]
            host, _, port = target.partition(":")
            scraped[host] = int(port)
            assert option(host, "--allowed-hosts") == host
        for names in job.get("dns_sd_configs", []):
            [host] = names["names"]
            scraped[host] = names["port"]
            assert option(host, "--metrics-port") == str(names["port"])
            assert option(host, "--metrics-host") == "0.0.0.0"
    assert scraped == {"gateway": 8000, "supervisor": 9400, "projector": 9400}


def test_only_the_gateway_is_sent_the_token() -> None:
    [job] = [job for job in JOBS if "authorization" in job]
    assert job["job_name"] == "muster-gateway"
    [config] = SERVICES["prometheus"]["configs"]
    assert job["authorization"] == {"credentials_file": config["target"]}
    assert COMPOSE["configs"][config["source"]]["content"].endswith(":-$MUSTER_API_TOKEN}")


def test_the_sources_of_both_dashboards_are_provisioned() -> None:
    current = {
        (one["query"], one["current"]["value"])
        for dashboard in (PROMETHEUS, VIEWS)
        for one in dashboard["templating"]["list"]
        if one["type"] == "datasource"
    }
    assert current == {(source["type"], source["uid"]) for source in SOURCES}
    hosts = {source["url"].removeprefix("http://").partition(":")[0] for source in SOURCES}
    assert hosts <= {*SERVICES}
    [reader] = [source["user"] for source in SOURCES if "user" in source]
    assert f"CREATE ROLE {reader} LOGIN" in (ROOT / "deploy/databases.sh").read_text()
    for source in SOURCES:
        for password in source.get("secureJsonData", {}).values():
            assert password.removeprefix("$") in SERVICES["grafana"]["environment"]


def test_the_dashboards_are_where_grafana_looks_for_them() -> None:
    [provider] = yaml.safe_load((PROVISIONING / "dashboards/muster.yml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    folders = {inside: ROOT / outside for outside, inside in mounts.items()}
    found = {path.stem for path in folders[provider["options"]["path"]].glob("*.json")}
    assert found == {PROMETHEUS["uid"], VIEWS["uid"]}
    assert (folders["/usr/share/grafana/public/muster"] / "operations.md").exists()


@pytest.mark.parametrize("password", ["", "secret"])
def test_grafana_does_not_start_without_a_password(password: str, tmp_path: Path) -> None:
    [secret] = SERVICES["grafana"]["secrets"]
    file = f"/run/secrets/{secret}"
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == file
    assert COMPOSE["secrets"][secret] == {"environment": "GRAFANA_PASSWORD"}
    (tmp_path / "password").write_text(password)
    *shell, script = SERVICES["grafana"]["entrypoint"]
    script = script.replace(file, str(tmp_path / "password")).replace("/run.sh", "true")
    done = subprocess.run([*shell, script], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == bool(password)
    assert ("GRAFANA_PASSWORD" in done.stderr) == (not password)


def test_monitoring_is_off_unless_it_is_asked_for() -> None:
    optional = {name for name, one in SERVICES.items() if one.get("profiles") == ["monitoring"]}
    assert optional == {"prometheus", "grafana"}
    for name in {*SERVICES} - optional:
        assert "profiles" not in SERVICES[name]
        assert not optional & {*SERVICES[name].get("depends_on", {})}
