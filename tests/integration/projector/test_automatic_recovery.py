"""An active projector notices lost logs, and halts or recovers them."""

import asyncio
from typing import Any

import pytest
import redis

from eventstore.errors import Halted
from eventstore.keys import Keys
from eventstore.log.log import Log
from eventstore.retention import Retention
from projector.intake.source import Source
from projector.queries.views import is_lost
from tests.integration.projector.recovering import (
    accepted,
    recovered,
    require_equal,
    rolled_back,
    wipe,
)
from tests.integration.projector.stage import META, POOL, archived_story
from tests.pools import TestPool, types
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases")


async def test_an_active_projector_recovers_by_itself_with_auto_recover(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        retention = Retention(ended_ms=30_000)
        async with stage.projecting(auto_recover=True, audit_seconds=0.1, retention=retention):
            wipe(redis_url)
            await until(lambda: accepted(pool), timeout=20)
            await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            assert 0 < client.pttl(f"process:{{{POOL}}}:w2") <= 30_000
        await require_equal(stage)


async def test_entries_that_a_projector_had_read_before_it_recovered_a_log_are_applied_once(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the log halted after it has read entries, which the recovery applies."""
    wait = Source.wait

    async def until_halted(self: Source, *args: Any, **kwargs: Any) -> Any:
        entries = await wait(self, *args, **kwargs)
        if POOL in entries:
            monkeypatch.setattr(Source, "wait", wait)
            with redis.Redis.from_url(redis_url) as client:
                client.hset(META, "halted", "by a process that knew of more")
            await asyncio.sleep(0.01)  # it is time to check the logs again
        return entries

    async with archived_story(redis_url, views_url) as (stage, pool):
        monkeypatch.setattr(Source, "wait", until_halted)
        async with stage.projecting(auto_recover=True, audit_seconds=0.001):
            await pool.spawn()
            await until(lambda: "log.recovered" in types(redis_url))
            await until(lambda: accepted(pool))
            await stage.settle()
            assert {at.status for at in (await stage.views.positions()).values()} == {"ok"}
        await require_equal(stage)


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_rewritten_log_is_halted_by_the_projector_that_notices(
    redis_url: str, views_url: str, *, by_itself: bool
) -> None:
    """It is longer than what was acknowledged: no high-water mark is above it, only views know."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        async with stage.projecting(auto_recover=by_itself, audit_seconds=5.0):
            with rolled_back(redis_url):
                await pool.spawn()
                await stage.settle()
            unaware = TestPool(Log(stage.log.client, Keys()), POOL)
            for _ in range(3):
                await unaware.spawn()
            if by_itself:
                await until(lambda: "log.recovered" in types(redis_url), timeout=20)
                await until(lambda: accepted(TestPool(Log(stage.log.client, Keys()), POOL)))
                await stage.settle()
            else:
                with redis.Redis.from_url(redis_url) as client:
                    await until(lambda: client.hexists(META, "halted"), timeout=20)
                with pytest.raises(Halted, match=r"rewritten|rolled back"):
                    await unaware.spawn()

                async def shown_as_lost() -> bool:
                    return is_lost((await stage.views.positions())[POOL].status)

                await until(shown_as_lost, timeout=10)
                assert len((await recovered(stage))[POOL].unsaved) == 3
        await require_equal(stage)


async def test_streams_that_are_gone_are_noticed_although_their_counters_exist(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        async with stage.projecting(auto_recover=True, audit_seconds=0.1):
            with redis.Redis.from_url(redis_url) as client:
                client.delete(f"pool:{{{POOL}}}:commands")
            await until(lambda: accepted(pool), timeout=20)
            await stage.settle()
        await require_equal(stage)
