"""Settings: where they come from, which one wins, and what is refused."""

import os
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from eventstore.retention import Retention
from gateway.server.listener import Gateway
from muster.__main__ import main
from muster.cli.main import command_line
from muster.process.roles import Owner, build
from muster.settings.environment import CREDENTIALS, role_environment, to_environment
from muster.settings.loading import load
from muster.settings.settings import Settings, parse
from projector.service.projector import Projector
from workers.output.log_files import LogLimits
from workers.supervisor.supervisor import Supervisor


def write(folder: Path, text: str) -> Path:
    path = folder / "muster.toml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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


def test_a_role_may_be_imported_after_the_fork(tmp_path: Path) -> None:
    file = tmp_path / "muster.toml"
    file.write_text("[roles.a]\nagent='m:A'\npreload=false\n[roles.b]\nagent='m:B'\n")
    settings = load({"config": file}, {})
    assert settings.deferred_roles == ("a",)
    assert settings.roles == {"a": "m:A", "b": "m:B"}


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


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "unknown key 'prot'"),
        ("port = 'x'", "port in .*expected a number"),
        ("port = 70000", "expected 0 to 65535"),
        ("log_level = 'loud'", "expected one of debug, info"),
        ("durability = 'eternal'", "expected one of accepted, fsynced, replicated, archived"),
        ("durability_replicas = 0", "expected 1 to 10"),
        ("redis_url = 'http://x'", "expected redis://"),
        ("retention_events = 0", "expected 1 to"),
        ("retention_age_seconds = 'nan'", "expected 1 to"),
        ("[roles.Coder]\nagent='a:B'", r"\[roles.Coder\]: a name is"),
        ("[roles.coder]\nagent='a.B'", "expected 'package.module:Class'"),
        ("[roles.coder]\nagnt='a:B'", "unknown key 'agnt'; did you mean `agent`"),
        ("[roles.c]\nagent='a:B'\nmax_idle_time='x'", r"\[roles.c\]: .*max_idle_time"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_wrkers=1", "did you mean `max_workers`"),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_idle_time=5",
            r"\[pools.p\]: max_idle_time is at least 60 s",
        ),
        ("[roles.coder]\nagent='a:B'\npreload=0", r"preload: expected true or false, got 0"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='d'", "expected one of c, got 'd'"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_worker=1", "max_worker"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_workers=0", r"max_workers"),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmin_workers=5\nmax_workers=2",
            "min_workers",
        ),
        ("[roles", "is not TOML"),
    ],
)
def test_invalid_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load({"config": write(tmp_path, text)}, {})


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load({"config": "elsewhere.toml"}, {})


def test_an_address_that_others_can_reach_needs_a_token() -> None:
    with pytest.raises(ConfigurationError, match="MUSTER_API_TOKEN"):
        load({"host": "0.0.0.0"}, {})
    assert load({"host": "0.0.0.0"}, {"MUSTER_API_TOKEN": "t"}).host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0..1", "x" * 64, ""])
def test_an_invalid_host_name_is_refused(host: str) -> None:
    """Resolving it is another kind of error than an unknown name."""
    with pytest.raises(ConfigurationError, match=r"--host: expected an address to listen on"):
        load({"host": host}, {"MUSTER_API_TOKEN": "t"})


