"""Logs that are missing or rolled back, and servers that are full, unsuitable or not there."""

import pytest
import redis

from eventstore.connection.clients import Client
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import (
    Halted,
    LogMissing,
    LogUnreachable,
    MemoryExhausted,
    OutcomeUnknown,
    RolledBack,
    ServerUnsuitable,
)
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from tests.conftest import MakeServer
from tests.pools import ORIGIN, TestPool, open_pool, types

POOL = "developer_pool"


async def test_a_log_below_the_high_water_mark_is_refused_and_halted_for_all_processes(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        pool.log.raise_high_water_mark(POOL, 1, 5)
        with pytest.raises(RolledBack, match="seq 5 was acknowledged"):
            await pool.spawn()
        other = TestPool(Log(pool.log.client, Keys()))
        with pytest.raises(Halted, match="rolled back to generation 1, seq 1"):
            await other.spawn()
        with pytest.raises(Halted):
            await other.log.survey(POOL)
        assert types(any_redis_url) == ["agent.requested"]


@pytest.mark.parametrize("read", ["survey", "require_intact"])
async def test_who_only_reads_halts_a_log_below_the_high_water_mark_too(
    any_redis_url: str, read: str
) -> None:
    """Else those who know of less would write on, over what was lost."""
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        pool.log.raise_high_water_mark(POOL, 1, 5)
        with pytest.raises(RolledBack):
            await getattr(pool.log, read)(POOL)
        with pytest.raises(Halted, match="rolled back to generation 1, seq 1"):
            await TestPool(Log(pool.log.client, Keys())).spawn()


async def test_a_lost_log_is_missing_and_not_created_again(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        with redis.Redis.from_url(any_redis_url) as client:
            client.delete(f"pool:{{{POOL}}}:events")
            with pytest.raises(LogMissing):
                await pool.spawn()
            await pool.log.initialise(POOL)
            with pytest.raises(LogMissing):
                await pool.spawn()
            client.flushall()
            with pytest.raises(LogMissing):
                await pool.log.initialise(POOL)
            with pytest.raises(LogMissing):
                await pool.spawn()
            assert client.keys("*") == []


async def test_initialising_again_changes_nothing(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        await pool.log.initialise(POOL)
        await pool.log.create_catalogue()
        head = await pool.log.head(POOL)
        assert (head.generation, head.seq) == (1, 1)


async def test_at_the_memory_limit_only_spawns_are_refused(redis_server: MakeServer) -> None:
    server = redis_server()
    async with open_pool(server.url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        with server.client() as client:
            client.config_set("maxmemory", "1mb")  # less than it uses
        with pytest.raises(MemoryExhausted):
            await pool.spawn()
        assert len(await pool.claim(fence)) == 1
        acted = await pool.log.act(POOL, submitted.agent_id, Terminate(), ORIGIN)
        assert acted.outcome is Outcome.DONE


async def test_a_server_that_evicts_is_refused(redis_server: MakeServer) -> None:
    server = redis_server(options={"maxmemory-policy": "allkeys-lru"})
    client = Client(server.url)
    with pytest.raises(ServerUnsuitable, match="noeviction"):
        require_suitable(await inspect(client))
    await client.aclose()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"redis_version": "6.2.14"}, "redis 6.2.14 is too old"),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.0"}, "valkey 7.0.0 is too old"),
    ],
)
def test_a_server_that_is_too_old_is_refused(info: dict[str, str], message: str) -> None:
    with pytest.raises(ServerUnsuitable, match=message):
        require_suitable({**info, "maxmemory_policy": "noeviction"})


async def test_a_server_that_does_not_run_is_unreachable(redis_server: MakeServer) -> None:
    server = redis_server()
    async with open_pool(server.url) as pool:
        server.stop()
        with pytest.raises((LogUnreachable, OutcomeUnknown)):  # a connection was open when it ended
            await pool.spawn()
        with pytest.raises(LogUnreachable):
            await pool.spawn()
        server.start()
        assert (await pool.spawn()).outcome is Outcome.DONE
