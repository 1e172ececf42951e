"""The environment: which variables Muster knows, and what each role's process inherits."""

import re
from pathlib import Path

import pytest

import muster as package
from eventstore.errors import ConfigurationError
from muster.__main__ import main
from muster.settings.environment import (
    CREDENTIALS,
    INTERNAL,
    role_environment,
    to_environment,
    unknown_variables,
)
from muster.settings.loading import load
from tests.unit.muster.config_files import write

ROOT = Path(package.__file__).parents[1]
VIEWS, OWN, POOLED = "postgresql://views@h/muster", "postgresql://acme@h/acme", "postgresql://a@b/c"
SERVICE = {
    "MUSTER_SERVICE_HOST": "10.0.0.1",
    "MUSTER_SERVICE_PORT_HTTP": "8000",
    "MUSTER_PORT_8000_TCP_ADDR": "10.0.0.1",
    "MUSTER_REDIS_PORT": "tcp://10.0.0.2:6379",
}
"""What Kubernetes sets for two Services, `muster` and `muster-redis`."""


pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_variable_that_is_no_setting_is_named_with_the_one_that_was_meant() -> None:
    outer = {
        "MUSTER_DATABSE_URL": "x",
        "MUSTER_QQQ": "x",
        "MUSTER_PORT": "1",
        "MUSTER_URL": "x",
        "muster_prot": "x",
        "OTHER": "x",
        **SERVICE,
    }
    assert unknown_variables(outer) == [
        "`MUSTER_DATABSE_URL` is no setting and has no effect; did you mean `MUSTER_DATABASE_URL`?",
        "`MUSTER_QQQ` is no setting and has no effect",
    ]


def test_what_muster_sets_itself_is_known() -> None:
    """For its processes, and for the programs of agents, which may start another Muster."""
    outer = {"MUSTER_PORT": "9", "PATH": "/bin"}
    for role in CREDENTIALS:
        assert unknown_variables(role_environment(role, load({}, outer), outer)) == []
    found = {
        name
        for room in ("muster", "workers", "projector", "gateway", "eventstore")
        for path in (ROOT / room).rglob("*.py")
        for name in re.findall(r'"(MUSTER_[A-Z_]+)"', path.read_text())
    }
    assert found >= INTERNAL
    assert unknown_variables(dict.fromkeys(found, "")) == []


