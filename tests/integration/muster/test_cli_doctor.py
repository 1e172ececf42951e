"""`muster doctor` on real servers: what is right, what is not, and that nothing is changed."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import redis

from muster.__main__ import main
from muster.cli.doctor import log_checks
from muster.cli.doctor.checks import Level
from muster.cli.doctor.database_checks import check_database, check_sqlite
from muster.cli.doctor.log_checks import check_logs
from muster.cli.doctor.redis_checks import check_redis
from projector.store.database import Database
from tests.integration.projector.stage import POOL, open_stage


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
    [("always", "with every reply"), ("everysec", "no: appendfsync is everysec; set")],
)
async def test_the_levels_that_a_command_may_request_are_listed(redis_server, appendfsync, found):
    """A level that lacks is no fault."""
    server = redis_server(appendfsync=appendfsync)
    checks = {check.name: check for check in await check_redis(server.url)}
    assert checks["level fsynced"].found.startswith(found)
    assert checks["level replicated"].found.startswith("no: 0 of 1 replicas follow it")
    assert {checks[name].level for name in checks if name.startswith("level")} == {Level.OK}


async def test_the_settings_of_replication_are_explained(replication):
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
    assert "add one more" in guard.change
    replication.part()
    found = {check.name: check for check in await check_redis(url)}
    assert found["min-replicas-to-write"].level is Level.FAIL
    assert levels(await check_redis(replication.replica.url))["role"] is Level.FAIL


async def test_an_unreachable_server_fails():
    (check,) = await check_redis("redis://:secret@127.0.0.1:1")
    assert (check.name, check.level) == ("reachable", Level.FAIL)
    assert "secret" not in check.found


def test_a_database_that_can_be_written_is_right(database_url):
    checks = check_database(database_url)
    assert levels(checks) == dict.fromkeys(levels(checks), Level.OK)
    assert levels(check_database(database_url)) == levels(checks)


def test_a_check_does_not_create_a_database(tmp_path):
    path = tmp_path / "views.db"
    assert levels(check_database(f"sqlite:///{path}"))["writable"] is Level.OK
    assert not path.exists()


def test_a_file_that_is_not_a_database_fails(tmp_path):
    path = tmp_path / "views.db"
    path.write_text("not a database" * 100)
    assert levels(check_database(f"sqlite:///{path}"))["readable"] is Level.FAIL


def test_a_file_in_a_folder_of_another_user_fails(tmp_path, monkeypatch):
    """Everything else is still checked. (Root may read any file, so this is simulated.)"""

    def forbidden(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbidden)
    assert levels(check_sqlite(tmp_path / "views.db"))["readable"] is Level.FAIL


def test_the_missing_rights_of_a_database_user_are_named(postgres_url):
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
def test_an_invalid_database_address_fails(url):
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


def test_the_command_passes_with_a_suitable_server(redis_url, database_url, capsys):
    assert main(["doctor", "--redis-url", redis_url, "--database-url", database_url]) == 0
    assert "FAIL" not in capsys.readouterr().out


# ---- the logs --------------------------------------------------------------------------------


async def test_logs_that_the_views_follow_are_right(redis_url, database_url, monkeypatch):
    monkeypatch.setattr(log_checks, "RECHECK_SECONDS", 0.1)
    async with open_stage(redis_url, database_url) as stage:
        assert await check_logs(redis_url, "", database_url) == [], "nothing is known yet"
        pool = await stage.pool()
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        [found] = await check_logs(redis_url, "", database_url)
        assert (found.name, found.level, found.found) == (
            "logs", Level.OK, "2 are intact, and the views follow"
        )  # fmt: skip
        assert len(await check_logs(redis_url, "", database_url, ["developer"])) == 1
        [_, missing] = await check_logs(redis_url, "", database_url, ["renamed"])
        assert (missing.name, missing.level) == (POOL, Level.WARN)
        assert missing.found == "its role 'developer' is not declared here (declared: renamed)"
        await pool.spawn()
        [found] = await check_logs(redis_url, "", database_url)
        assert (found.name, found.level) == (POOL, Level.WARN)
        assert found.found == "the views end at seq 1 of 2"
        assert "start a projector" in found.change


async def test_logs_that_are_lost_or_stopped_fail(redis_url, database_url):
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        await stage.sql(f"UPDATE {{}}checkpoints SET status = 'odd' WHERE pool = '{POOL}'")
        [found] = await check_logs(redis_url, "", database_url)
        assert (found.level, found.found) == (Level.FAIL, "its views stopped: odd")
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"pool:{{{POOL}}}:meta", "halted", "by hand")
            [found] = await check_logs(redis_url, "", database_url)
            assert (found.name, found.found) == (POOL, "halted: by hand")
            client.flushdb()
        checks = await check_logs(redis_url, "", database_url)
        assert [check.name for check in checks] == ["catalogue", POOL]
        assert {check.level for check in checks} == {Level.FAIL}
        assert all("`muster recover`" in check.change for check in checks)


async def test_checking_logs_creates_no_tables(redis_url, tmp_path):
    path = tmp_path / "views.db"
    assert await check_logs(redis_url, "", f"sqlite:///{path}") == []
    assert not path.exists()
    path.touch()
    assert await check_logs(redis_url, "", f"sqlite:///{path}") == []
    database = Database(f"sqlite:///{path}")
    database.open()
    assert await database.read(database.existing) == {}
    await database.close()


def test_the_command_checks_the_logs_below_a_prefix(redis_url, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'views.db'}"

    async def lost() -> None:
        async with open_stage(redis_url, url) as stage, stage.projecting():
            await (await stage.pool()).spawn()
            await stage.settle()

    asyncio.run(lost())
    words = ["doctor", "--redis-url", redis_url, "--database-url", url]
    assert main(words) == 0
    assert main([*words, "--key-prefix", "other:"]) == 1
    assert "missing: the log is gone" in capsys.readouterr().out


# ---- before the first start ------------------------------------------------------------------


def found(capsys: pytest.CaptureFixture[str], *words: str) -> dict[tuple[str, str], Any]:
    main(["doctor", "--json", *words])
    checks = json.loads(capsys.readouterr().out)
    return {(check["area"], check["name"]): check for check in checks}


def test_before_the_first_start_it_says_what_up_would_use(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checks = found(capsys)
    address = checks["redis", "address"]
    assert address["level"] == "OK"
    assert address["found"].startswith("none is configured: `muster up` runs its own, /")
    assert checks["database", "writable"]["found"] == (
        f"{tmp_path}/.muster/views.db does not exist yet"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_file_is_used_and_an_invalid_one_reported(
    redis_url, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "muster.toml").write_text(
        f"redis_url = '{redis_url}'\ndatabase_url = 'sqlite:///{tmp_path}/mine.db'\n"
    )
    checks = found(capsys)
    assert checks["redis", "reachable"]["found"] == redis_url
    assert checks["database", "writable"]["found"] == f"{tmp_path}/mine.db does not exist yet"
    monkeypatch.setenv("MUSTER_EMBEDDED", "1")
    assert found(capsys)["redis", "address"]["level"] == "OK"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/running.json").write_text('{"redis_url": "redis://127.0.0.1:1"}')
    (tmp_path / "muster.toml").write_text("data_dir = 'mine'\n")
    assert found(capsys)["redis", "reachable"]["found"].startswith("redis://127.0.0.1:1")
    (tmp_path / "wrong.toml").write_text("prot = 1\n")
    refused = found(capsys, "--config", "wrong.toml")["muster up", "settings"]
    assert (refused["level"], "unknown key 'prot'" in refused["found"]) == ("FAIL", True)
