"""`muster replay` and `muster verify` on a real log and both databases."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.__main__ import main
from projector.queries.views import AgentFilter, Views
from projector.store.database import Database
from tests.pools import ORIGIN, TestPool


def wait(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a separate event loop: the commands have their own."""
    return asyncio.run(work)


async def write_log(url: str) -> None:
    """A pool of three agents."""
    client, reader = Client(url), Reader(url)
    log = Log(client, Keys())
    catalogue = CatalogueLog(log, reader)
    await catalogue.create()
    await catalogue.create_pool("alpha", "developer", PoolConfig(), ORIGIN)
    pool = TestPool(log, "alpha")
    for _ in range(3):
        await pool.spawn()
    await reader.close()
    await client.aclose()


async def agents(url: str) -> list[str]:
    """The statuses of all agents in the views."""
    views = Views(url)
    await views.start()
    try:
        return [row.status for row in await views.agents(AgentFilter())]
    finally:
        await views.stop()


async def prepare(url: str) -> None:
    """A database as a projector makes it."""
    database = Database(url)
    database.open()
    await database.prepare()
    await database.close()


@pytest.fixture
def flags(redis_url, database_url) -> list[str]:
    wait(write_log(redis_url))
    wait(prepare(database_url))
    return ["--redis-url", redis_url, "--database-url", database_url]


def test_views_are_rebuilt_and_compared_with_the_log(flags, capsys):
    """Each answer as text and as JSON; then a hash that was edited by hand is named."""
    assert main(["replay", *flags]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("the views are rebuilt: 4 events in ")
    assert printed.err.startswith("4 of 4 events")
    assert wait(agents(flags[-1])) == ["pending"] * 3
    assert main(["replay", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 4

    assert main(["verify", *flags]) == 0
    assert capsys.readouterr().out.startswith("equal: 4 events of 1 pool folded")
    assert main(["verify", *flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [checked["pool"] for checked in report["pools"]] == ["", "alpha"]
    assert (report["equal"], report["differences"]) == (True, [])

    with redis.Redis.from_url(flags[1]) as client:
        key = next(client.scan_iter("agent:*"))
        client.hset(key, "project_id", "edited")
    assert main(["verify", *flags]) == 1
    heading, row, summary = capsys.readouterr().out.splitlines()
    agent = key.decode().rpartition(":")[2]
    assert heading.split() == ["WHERE", "POOL", "SUBJECT", "FIELD", "EXPECTED", "FOUND"]
    assert row.split() == ["redis", "alpha", f"agent:{agent}", "project_id", "p", "edited"]
    assert summary.startswith("1 difference: ")


def test_an_unreachable_server_is_named(redis_url, tmp_path, capsys):
    views = f"sqlite:///{tmp_path / 'views.db'}"
    wait(prepare(views))
    unreachable = "redis://127.0.0.1:1"
    for command in ("replay", "verify"):
        assert main([command, "--redis-url", unreachable, "--database-url", views]) == 3
        assert "Redis does not answer" in capsys.readouterr().err
    unreachable = "postgresql://u:secret@127.0.0.1:1/x"
    assert main(["replay", "--redis-url", redis_url, "--database-url", unreachable]) == 3
    said = capsys.readouterr().err
    assert said.startswith("muster replay: the database postgresql://u:***@127.0.0.1:1/x: ")
    assert said.count("\n") == 1
    assert main(["replay", "--redis-url", redis_url, "--database-url", "nonsense"]) == 2


@pytest.mark.parametrize("words", [["recover", "--dry-run"], ["recover"], ["replay"], ["verify"],
                                   ["tail"]], ids=" ".join)  # fmt: skip
def test_a_missing_database_file_is_refused_and_not_created(
    words, redis_url, tmp_path, monkeypatch, capsys
):
    """A mistyped name must not count as an empty archive."""
    monkeypatch.chdir(tmp_path)
    mistyped = tmp_path / "nope" / "views.db"
    flags = ["--redis-url", redis_url, "--database-url", f"sqlite:///{mistyped}"]
    assert main([*words, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"muster {words[0]}: there is no SQLite file {mistyped}: ")
    assert "the views of" not in said
    assert not mistyped.parent.exists()
    (tmp_path / ".muster").mkdir()
    (tmp_path / ".muster" / "views.db").touch()
    assert main([*words, *flags]) == 2
    assert f"sqlite:///{tmp_path}/.muster/views.db" in capsys.readouterr().err


def test_an_empty_database_proves_nothing_about_a_log(redis_url, database_url, capsys):
    """A wiped Redis with the wrong database seems to be a system that was never started.

    An intact log is not touched.
    """
    wait(prepare(database_url))
    recover = ["recover", "--redis-url", redis_url, "--database-url", database_url]
    for words in (["--dry-run"], []):
        assert main([*recover, *words]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "is it the right one?" in printed.err
    wait(write_log(redis_url))
    assert main(recover) == 0
    assert "every log is intact" in capsys.readouterr().out