@pytest.mark.parametrize("words", [["up", "--host", "["], ["run", "nothing"]], ids=" ".join)
def test_it_is_named_before_the_command_fails_for_want_of_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSTER_REDS_URL", "redis://x")
    assert main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        f"muster {words[0]}: `MUSTER_REDS_URL` is no setting and has no effect;"
        " did you mean `MUSTER_REDIS_URL`?"
    )
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("variable", "other"), [("MUSTER_PORT", {}), ("REDIS_PORT", {"REDIS_HOST": "redis"})]
)
def test_the_address_of_a_service_is_explained(variable: str, other: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{variable}: .* enableServiceLinks: false"):
        load({}, {variable: "tcp://10.0.0.1:8000", **other})


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"REDIS_URL": "redis://a"}, "redis://a"),
        ({"MUSTER_REDIS_URL": "redis://b", "REDIS_URL": "redis://a"}, "redis://b"),
        ({"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"REDIS_URL": "valkeys://v:1"}, "rediss://v:1"),
        (
            {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_DB": "2", "REDIS_PASSWORD": "p/w"},
            "redis://:p%2Fw@h:1/2",
        ),
        ({"REDIS_HOST": "h", "REDIS_PORT": "", "REDIS_DB": ""}, "redis://h:6379/0"),
        ({"MUSTER_EMBEDDED": "1", "REDIS_URL": "redis://a"}, ""),
        ({"MUSTER_EMBEDDED": "1", "REDIS_HOST": "h", "REDIS_PORT": "tcp://h:1"}, ""),
    ],
)
def test_the_address_of_redis(environment: dict[str, str], url: str) -> None:
    assert load({}, environment).redis_url == url


@pytest.mark.parametrize("ours", ["", "MUSTER_"])
def test_the_environment_beats_the_file_for_every_role(tmp_path: Path, ours: str) -> None:
    """So do commands, which read no file: they would use another Redis than `muster up`."""
    path = write(tmp_path, "redis_url = 'redis://file'\ndatabase_url = 'postgresql://file'")
    outside = {f"{ours}REDIS_URL": "redis://it", f"{ours}DATABASE_URL": "postgresql://it"}
    settings = load({"config": path}, outside)
    assert (settings.redis_url, settings.database_url) == ("redis://it", "postgresql://it")
    assert load({"config": path}, {}).redis_url == "redis://file"


def test_embedded_ignores_the_database_of_the_environment() -> None:
    settings = load({"embedded": True}, {"DATABASE_URL": "postgresql://x/d"})
    assert settings.database_url == ""
    assert settings.engine_url == "postgresql://x/d", "it is the agents'"


def test_a_child_gets_the_same_settings() -> None:
    settings = load({"port": 9, "redis_url": "redis://x", "single_process": True}, {})
    again = load({}, to_environment(settings))
    assert (again.port, again.redis_url, again.single_process) == (9, "redis://x", True)


def test_a_child_has_no_settings_that_its_parent_lacks(tmp_path: Path) -> None:
    """Whatever the environment and the file name, which the child reads too."""
    path = write(tmp_path, "key_prefix = 'f:'\nauto_recover = true\ndatabase_url = 'sqlite:///f'")
    flags = {"config": path, "key_prefix": "", "auto_recover": False, "database_url": ""}
    outside = {"MUSTER_KEY_PREFIX": "e:", "DATABASE_URL": "postgresql://e"}
    settings = load(flags, outside)
    again = load({}, {**outside, **to_environment(settings)})
    assert (again.key_prefix, again.auto_recover, again.database_url) == ("", False, "")


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "sqlite:///{folder}/agents.db"),
        ({"DATABASE_URL": OWN, "MUSTER_DATABASE_URL": VIEWS}, OWN),
        ({"DATABASE_URL": VIEWS}, "sqlite:///{folder}/agents.db"),
        ({"DATABASE_URL": f"{VIEWS}?sslmode=require", "MUSTER_DATABASE_URL": VIEWS},
         "sqlite:///{folder}/agents.db"),
        ({"DATABASE_URL": OWN, "MUSTER_EMBEDDED": "1"}, OWN),
        ({"DATABASE_URL": OWN, "MUSTER_DATABASE_URL": VIEWS, "PGBOUNCER_URL": POOLED}, POOLED),
        ({"PGBOUNCER_URL": POOLED, "MUSTER_AGENTS_DATABASE_URL": OWN}, OWN),
    ],
)  # fmt: skip
def test_agents_have_a_database_of_their_own(
    tmp_path: Path, environment: dict[str, str], url: str
) -> None:
    """Also as a supervisor that `muster up` starts sees it."""
    settings = load({"data_dir": tmp_path / "data"}, environment)
    expected = url.format(folder=tmp_path / "data")
    assert settings.engine_url == expected
    inner = load({}, role_environment("supervisor", settings, environment), "supervisor")
    assert inner.engine_url == expected


def test_each_role_gets_only_the_credentials_that_it_needs() -> None:
    """What is not Muster's stays, since agents inherit it."""
    outer = {"MUSTER_API_TOKEN": "t", "DATABASE_URL": VIEWS, "PGBOUNCER_URL": POOLED, "X": "x"}
    settings = load({"redis_url": "redis://r", "host": "0.0.0.0"}, outer)
    found = {role: role_environment(role, settings, outer) for role in CREDENTIALS}
    for role, environment in found.items():
        inner = load({}, environment, role)
        assert (inner.redis_url, environment["X"]) == ("redis://r", "x")
        text = " ".join(environment.values())
        assert ("MUSTER_API_TOKEN" in environment) is (role == "gateway")
        assert (VIEWS in text) is (role != "supervisor")
    assert load({}, found["gateway"], "gateway").api_token == "t"
    assert found["supervisor"]["PGBOUNCER_URL"] == POOLED
