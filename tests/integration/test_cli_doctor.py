"""`muster doctor` on real servers: what is right, what is not, and that nothing is changed."""

import json

import pytest

from muster.__main__ import main
from muster.commands.checks import Level
from muster.commands.database_checks import check_database
from muster.commands.redis_checks import check_redis


def levels(checks) -> dict[str, Level]:
    return {check.name: check.level for check in checks}


async def test_a_server_as_muster_needs_it_has_nothing_to_change(any_redis_url):
    checks = await check_redis(any_redis_url)
    assert levels(checks) == dict.fromkeys(levels(checks), Level.OK)
    assert {"reachable", "suitable", "append-only file", "appendfsync", "clock"} <= set(
        levels(checks)
    )


async def test_a_server_that_may_lose_the_log_fails(redis_server):
    options = {"maxmemory-policy": "allkeys-lru", "timeout": "60"}
    server = redis_server(appendfsync=None, maxmemory="100mb", options=options)
    found = levels(await check_redis(server.url))
    assert found["suitable"] is Level.FAIL
    assert found["append-only file"] is Level.FAIL
    assert found["timeout"] is Level.WARN
    assert found["memory"] is Level.OK


@pytest.mark.parametrize(
    ("appendfsync", "found"),
    [("always", "with every reply"), ("everysec", "no: appendfsync is everysec and its WAITAOF")],
)
async def test_the_levels_that_a_command_may_ask_for_are_told(redis_server, appendfsync, found):
    """A level that lacks is no fault."""
    server = redis_server(appendfsync=appendfsync)
    checks = {check.name: check for check in await check_redis(server.url)}
    assert checks["level fsynced"].found.startswith(found)
    assert checks["level replicated"].found.startswith("no: 0 replicas follow it")
    assert {checks[name].level for name in checks if name.startswith("level")} == {Level.OK}


async def test_what_the_settings_of_replication_mean_is_told(replication):
    """One replica that all writes need is no more available than none."""
    url = replication.primary.url
    found = {check.name: check for check in await check_redis(url)}
    assert (found["role"].level, found["role"].found) == (Level.WARN, "primary with 1 replicas")
    assert found["level replicated"].found == "by up to 1"
    replication.configure(min_replicas_to_write="1")
    found = {check.name: check for check in await check_redis(url)}
    guard = found["min-replicas-to-write"]
    assert guard.level is Level.WARN
    assert guard.found == "writes need 1 of 1 replicas, no more than 10 s behind"
    assert "attach one more" in guard.change
    replication.part()
    found = {check.name: check for check in await check_redis(url)}
    assert found["min-replicas-to-write"].level is Level.FAIL
    assert levels(await check_redis(replication.replica.url))["role"] is Level.FAIL


async def test_a_server_that_is_not_there_fails():
    (check,) = await check_redis("redis://:secret@127.0.0.1:1")
    assert (check.name, check.level) == ("reachable", Level.FAIL)
    assert "secret" not in check.found


def test_a_database_that_can_be_written_is_right(database_url):
    checks = check_database(database_url)
    assert levels(checks) == dict.fromkeys(levels(checks), Level.OK)
    assert levels(check_database(database_url)) == levels(checks)


def test_asking_does_not_create_a_database(tmp_path):
    path = tmp_path / "views.db"
    assert levels(check_database(f"sqlite:///{path}"))["writable"] is Level.OK
    assert not path.exists()


def test_a_file_that_is_no_database_fails(tmp_path):
    path = tmp_path / "views.db"
    path.write_text("not a database" * 100)
    assert levels(check_database(f"sqlite:///{path}"))["readable"] is Level.FAIL


def test_a_database_user_without_rights_is_told_which(postgres_url):
    """A role that may connect but not create the schema."""
    import psycopg

    plain = postgres_url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("drop role if exists reader")
        connection.execute("create role reader login")
    checks = check_database(postgres_url.replace("postgres@", "reader@"))
    writable = next(check for check in checks if check.name == "writable")
    assert (writable.level, writable.change) == (
        Level.FAIL,
        "grant create on the database to this user",
    )


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://postgres@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_fails(url):
    assert Level.FAIL in levels(check_database(url)).values()


def test_the_command_says_what_to_change_and_fails(redis_server, tmp_path, capsys):
    server = redis_server(appendfsync=None)
    words = ["doctor", "--redis-url", server.url, "--database-url", f"sqlite:///{tmp_path}/v.db"]
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = next(i for i, line in enumerate(lines) if line.startswith("FAIL"))
    assert lines[failed].split() == ["FAIL", "redis", "append-only", "file", "off"]
    assert lines[failed + 1].strip().startswith("-> CONFIG SET appendonly yes")
    assert main([*words, "--json"]) == 1
    assert {check["level"] for check in json.loads(capsys.readouterr().out)} >= {"OK", "FAIL"}


def test_the_command_is_content_with_a_right_server(redis_url, database_url, capsys):
    assert main(["doctor", "--redis-url", redis_url, "--database-url", database_url]) == 0
    assert "FAIL" not in capsys.readouterr().out