def test_a_level_that_the_embedded_server_cannot_reach_is_refused() -> None:
    """Else every command would be, by a system that has started."""
    with pytest.raises(ConfigurationError, match="has no replicas"):
        load({"durability": "replicated"}, {})
    with pytest.raises(ConfigurationError, match="needs appendfsync always, not everysec"):
        load({"durability": "fsynced"}, {})
    assert load({"durability": "fsynced", "appendfsync": "always"}, {}).durability == "fsynced"
    flags = {"durability": "replicated", "redis_url": "redis://x"}
    assert load(flags, {}).durability == "replicated"


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


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("afile", "the data folder afile cannot be used: it is a file"),
        ("afile/x", "the data folder afile/x cannot be used: Not a directory"),
        ("data", "the folder for logs, data/logs, cannot be made: File exists"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(
    folder: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "logs").touch()
    assert main(["up", "--data-dir", folder]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"muster up: {said}")


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another user has used: its lock exists, and may be open to all."""
    (tmp_path / "lock").touch()
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # root may write anywhere
    assert main(["up", "--data-dir", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"muster up: the data folder {tmp_path} cannot be used: Permission den")


@pytest.mark.parametrize("name", ["redis_url", "database_url"])
def test_a_flag_that_contradicts_the_embedded_server_is_refused(name: str) -> None:
    """What the environment and the file configure is ignored, as documented."""
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ConfigurationError, match=f"{flag} and --embedded contradict each other"):
        load({"embedded": True, name: "redis://x"}, {})
    with pytest.raises(ConfigurationError, match=f"{flag} and MUSTER_EMBEDDED contradict"):
        load({name: "redis://x"}, {"MUSTER_EMBEDDED": "1"})
    settings = load({"embedded": True}, {f"MUSTER_{name.upper()}": "redis://x"})
    assert (settings.redis_url, settings.database_url) == ("", "")


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


@pytest.mark.parametrize(
    ("flags", "text", "why"),
    [
        ({"host": "[::1]"}, "", "--host: expected an IPv6 address without brackets: ::1"),
        ({"host": "127.0.0.1:80"}, "", "--host: .* --host 127.0.0.1 --port 80, got"),
        ({"host": "no.invalid"}, "", "--host: the name 'no.invalid' does not resolve"),
        ({"data_dir": ""}, "", "--data-dir: expected a path, got an empty text"),
        ({}, "data_dir = ''", "data_dir in muster.toml: expected a path"),
        ({}, "\ufeffport = 1", "muster.toml .* begins with a byte-order mark"),
        ({}, "[pools.p]\nrole = 'developer'", r"no role 'developer': .* add \[roles.developer\]"),
        ({"database_url": "mysql://h/d"}, "", "--database-url: expected postgresql://.*not mysql"),
        ({"database_url": "views.db"}, "", "--database-url: expected postgresql://"),
        ({"database_url": "sqlite://"}, "", "--database-url: expected the path of a file"),
    ],
)
def test_each_mistake_has_a_message_of_its_own(
    tmp_path: Path, flags: dict[str, str], text: str, why: str
) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=why):
        load(flags, {})


@pytest.mark.parametrize("password", ["p@", "p:", "p/", "p?", "p#", "p%", "p@:/%#w"])
def test_a_password_that_is_not_encoded_is_refused_without_it(password: str) -> None:
    url = f"postgresql://mu:{password}@h/mu"
    for environment in ({"DATABASE_URL": url}, {"PGBOUNCER_URL": url}):
        [name] = environment
        with pytest.raises(ConfigurationError, match=f"^{name}: a password's @ : / [?] # %") as it:
            load({}, environment)
        assert password not in str(it.value).replace("@ : / ? # % are", "")
    load({}, {"DATABASE_URL": "postgresql://mu:p%40%3A@h/mu?options=-c%20x"})


def test_text_that_the_locale_garbles_is_refused_with_the_locales_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ConfigurationError, match="encoding is ascii: set LC_ALL"):
        parse("data_dir", "/tmp/\udcc3\udca4", "--data-dir")


VIEWS, OWN, POOLED = "postgresql://views@h/muster", "postgresql://acme@h/acme", "postgresql://a@b/c"


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


def test_a_role_that_listens_nowhere_needs_no_token() -> None:
    assert load({}, {"MUSTER_HOST": "0.0.0.0"}, "supervisor").api_token == ""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({}, "--reload: there is no code to watch"),
        ({"app_dir": "."}, ""),
        ({"app_dir": ".", "redis_url": "unix:///x"}, ""),
        ({"app_dir": ".", "redis_url": "redis://localhost:1"}, ""),
        (
            {"app_dir": ".", "redis_url": "redis://redis.internal"},
            "--redis-url is not on this mach",
        ),
        (
            {"app_dir": ".", "database_url": "postgresql://u@db.internal/m"},
            "--database-url is not on this machine",
        ),
        ({"app_dir": ".", "single_process": True}, "there are no worker processes to replace"),
    ],
)
def test_reload_is_for_development(flags: dict[str, object], named: str) -> None:
    if not named:
        assert load({"reload": True, **flags}, {}).reload
        return
    with pytest.raises(ConfigurationError, match=named):
        load({"reload": True, **flags}, {})
