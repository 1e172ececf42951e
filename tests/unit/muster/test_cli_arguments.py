"""What people type, and where the service is found."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput
from muster.cli.arguments.values import json_object, pairs, seconds, setting, time_ms

NOW = datetime(2026, 11, 24, 14, 3, 30, tzinfo=UTC).timestamp()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the test's own, in which `muster up` might run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flags(**values):
    """The result of parsing flags; those that are missing are None."""
    names = ("url", "token", "data_dir", "redis_url", "database_url", "key_prefix", "log_dir")
    return argparse.Namespace(**{name: values.get(name) for name in names})


def write_running(folder: Path, text: str) -> None:
    (folder / ".muster").mkdir()
    (folder / ".muster" / "running.json").write_text(text)


# ---- times -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds_before_now"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), ("10m ago", 600)],
)
def test_a_span_means_that_long_ago(text, seconds_before_now):
    assert time_ms(text, "--from", NOW) == int((NOW - seconds_before_now) * 1000)


def test_a_time_of_day_is_the_latest_such_time():
    local = datetime.fromtimestamp(NOW).astimezone()
    before, after = local.replace(second=0), local.replace(second=45)
    assert time_ms(f"{before:%H:%M}", "--from", NOW) == int(before.timestamp() * 1000)
    assert time_ms(f"{after:%H:%M:%S}", "--from", NOW) == int((after.timestamp() - 86400) * 1000)


def test_dates_and_epochs_are_times():
    assert time_ms("2026-11-24T14:03:30Z", "--from", NOW) == int(NOW * 1000)
    assert time_ms("1795529010", "--from", NOW) == 1_795_529_010_000
    assert time_ms("1795529010123", "--from", NOW) == 1_795_529_010_123


@pytest.mark.parametrize("text", ["", "yesterday", "25:61", "10x", "2026-13-01", "-5"])
def test_an_invalid_time_is_refused_with_the_name_of_its_flag(text):
    with pytest.raises(BadInput, match=r"^--from: "):
        time_ms(text, "--from", NOW)


# ---- values ----------------------------------------------------------------------------------


def test_pairs_are_unique_and_values_may_contain_equals_signs():
    assert pairs(["a=1", "b=x=y", "c="], "--label") == {"a": "1", "b": "x=y", "c": ""}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(BadInput, match="--label"):
            pairs(wrong, "--label")


def test_json_comes_from_the_line_or_a_file(here):
    (here / "task.json").write_text('{"task": "tidy up"}')
    assert json_object('{"a": [1]}', "--input") == {"a": [1]}
    assert json_object("@task.json", "--input") == {"task": "tidy up"}


@pytest.mark.parametrize("text", ["{", "[1]", "7", "@missing.json", "\ud800"])
def test_text_that_is_not_a_json_object_is_refused(here, text):
    with pytest.raises(BadInput, match="--input"):
        json_object(text, "--input")


def test_settings_are_numbers_where_they_can_be():
    assert [setting(text) for text in ("8", "0.5", "null", "slow")] == [8, 0.5, None, "slow"]
    assert setting('{ demo = 20, "*" = 5 }') == {"demo": 20, "*": 5}
    assert setting('[{ cron = "0 8 * * *", min_workers = 4 }]') == [
        {"cron": "0 8 * * *", "min_workers": 4}
    ]
    odd = ("{ demo = }", "[1]\nmore = 2", "2026-01-01", "{" * 10_000)
    assert [setting(text) for text in odd] == list(odd)


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf"])
def test_seconds_are_a_number_that_is_not_negative(text):
    with pytest.raises(BadInput, match="--wait"):
        seconds(text, "--wait")


# ---- where things are ------------------------------------------------------------------------


def test_flag_comes_before_environment_before_the_running_service(here, monkeypatch):
    assert targets.service_url(flags()) == "http://127.0.0.1:8000"
    write_running(here, '{"url": "http://127.0.0.1:9001", "pid": 1, "other": true}')
    assert targets.service_url(flags()) == "http://127.0.0.1:9001"
    monkeypatch.setenv("MUSTER_URL", "http://muster.internal")
    assert targets.service_url(flags()) == "http://muster.internal"
    assert targets.service_url(flags(url="localhost:7000/")) == "http://localhost:7000"


def test_a_named_data_directory_is_the_only_place_that_is_asked(here, monkeypatch, tmp_path):
    """Whatever the environment names, and whatever listens at the usual address."""
    for name in ("MUSTER_URL", "MUSTER_REDIS_URL", "MUSTER_DATABASE_URL", "MUSTER_KEY_PREFIX"):
        monkeypatch.setenv(name, "redis://other")
    named = {"data_dir": str(tmp_path / "other")}
    for find in (targets.service_url, targets.redis_url, targets.database_url):
        with pytest.raises(BadInput, match=f"nothing is running under {named['data_dir']}"):
            find(flags(**named))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "running.json").write_text(
        '{"url": "http://there", "redis_url": "unix:///s", "database_url": "postgresql:///d"}'
    )
    assert targets.service_url(flags(**named)) == "http://there"
    assert targets.redis_url(flags(**named)) == "unix:///s"
    assert targets.database_url(flags(**named)) == "postgresql:///d"
    assert targets.key_prefix(flags(**named)) == ""
    assert targets.service_url(flags(**named, url="http://one")) == "http://one"
    monkeypatch.delenv("MUSTER_URL")
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="nothing is running under"):
        targets.service_url(flags())


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:port", "redis://h", "h..1:1"])
def test_an_invalid_address_is_refused(here, monkeypatch, url):
    with pytest.raises(BadInput, match=r"^--url: "):
        targets.service_url(flags(url=url))
    monkeypatch.setenv("MUSTER_URL", url)
    with pytest.raises(BadInput, match=r"^MUSTER_URL: "):
        targets.service_url(flags())


def test_a_key_prefix_with_braces_is_refused(here, monkeypatch):
    with pytest.raises(ConfigurationError, match="--key-prefix: braces are not allowed"):
        targets.key_prefix(flags(key_prefix="{x"))
    monkeypatch.setenv("MUSTER_KEY_PREFIX", "x}")
    with pytest.raises(ConfigurationError, match="MUSTER_KEY_PREFIX: braces are not allowed"):
        targets.key_prefix(flags())
    assert targets.key_prefix(flags(key_prefix="")) == ""


def test_a_service_of_another_user_is_reported_as_unreadable(here, monkeypatch):
    """(Root may read it, so this is simulated.)"""
    write_running(here, "{}")

    def forbidden(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(BadInput, match=r"--data-dir; \.muster cannot be read by this user\)"):
        targets.redis_url(flags())


def test_redis_is_found_by_url_by_parts_and_by_the_running_service(here, monkeypatch):
    with pytest.raises(BadInput, match="MUSTER_REDIS_URL"):
        targets.redis_url(flags())
    write_running(here, '{"redis_url": "unix:///s", "database_url": "sqlite:///v"}')
    assert targets.redis_url(flags()) == "unix:///s"
    (here / "v").touch()
    assert targets.database_url(flags()) == "sqlite:///v"
    monkeypatch.setenv("REDIS_HOST", "redis.internal")
    monkeypatch.setenv("REDIS_PASSWORD", "a/b@c")
    monkeypatch.setenv("REDIS_DB", "3")
    assert targets.redis_url(flags()) == "redis://:a%2Fb%40c@redis.internal:6379/3"
    monkeypatch.setenv("REDIS_URL", "redis://one")
    assert targets.redis_url(flags()) == "redis://one"
    monkeypatch.setenv("MUSTER_REDIS_URL", "redis://two")
    assert targets.redis_url(flags()) == "redis://two"
    assert targets.redis_url(flags(redis_url="redis://three")) == "redis://three"


def test_a_damaged_running_file_is_reported(here):
    write_running(here, "{")
    with pytest.raises(BadInput, match=r"running\.json cannot be read"):
        targets.service_url(flags())


def test_an_empty_prefix_can_be_set(here, monkeypatch):
    monkeypatch.setenv("MUSTER_KEY_PREFIX", "test:")
    assert targets.key_prefix(flags()) == "test:"
    assert targets.key_prefix(flags(key_prefix="")) == ""
