"""Settings that are refused, and what is said of each."""

import os
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from muster.__main__ import main
from muster.settings.loading import load
from muster.settings.settings import parse
from tests.unit.muster.config_files import write

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "unknown key 'prot'"),
        ("port = 'x'", "port in .*expected a number"),
        ("port = 70000", "expected 0 to 65535"),
        ("metrics_port = 65535", "expected 0 to 65534"),
        ("metrics_port = 1\nmetrics_host = 'a:1'", "no port here, but --metrics-host a --metrics"),
        ("metrics_port = 1\nmetrics_host = ''", "metrics_host in .*expected an address"),
        ("log_level = 'loud'", "expected one of debug, info"),
        ("durability = 'eternal'", "expected one of accepted, fsynced, replicated, archived"),
        ("durability_replicas = 0", "expected 1 to 10"),
        ("redis_url = 'http://x'", "expected redis://"),
        ("retention_events = 0", "expected 1 to"),
        ("retention_archive_days = 9", "retention_archive_days in .*: name the folder"),
        ("archive_dir = 'x'\nretention_archive_days = 0.5", r"expected 0 \(never\) or 1 to 36500"),
        (
            "archive_dir = 'x'\nretention_archive_days = 9\nretention_views_days = 10",
            "retention_views_days is 10 days: the archive has to have as many",
        ),
        (
            "archive_dir = 'x'\nretention_archive_days = 9\nretention_keys_seconds = 864000",
            "retention_keys_seconds is 10 days",
        ),
        ("tls_key = 'key.pem'", "tls_key in .*: a key without a certificate"),
        ("tls_cert = ''", "tls_cert in .*: expected a path"),
        ("retention_age_seconds = 'nan'", "expected 1 to"),
        ("[roles.Coder]\nagent='a:B'", r"\[roles.Coder\]: a name is"),
        ("[roles.coder]\nagent='a.B'", "expected 'package.module:Class'"),
        ("[roles.coder]\nagnt='a:B'", "unknown key 'agnt'; did you mean `agent`"),
        ("[roles.c]\nagent='a:B'\nmax_idle_time='x'", r"\[roles.c\] max_idle_time: Expected"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_wrkers=1", "did you mean `max_workers`"),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_idle_time=5",
            r"\[pools.p\]: max_idle_time is at least 60 s",
        ),
        ("[roles.coder]\nagent='a:B'\npreload=0", r"preload: expected true or false, got 0"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='d'", "expected one of c, got 'd'$"),
        ("[roles.cook]\nagent='a:B'\n[pools.p]\nrole='coo'", "got 'coo'; did you mean `cook`"),
        ("[roles.c]\nagent='a:B'\n[pools.p]", "expected one of c, got none$"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrol='c'", "unknown key 'rol'; did you mean `role`"),
        ("[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_worker=1", "max_worker"),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmax_workers='9'",
            r"\[pools.p\] max_workers: Expected `int`",
        ),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nmin_workers=5\nmax_workers=2",
            "min_workers",
        ),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nplacement='pull'\nproject_caps={a=1}",
            r"\[pools.p\]: project_caps need a placer: set placement to spread, pack, affinity or",
        ),
        (
            "[roles.c]\nagent='a:B'\n[pools.p]\nrole='c'\nplacement='best'",
            r"\[pools.p\] placement: expected pull, spread, pack, affinity or resource",
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
