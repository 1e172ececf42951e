"""A Redis whose file cannot grow for a while: an alert, and a rewrite of our own server."""

import resource

import psutil
import pytest

from eventstore.connection.calls import AsyncClient
from eventstore.connection.clients import Client
from eventstore.connection.requirements import AofCheck
from tests.full_disk import accepts, bounded, limit, write_again, written_in_part
from tests.integration.gateway.stage import AGENTS, gateway_stage
from tests.servers import RedisServer, ValkeyServer
from tests.waiting import until

ALERT = "redis-rewrite-needed"


@pytest.mark.usefixtures("frequent_probes")
@pytest.mark.parametrize("kind", [ValkeyServer, RedisServer], ids=["valkey", "redis7.0"])
async def test_a_redis_that_wrote_in_part_has_an_alert_until_it_is_rewritten(
    redis_server, kind, tmp_path
):
    """What the alert says to do is what lets it start again: its file has a hole."""
    server = redis_server(bounded(kind))
    async with gateway_stage(server.url, f"sqlite:///{tmp_path / 'v.db'}") as stage:

        async def alerts() -> dict[str, str]:
            found = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
            return {alert["name"]: alert["action"] for alert in found}

        async def is_alarmed(name: str) -> bool:
            return name in await alerts()

        async def is_calm() -> bool:
            return ALERT not in await alerts()

        assert await is_calm()
        with server.client() as client:
            await written_in_part(server, client)
            await until(lambda: is_alarmed("redis-unreachable"))
            await write_again(server, client)
            await until(lambda: is_alarmed(ALERT))
            assert "BGREWRITEAOF" in (await alerts())[ALERT]
            client.bgrewriteaof()
            await until(is_calm)
            keys = client.dbsize()
            server.kill9()
        server.start()
        with server.client() as client:
            assert client.dbsize() == keys


class Watched:
    """A server whose file could not be written, and the check that saw it."""

    def __init__(self, client: AsyncClient) -> None:
        self.check, self.client = AofCheck(), client

    async def needs_rewrite(self) -> bool:
        return await self.check.poll(self.client)

    async def is_done(self) -> bool:
        return not await self.needs_rewrite()


@pytest.fixture
async def refused(redis_server):
    """A server that was refused some writes, and may write again."""
    server = redis_server(bounded(ValkeyServer))
    async with Client(server.url) as connection:
        watched = Watched(connection)
        assert await watched.is_done()
        with server.client() as client:
            assert all(accepts(client) for _ in range(20))
            limit(server, 10_000)
            await until(lambda: not accepts(client))
            await until(watched.needs_rewrite)
            assert watched.check.failing
            yield watched, server, client


async def test_a_rewrite_that_started_before_the_last_failure_is_not_enough(refused):
    watched, server, client = refused
    limit(server, resource.RLIM_INFINITY)
    client.config_set("rdb-key-save-delay", "30000")  # time to find the process that rewrites
    client.bgrewriteaof()
    [rewriting] = await until(psutil.Process(server.pid).children)
    rewriting.suspend()
    assert client.info("persistence")["aof_rewrites"] == 1
    limit(server, 1)
    await until(lambda: not accepts(client))
    assert await watched.needs_rewrite()
    await write_again(server, client)
    assert await watched.needs_rewrite()
    assert client.info("persistence")["aof_rewrite_in_progress"]
    client.config_set("rdb-key-save-delay", "0")
    rewriting.resume()
    await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    assert await watched.needs_rewrite()
    client.bgrewriteaof()
    await until(watched.is_done)


async def test_a_rewrite_that_fails_is_not_enough(refused):
    watched, server, client = refused
    await write_again(server, client)
    limit(server, 1000)
    client.bgrewriteaof()
    await until(lambda: client.info("persistence")["aof_last_bgrewrite_status"] == "err")
    limit(server, resource.RLIM_INFINITY)
    await write_again(server, client)
    assert await watched.needs_rewrite()
    client.bgrewriteaof()
    await until(watched.is_done)


async def test_a_server_that_was_started_again_could_read_its_file(refused):
    watched, server, client = refused
    await write_again(server, client)
    assert await watched.needs_rewrite()
    server.kill9()
    server.start()
    watched.client.drop()
    await until(watched.is_done)
