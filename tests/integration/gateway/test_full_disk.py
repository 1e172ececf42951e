"""A Redis whose file cannot grow for a while, and what its gateway has done about it."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.ids import new_id
from gateway.backend import aof_rewrite
from gateway.backend.redis_health import RedisHealth
from tests.integration.gateway.stage import logged
from tests.servers import RedisLikeServer, RedisServer, ValkeyServer
from tests.waiting import until

PIECE = "x" * 3000


def bounded(kind: type[RedisLikeServer]) -> type[RedisLikeServer]:
    """A server that is refused what it writes beyond a limit, and not ended by it."""

    class Bounded(kind):  # type: ignore[misc,valid-type]
        def binary(self) -> str:
            wrapper = Path(self.directory) / "server.sh"
            wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {super().binary()} \"$@\"\n")
            wrapper.chmod(0o755)
            return str(wrapper)

    return Bounded


def limit(server: RedisLikeServer, size: int) -> None:
    """To how many bytes its files may grow."""
    _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, most))


def rewritten(server: RedisLikeServer, client: redis.Redis) -> Path:
    """The file to which it appends since a rewrite, with something in it."""
    before = set((server.directory / "appendonlydir").iterdir())
    client.bgrewriteaof()
    client.set("first", PIECE)
    deadline = time.monotonic() + 10
    while client.info("persistence")["aof_rewrite_in_progress"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    [file] = set((server.directory / "appendonlydir").glob("*.incr.aof")) - before
    return file


async def written_in_part(server: RedisLikeServer, client: redis.Redis) -> None:
    """Fill the file until nothing goes in any more."""
    limit(server, rewritten(server, client).stat().st_size + 4000)
    await until(lambda: not takes(client))


async def write_again(server: RedisLikeServer, client: redis.Redis) -> None:
    limit(server, resource.RLIM_INFINITY)
    await until(lambda: takes(client))


def takes(client: redis.Redis) -> bool:
    """Whether it takes one write more."""
    try:
        return bool(client.set(new_id(), PIECE))
    except redis.ResponseError:
        return False


async def unchanged(away: bool) -> None:
    """Nobody wants to hear of it."""


@pytest.mark.parametrize("kind", [ValkeyServer, RedisServer], ids=["valkey", "redis7.0"])
async def test_a_redis_that_wrote_in_part_can_be_started_again(redis_server, kind):
    """Its file has a hole, if it was begun by a rewrite: so it is written anew."""
    server = redis_server(bounded(kind))
    watching = RedisHealth(server.url, unchanged)
    async with logged() as lines:
        with server.client() as client:
            await written_in_part(server, client)
            watching.start()
            try:
                await until(lambda: watching.unreachable)
                await write_again(server, client)
                await until(lambda: "gateway.redis_rewritten" in [x["event"] for x in lines])
            finally:
                await watching.stop()
            keys = client.dbsize()
        server.kill9()
        server.start()
        with server.client() as client:
            assert client.dbsize() == keys


async def told(url: str, name: str) -> Mapping[str, Any]:
    """What a gateway says that thinks the file may have a hole."""
    watching = RedisHealth(url, unchanged)
    watching._rewriting.heed("MISCONF Errors writing to the AOF file: No space left on device")
    async with logged() as lines:
        watching.start()
        try:
            await until(lambda: name in [line["event"] for line in lines])
        finally:
            await watching.stop()
    return next(line for line in lines if line["event"] == name)


async def test_a_rewrite_that_had_begun_before_does_not_do(redis_server):
    server = redis_server()
    with server.client() as client:
        for number in range(60):
            client.set(f"key-{number}", PIECE)
        client.config_set("rdb-key-save-delay", "30000")
        client.bgrewriteaof()
        assert client.info("persistence")["aof_rewrites"] == 1
        await told(server.url, "gateway.redis_rewritten")
        after = client.info("persistence")
        assert (after["aof_rewrites"], after["aof_rewrite_in_progress"]) == (2, 0)
        client.config_set("rdb-key-save-delay", "0")


async def test_a_rewrite_that_fails_is_asked_for_again(redis_server, monkeypatch):
    monkeypatch.setattr(aof_rewrite, "AGAIN_SECONDS", 0.2)
    server = redis_server(bounded(ValkeyServer))
    with server.client() as client:
        for _ in range(20):
            assert takes(client)
        limit(server, 1000)
        await told(server.url, "gateway.redis_rewrite_failed")
        limit(server, resource.RLIM_INFINITY)
        await told(server.url, "gateway.redis_rewritten")
        assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"


async def test_who_may_not_have_it_rewritten_says_so(redis_server):
    server = redis_server()
    with server.client() as client:
        client.execute_command(
            *("ACL", "SETUSER", "muster", "on", ">secret", "~*", "+@all", "-bgrewriteaof")
        )
    url = server.url.replace("redis://", "redis://muster:secret@")
    said = await told(url, "gateway.redis_not_rewritten")
    assert "bgrewriteaof" in str(said["reason"])
