"""Each log has a time of its own, and the number of a renewal is never used again."""

import time

import pytest
import redis

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.log.log import Log
from eventstore.log.survey import ObservedWorker
from eventstore.steps.step import Fence
from tests.pools import TestPool, open_pool

DAY = 86_400_000
NEAR = "developer_pool"
AHEAD = "ahead"


@pytest.fixture
async def pool(any_redis_url):
    """A pool, and another whose log was written while Redis' clock was a day ahead."""
    async with open_pool(any_redis_url) as near:
        await near.log.initialise(AHEAD)
        with redis.Redis.from_url(any_redis_url) as client:
            now = int(client.time()[0]) * 1000
            client.hset(f"pool:{{{AHEAD}}}:meta", mapping={"ts": now + DAY, "clock": now})
        yield near


async def test_a_process_of_many_pools_does_not_mix_their_times(pool):
    for name in (NEAR, AHEAD, NEAR, AHEAD):
        reported = (await pool.log.survey(name)).ts
        assert abs(pool.log.now_ms(name) - reported) < 10_000
    assert pool.log.now_ms(AHEAD) - pool.log.now_ms(NEAR) > DAY - 60_000


async def test_times_are_learnt_as_scripts_read_them(pool, any_redis_url):
    """Also for a log that has run at half the clock's speed for ten minutes."""
    with redis.Redis.from_url(any_redis_url) as client:
        then = int(client.time()[0]) * 1000 - 600_000
        client.hset(f"pool:{{{AHEAD}}}:meta", "clock", then)
    late = Log(Client(any_redis_url), Keys())
    try:
        await late.refresh_clocks([NEAR, AHEAD])
        for name in (NEAR, AHEAD):
            assert abs(late.now_ms(name) - (await pool.log.survey(name)).ts) < 10_000
        assert abs(late.now_ms("unknown") - time.time() * 1000) < 10_000
    finally:
        await late.client.aclose()


@pytest.mark.parametrize("damage", [("ts", "soon"), None], ids=["no number", "no hash"])
async def test_a_log_whose_time_cannot_be_read_delays_no_other(pool, any_redis_url, damage):
    broken = f"pool:{{{NEAR}}}:meta"
    with redis.Redis.from_url(any_redis_url) as client:
        if damage:
            client.hset(broken, *damage)
        else:
            client.set(broken, "text")
    late = Log(Client(any_redis_url), Keys())
    try:
        await late.refresh_clocks([NEAR, AHEAD])
        assert abs(late.now_ms(NEAR) - time.time() * 1000) < 10_000
        assert late.now_ms(AHEAD) - late.now_ms(NEAR) > DAY - 60_000
    finally:
        await late.client.aclose()


async def renewal(pool: TestPool, fence: Fence) -> int:
    """The number in a worker's hash after a renewal."""
    await pool.log._run_guarded(
        "renew", pool.name, fence.worker_id, fence.epoch, new_id(), "{}", 60_000, "", 10, 0
    )
    [found] = (await pool.log.survey(pool.name)).workers
    assert isinstance(found, ObservedWorker)
    return found.renewal


async def test_a_renewal_never_reuses_a_number(any_redis_url):
    """After Redis lost its last writes, a renewal must still be new to those that watch it."""
    async with open_pool(any_redis_url) as pool:
        fence = await pool.worker("w")
        numbers = [await renewal(pool, fence) for _ in range(3)]
        with redis.Redis.from_url(any_redis_url) as client:
            client.hset(f"process:{{{NEAR}}}:w", "renewal", numbers[0])
        numbers += [await renewal(pool, fence) for _ in range(3)]
        assert len(set(numbers)) == 6


async def lead(pool: TestPool, term: int) -> int:
    """The number of a leader after it has renewed the lead."""
    return (await pool.log.lead(NEAR, "h", term))[1].renewal


async def test_a_renewal_of_the_lead_never_reuses_a_number(any_redis_url):
    async with open_pool(any_redis_url) as pool:
        _, first = await pool.log.lead(NEAR, "h", 0)
        numbers = [first.renewal]
        numbers += [await lead(pool, first.term) for _ in range(2)]
        with redis.Redis.from_url(any_redis_url) as client:
            client.hset(f"pool:{{{NEAR}}}:leader", "renewal", numbers[0])
        numbers += [await lead(pool, first.term) for _ in range(3)]
        assert len(set(numbers)) == 6
