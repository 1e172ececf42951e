"""What alerts ask the views about agents."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from projector.queries.attention import failures_of, waiting
from tests.integration.projector.stage import POOL, Stage, open_stage


@pytest.fixture
async def stage(redis_url: str, database_url: str) -> AsyncIterator[Stage]:
    async with open_stage(redis_url, database_url) as opened:
        yield opened


async def test_the_agents_that_wait_are_counted_by_pool(stage: Stage) -> None:
    pool, other = await stage.pool(), await stage.pool("other")
    ids = []
    for _ in range(5):
        ids.append((await pool.spawn()).agent_id)
        await asyncio.sleep(0.002)  # ids of one millisecond have any order
    await other.spawn()
    await stage.catch_up()
    found = await stage.database.read(waiting)
    assert {name: one.count for name, one in found.items()} == {POOL: 5, "other": 1}
    one = found[POOL]
    assert (one.oldest.agent_id, one.oldest.status) == (ids[0], "pending")
    assert one.oldest.reason == "waiting to be claimed"
    assert [agent_id for agent_id, _ in one.newest] == ids[:1:-1]
    assert all(since for _, since in one.newest)
    only = await stage.database.read(lambda c: waiting(c, ["other", "no_such_pool"]))
    assert list(only) == ["other"]
    assert await stage.database.read(lambda c: waiting(c, [])) == {}


async def test_an_agent_that_a_worker_has_does_not_wait(stage: Stage) -> None:
    pool = await stage.pool()
    await stage.started(pool, await pool.worker("w1"), 2)
    await pool.spawn()
    await stage.catch_up()
    assert (await stage.database.read(waiting))[POOL].count == 1


async def test_how_often_agents_have_failed_is_found_with_their_status(stage: Stage) -> None:
    pool = await stage.pool()
    [running] = await stage.started(pool, await pool.worker("w1"), 1)
    pending = (await pool.spawn()).agent_id
    await stage.catch_up()
    ids = [running, pending, "unknown"]
    found = await stage.database.read(lambda c: failures_of(c, ids))
    assert found == {running: ("running", 0), pending: ("pending", 0)}
    assert await stage.database.read(lambda c: failures_of(c, [])) == {}
