"""Settings: where they come from, and which one wins."""

import re
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from eventstore.language.scale_policy import PRESETS
from eventstore.retention import Retention
from gateway.server.listener import Gateway
from muster.__main__ import main
from muster.cli.main import command_line
from muster.process.roles import Owner, build
from muster.settings.environment import to_environment
from muster.settings.loading import load
from muster.settings.settings import Settings
from projector.service.projector import Projector
from tests.unit.muster.config_files import write
from workers.output.log_files import LogLimits
from workers.supervisor.supervisor import Supervisor

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_without_anything_four_pools_exist_with_a_built_in_agent() -> None:
    settings = load({}, {})
    assert sorted(settings.pools) == [
        "business_analyst_pool",
        "developer_pool",
        "team_leader_pool",
        "tester_pool",
    ]
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 8000, "")


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "port = 1\nlog_level = 'debug'\nkey_prefix = 'f:'")
    settings = load({"config": path, "port": 3}, {"MUSTER_PORT": "2", "MUSTER_LOG_LEVEL": "error"})
    assert (settings.port, settings.log_level, settings.key_prefix) == (3, "error", "f:")
    assert settings.sources["port"] == "--port"
    assert settings.sources["log_level"] == "MUSTER_LOG_LEVEL"
    assert "muster.toml" in settings.sources["key_prefix"]


def test_a_file_declares_roles_and_pools_and_its_folder_is_where_classes_are(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        "[roles.coder]\nagent = 'acme:Coder'\n"
        "[pools.coders]\nrole = 'coder'\nmax_workers = 3\nempty_worker_seconds = 5",
    )
    settings = load({"config": path}, {})
    assert settings.roles == {"coder": "acme:Coder"}
    config = settings.pools["coders"].config()
    assert (config.max_workers, config.empty_worker_seconds) == (3, 5.0)
    assert settings.app_dir == tmp_path


def test_the_shadow_policies_of_a_pool_are_read_from_files_next_to_its_own(tmp_path: Path) -> None:
    (tmp_path / "calm.toml").write_text("preset = 'proactive'")
    declared = "[roles.coder]\nagent = 'acme:Coder'\n[pools.coders]\nrole = 'coder'\n"
    path = write(tmp_path, f"{declared}shadow = ['calm.toml']")
    config = load({"config": path}, {}).pools["coders"].config()
    assert config.shadow == {"calm": {"preset": "proactive"}}
    assert config.shadow_policies["calm"] == PRESETS["proactive"]
    for wrong, why in (
        ("['calm.toml', 'x/calm.toml']", "two policies are named calm"),
        ("['none.toml']", "none.toml: No such file or directory"),
        ("[3]", "shadow: expected names of files, got 3"),
        ("3", "shadow: Expected `object | null`, got `int`"),
        ("{ calm = { presett = 'reactive' } }", "shadow calm: Object contains unknown field"),
    ):
        path = write(tmp_path, f"{declared}shadow = {wrong}")
        with pytest.raises(ConfigurationError, match=re.escape(why)) as caught:
            load({"config": path}, {})
        assert "[pools.coders]" in str(caught.value)


def test_a_role_may_have_defaults_of_its_pools_agents(tmp_path: Path) -> None:
    """A pool counts before its role; labels are added up."""
    path = write(
        tmp_path,
        "[roles.coder]\nagent = 'acme:Coder'\nmax_idle_time = 'never'\nheartbeat_interval = 20\n"
        "labels = { team = 'core', tier = 'a' }\n"
        "[pools.usual]\nrole = 'coder'\n"
        "[pools.own]\nrole = 'coder'\nmax_idle_time = 90\nlabels = { tier = 'b' }",
    )
    settings = load({"config": path}, {})
    usual, own = (settings.pools[name].config() for name in ("usual", "own"))
    assert (usual.max_idle_time, usual.heartbeat_interval) == (0.0, 20.0)
    assert (own.max_idle_time, own.heartbeat_interval) == (90.0, 20.0)
    assert (usual.labels, own.labels) == (
        {"team": "core", "tier": "a"},
        {"team": "core", "tier": "b"},
    )
    assert settings.role_defaults["coder"]["max_idle_time"] == "never"


def test_a_role_may_be_imported_after_the_fork(tmp_path: Path) -> None:
    file = tmp_path / "muster.toml"
    file.write_text("[roles.a]\nagent='m:A'\npreload=false\n[roles.b]\nagent='m:B'\n")
    settings = load({"config": file}, {})
    assert settings.deferred_roles == ("a",)
    assert settings.roles == {"a": "m:A", "b": "m:B"}


def test_retention_times_are_passed_in_milliseconds(tmp_path: Path) -> None:
    assert load({}, {}).retention == Retention()
    path = write(tmp_path, "retention_age_seconds = 60\nretention_ended_seconds = 1.5")
    settings = load(
        {"config": path, "retention_events": "500"}, {"MUSTER_RETENTION_KEYS_SECONDS": "90"}
    )
    assert settings.retention == Retention(
        age_ms=60_000, events=500, ended_ms=1_500, keys_ms=90_000
    )
    again = load({}, to_environment(settings))
    assert again.retention == settings.retention


def test_every_role_gets_the_retention_settings(tmp_path: Path) -> None:
    """Who ends an agent, who trims, and who warns."""
    environment = {"MUSTER_RETENTION_EVENTS": "7", "MUSTER_RETENTION_LOGS_DAYS": "2"}
    settings = load({"redis_url": "redis://x", "data_dir": tmp_path}, environment)
    gateway, projector, supervisor = (
        build(role, settings, Owner()) for role in ("gateway", "projector", "supervisor")
    )
    assert isinstance(gateway, Gateway)
    assert isinstance(projector, Projector)
    assert isinstance(supervisor, Supervisor)
    options = (gateway._options, projector.options, supervisor._options)
    assert [one.retention.events for one in options] == [7, 7, 7]
    assert supervisor._options.log_limits == LogLimits(age_seconds=2 * 86_400.0)


def test_without_a_database_the_views_are_in_a_file() -> None:
    assert Settings().views_url.startswith("sqlite:///")


def test_every_flag_of_a_role_can_be_set_in_the_environment_and_the_file() -> None:
    """As `muster --help` promises of them, and of no other command."""
    for role in ("up", "gateway", "projector", "supervisor"):
        flags = set(vars(command_line().parse_args([role]))) - {"command", "run", "parser"}
        assert flags <= set(Settings.__struct_fields__), role
    assert "Every flag" not in command_line().format_help()


def test_the_help_explains_a_start_without_redis(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "is unreachable at the start: none (default) waits for it, single-process" in said
