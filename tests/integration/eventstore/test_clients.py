"""A client of Redis: cheap to connect, cancelled at any time, and closed without a trace."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
import redis
import uvloop

from eventstore.connection import clients
from eventstore.connection.calls import UNREACHABLE, execute_blocking
from eventstore.connection.clients import Client
from eventstore.redis_errors import ResponseError
from eventstore.version import __version__
from tests.waiting import until

TURNS = 40


async def test_calls_under_way_when_a_client_is_closed_leave_no_connection(redis_url):
    """They connect, or have sent a command."""
    with redis.Redis.from_url(redis_url) as watching:
        before = len(watching.client_list())
        closed = [await _closed_after(turns, redis_url) for turns in range(TURNS)]
        await until(lambda: len(watching.client_list()) == before)
    assert len(closed) == TURNS  # not collected before: that would close their connections


async def test_a_call_that_is_cancelled_at_any_point_ends_as_cancelled(redis_url):
    """And its reply is no other call's."""
    async with Client(redis_url) as client:
        for turns in [*range(TURNS)] * 20:
            asking = asyncio.ensure_future(client.execute_command("ECHO", f"{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if asking.cancel():
                await asyncio.wait({asking})
                assert asking.cancelled(), f"after {turns} turns"
            assert await client.execute_command("ECHO", "next") == b"next"


async def test_callers_get_their_own_replies(redis_url):
    """Whether an error, a reply of many parts, or one longer than what is read at a time."""
    async with Client(redis_url) as client:
        texts = ["", "x" * 1_000_000, *map(str, range(200))]
        echoed: list[Any] = await asyncio.gather(
            *(client.execute_command("ECHO", text) for text in texts),
            *(client.execute_all([("ECHO", text), ("HGET", text)]) for text in texts),
            client.execute_command("NO-SUCH"),
            return_exceptions=True,
        )
    assert echoed[: len(texts)] == [text.encode() for text in texts]
    for text, (one, refused) in zip(texts, echoed[len(texts) : -1], strict=True):
        assert one == text.encode()
        assert "wrong number of arguments" in str(refused)
    assert isinstance(echoed[-1], ResponseError)


async def test_a_transaction_is_refused_as_a_whole_or_run(redis_url):
    async with Client(redis_url) as client:
        with pytest.raises(ResponseError, match="wrong number"):
            await client.execute_all([("SET", "a", "1"), ("HGET", "a")], atomic=True)
        assert await client.execute_command("EXISTS", "a") == 0
        replies = await client.execute_all([("SET", "a", "1"), ("HGET", "a", "f")], atomic=True)
        assert replies[0] == b"OK"
        assert isinstance(replies[1], ResponseError)


async def test_a_call_that_blocks_delays_no_other(redis_url):
    async with Client(redis_url, block_seconds=5) as client:
        blocked = asyncio.ensure_future(execute_blocking(client, "BLPOP", "list", "5"))
        with redis.Redis.from_url(redis_url) as watching:
            await until(lambda: watching.info("clients")["blocked_clients"])
            assert await asyncio.wait_for(client.execute_command("PING"), 1) == b"PONG"
            blocked.cancel()
            await asyncio.wait({blocked})
            await until(lambda: not watching.info("clients")["blocked_clients"])
        assert blocked.cancelled()


async def test_a_silent_server_costs_its_calls_and_connections(redis_server, monkeypatch):
    """A stopped process: connections stay open, nothing comes."""
    monkeypatch.setattr(clients, "SOCKET_SECONDS", 0.2)
    server = redis_server()
    async with Client(server.url) as client:
        await client.execute_command("PING")
        server.pause()
        calls = [client.execute_command("PING") for _ in range(3)]
        for lost in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(lost, UNREACHABLE), lost
        server.resume()
        await until(lambda: _answers(client))


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.Loop])
def test_a_loop_that_was_stalled_reads_the_reply_before_it_gives_up(
    redis_url, monkeypatch, loop_factory
):
    monkeypatch.setattr(clients, "SOCKET_SECONDS", 0.2)

    async def stall() -> object:
        async with Client(redis_url) as client:
            await client.execute_command("PING")
            asking = asyncio.ensure_future(client.execute_command("PING"))
            await asyncio.sleep(0.01)
            later = [
                asyncio.ensure_future(client.execute_command("ECHO", f"{n}")) for n in range(3)
            ]
            await asyncio.sleep(0)
            time.sleep(0.5)  # as an agent may, before they have been sent
            return [await asking, *[await one for one in later]]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(stall()) == [b"PONG", b"0", b"1", b"2"]


async def test_connections_are_known_by_name(redis_url):
    async with Client(f"{redis_url}?client_name=me") as client:
        await client.execute_command("PING")
        with redis.Redis.from_url(redis_url) as watching:
            (listed,) = (one for one in watching.client_list() if one["name"] == "me")
        assert listed["lib-ver"] == __version__
        assert len(clients.open_sockets()) >= 1


async def _answers(client: Client) -> bool:
    with suppress(*UNREACHABLE):
        return bool(await client.execute_command("PING"))
    return False


async def _closed_after(turns: int, url: str) -> object:
    client = Client(url)

    async def ask() -> None:
        for _ in range(3):
            await client.execute_command("PING")

    asking = asyncio.ensure_future(ask())
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(client.aclose(), 0.5)
    with suppress(*UNREACHABLE):
        await asking
    assert not asking.cancelled(), "it was not cancelled"
    return client
