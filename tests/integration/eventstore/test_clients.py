"""A client of Redis: cheap to connect, cancelled at any time, and closed without a trace."""

import asyncio

import pytest
import redis

from eventstore.connection import calls
from eventstore.connection import clients as connection
from eventstore.connection.calls import execute, execute_blocking, shielded
from eventstore.connection.clients import connect, connect_sync
from tests.waiting import until

TURNS = 40


async def test_calls_under_way_when_a_client_is_closed_leave_no_connection(redis_url):
    """Their callers were cancelled; they connect, or send a command, after the close."""
    with redis.Redis.from_url(redis_url) as watching:
        before = len(watching.client_list())
        clients = [await _closed_after(turns, redis_url) for turns in range(TURNS)]
        await until(lambda: len(watching.client_list()) == before)
    assert len(clients) == TURNS  # not collected before: that would close their connections


async def test_a_call_that_is_cancelled_at_any_point_ends_as_cancelled(redis_url):
    """redis-py can swallow a cancellation on Python 3.11; a cancelled loop then never ends."""
    client = connect(redis_url)
    await execute(client, "PING")
    for turns in [*range(TURNS)] * 20:
        asking = asyncio.ensure_future(execute(client, "PING"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if asking.cancel():
            await asyncio.wait({asking})
            assert asking.cancelled(), f"after {turns} turns"
    await client.aclose()


@pytest.fixture
def silent(monkeypatch):
    """Closing a connection never completes, as over TLS with a host that does not answer."""

    async def wait_closed(_writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", wait_closed)
    for name in ("SOCKET_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(connection, name, 0.1)


async def _greets(client: redis.asyncio.Redis, connections: int = 1) -> bool:
    """Whether so many connections are open: each may take a tenth of a second here."""
    try:
        await asyncio.gather(*(execute(client, "PING") for _ in range(connections)))
    except calls.UNREACHABLE:
        return False
    return True


async def test_a_client_of_a_silent_host_is_closed_without_an_error(redis_url, silent):
    """Otherwise what is closed after it would stay open, and a stop would fail or never end."""
    client = connect(redis_url)
    await until(lambda: _greets(client))
    await client.aclose()


async def test_a_reader_of_a_silent_host_that_is_cancelled_ends_as_cancelled(redis_url, silent):
    """With another error the loop around it would continue."""
    client = connect(redis_url, block_seconds=5, max_connections=2)
    await until(lambda: _greets(client, connections=2))
    reading = execute_blocking(client, "XREAD", "BLOCK", 5000, "STREAMS", "s", "0")
    blocked = asyncio.ensure_future(reading)
    with redis.Redis.from_url(redis_url) as watching:
        await until(lambda: watching.info("clients")["blocked_clients"])
    blocked.cancel()
    await asyncio.wait({blocked})
    assert blocked.cancelled()
    await client.aclose()


async def test_a_new_connection_reads_no_files_of_redis_py(redis_url, monkeypatch):
    """Reading them would block the loop; the server gets the version nevertheless."""

    def read_files() -> str:
        raise AssertionError("the files of redis-py were read")

    monkeypatch.setattr("redis.utils.get_lib_version", read_files)
    client = connect(redis_url)
    blocking = connect(redis_url, block_seconds=1, max_connections=1)
    with connect_sync(redis_url, timeout_seconds=5) as thread:
        thread.ping()
        await execute(blocking, "PING")
        listed = await client.client_list()
    assert {entry["lib-ver"] for entry in listed} == {redis.__version__}
    await blocking.aclose()
    await client.aclose()


async def _closed_after(turns: int, url: str) -> object:
    client = connect(url)

    async def ask() -> None:
        for _ in range(3):
            await execute(client, "PING")

    asking = asyncio.ensure_future(shielded(ask))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await client.aclose()
    return client
