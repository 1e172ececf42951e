"""Redis' clock steps forwards and back: log time never goes back, and never stops.

The clock is a real one, stepped with libfaketime under a running server.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore.ids import new_id
from eventstore.log.replies import Reply
from eventstore.steps.clauses import Signal
from eventstore.steps.step import Fence
from tests.chaos.clocks import Clock, library
from tests.pools import ORIGIN, TestPool, open_pool
from tests.process import missing
from tests.servers import ValkeyServer
from tests.waiting import until

HOUR = 3600
SEEN_SECONDS = 1.5


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    if library() is None:
        missing("libfaketime", "faketime")
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(server_directory: Path, tmp_path: Path, clock: Clock) -> Iterator[ValkeyServer]:
    environment = {**clock.environment(), "FAKETIME_NO_CACHE": "1"}  # it notices steps at once
    server = ValkeyServer(server_directory / tmp_path.name, environment=environment)
    server.start()
    yield server
    server.stop()


async def renew(pool: TestPool, fence: Fence) -> Reply:
    """A worker's renewal, as its lease's thread makes it."""
    return await pool.log._run_guarded(
        "renew", pool.name, fence.worker_id, fence.epoch, new_id(), "{}", 60_000, "", 10, 0
    )


async def step(server: ValkeyServer, clock: Clock, seconds: int) -> None:
    """Step the clock, and wait until the server has noticed."""
    clock.step(seconds)

    def noticed() -> bool:
        with server.client() as client:
            return abs(client.time()[0] - time.time() - seconds) < SEEN_SECONDS

    await until(noticed)


async def test_leases_are_renewed_after_the_clock_went_forwards_and_back(server, clock):
    """A heartbeat with a future time must not prevent all others until then."""
    async with open_pool(server.url) as pool:
        fence = await pool.worker("w1")
        before = (await renew(pool, fence)).ts
        await step(server, clock, HOUR)
        ahead = (await renew(pool, fence)).ts
        assert ahead >= before + HOUR * 1000
        await step(server, clock, 0)
        after = (await renew(pool, fence)).ts
        assert ahead <= after < ahead + 60_000


async def test_deadlines_are_reached_although_the_clock_was_set_back(server, clock):
    """Also in a pool where only the leader's renewals are written."""
    async with open_pool(server.url) as pool:
        await step(server, clock, HOUR)
        await pool.spawn()
        await step(server, clock, 0)
        _, lead = await pool.log.lead(pool.name, "h", 0)
        due = (await pool.log.survey(pool.name)).ts + 200

        async def is_due() -> bool:
            await pool.log.lead(pool.name, "h", lead.term)
            return (await pool.log.survey(pool.name)).ts >= due

        await until(is_due)


async def test_log_time_is_overtaken_by_a_clock_that_was_set_back_a_little(server, clock):
    """Log time runs at half the clock's speed, so the clock catches up."""
    async with open_pool(server.url) as pool:

        async def behind_ms() -> float:
            step = pool.log.step(pool.name, ORIGIN)
            step.write(Signal("test", ""))
            reply = await pool.log.commit(step)
            with server.client() as client:
                seconds, micros = await asyncio.to_thread(client.time)
            return reply.ts - seconds * 1000 - micros / 1000

        async def ahead_ms() -> float:
            """How far log time is ahead; 0 if the test was slow and the clock has caught up."""
            await step(server, clock, 1)
            await pool.spawn()
            await step(server, clock, 0)
            return max(await behind_ms(), 0)

        assert await until(ahead_ms) <= 1000

        async def met() -> bool:
            return await behind_ms() <= 0

        await until(met, timeout=10)
