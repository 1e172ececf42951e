"""One damaged agent or worker holds up no other: not in a restart, a reap, or a survey."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.errors import LogError
from eventstore.language.agent_commands import End
from eventstore.language.agents import Status
from eventstore.log import parked as parking
from tests.integration.workers.test_supervisor import POOL, Site
from tests.pools import ORIGIN
from tests.waiting import until

BASE = f"pool:{{{POOL}}}:"
FAILING = """
import asyncio
from muster import Agent

class Failing(Agent):
    async def run(self, context):
        if context.incarnation == 1:
            raise ValueError("once")
        await asyncio.Event().wait()
"""


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "failing.py").write_text(FAILING)
    site = Site(redis_url, tmp_path)
    yield site
    await site.close()


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def parked(site: Site) -> dict[str, parking.ParkedEntry]:
    return {one.subject: one for one in await parking.read(site.log, POOL)}


async def statuses(site: Site, ids: list[str]) -> set[Status]:
    return {agent.status for name in ids if (agent := await site.log.agent(POOL, name))}


async def test_a_restart_that_cannot_be_done_holds_up_no_other(site: Site, server: Any) -> None:
    """A damaged agent is parked; names that are nobody's leave the schedules."""
    pool = await site.pool(backoff_min_seconds=1.0, backoff_max_seconds=1.0)
    await site.host(agent="failing:Failing")
    damaged, *others = [(await pool.spawn()).agent_id for _ in range(3)]
    every = [damaged, *others]

    async def restarting() -> bool:
        return await statuses(site, every) == {Status.RESTARTING}

    await until(restarting)
    server.hset(f"agent:{{{POOL}}}:{damaged}", "incarnation", "x")
    server.zadd(f"{BASE}due", {f"nobody-{number}": 1 for number in range(150)})
    server.zadd(f"{BASE}timeouts", {"nobody": 1, others[0]: 2})

    async def running() -> bool:
        return await statuses(site, others) == {Status.RUNNING}

    await until(running, timeout=15)
    assert (await parked(site)).keys() == {damaged}
    await until(lambda: server.zcard(f"{BASE}due") == server.zcard(f"{BASE}timeouts") == 0)


async def test_a_lost_worker_is_cleared_although_an_agent_of_its_is_damaged(
    site: Site, server: Any
) -> None:
    pool = await site.pool()
    await site.host()
    damaged, *others = [(await pool.spawn()).agent_id for _ in range(4)]
    await site.until_running(4)
    [(worker_id, pid)] = (await site.workers()).items()
    server.hset(f"agent:{{{POOL}}}:{damaged}", "failures", "!")
    os.kill(pid, signal.SIGKILL)

    async def moved() -> bool:
        agents = [await site.log.agent(POOL, name) for name in others]
        return {(a.status, a.incarnation) for a in agents if a} == {(Status.RUNNING, 2)}

    await until(moved)
    await until(lambda: not server.sismember(f"{BASE}lost", worker_id))
    one = (await parked(site))[damaged]
    server.hset(f"agent:{{{POOL}}}:{damaged}", "failures", "")
    assert await parking.retry_agent(site.log, one, None, ORIGIN)
    await site.until_running(4)
    site.check()


async def test_a_worker_that_cannot_be_read_stops_no_pool(site: Site, server: Any) -> None:
    """The pool goes on; made anew from its events the worker is watched again."""
    pool = await site.pool()
    await site.host()
    await pool.spawn()
    await site.until_running(1)
    [worker_id] = await site.workers()
    told = (await site.survey()).workers[0].worker
    server.hset(f"process:{{{POOL}}}:{worker_id}", "max_agents", "ten")
    found = await until(lambda: parked(site))
    assert found.keys() == {worker_id}
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    await site.until_running(4)
    assert await parking.retry_worker(site.log, found[worker_id], told, ORIGIN)
    held = {o.worker.worker_id: o.agent_count for o in (await site.survey()).workers}
    assert (held[worker_id], sum(held.values())) == (1, 4)
    os.kill(told.pid, signal.SIGKILL)
    await until(lambda: server.zscore(f"{BASE}processes", worker_id) is None)
    await site.until_running(4)
    site.check()


async def test_a_worker_that_is_parked_takes_no_agents_until_it_is_retried(
    site: Site, server: Any
) -> None:
    """Nobody watches its lease: what it took would be nobody's when it dies."""
    pool = await site.pool()
    fence = await pool.worker("w")
    held = (await pool.spawn()).agent_id
    await pool.claim(fence)
    told = (await site.survey()).workers[0].worker
    server.hdel(f"process:{{{POOL}}}:w", "reason")
    [damage] = (await site.survey()).unreadable
    await site.log.park(POOL, damage)
    await site.log.act(POOL, held, End(reason="completed"), ORIGIN, fence=fence)
    await pool.spawn()
    assert await pool.claim(fence) == []
    assert (await site.survey()).free == 0
    server.hset(f"process:{{{POOL}}}:w", "reason", "")
    assert await parking.retry_worker(site.log, (await parked(site))["w"], told, ORIGIN)
    assert (await site.survey()).free == 10
    assert len(await pool.claim(fence)) == 1


async def test_a_dropped_worker_is_taken_for_lost(site: Site, server: Any) -> None:
    pool = await site.pool()
    await site.host()
    await pool.spawn()
    await site.until_running(1)
    [worker_id] = await site.workers()
    told = (await site.survey()).workers[0].worker
    server.delete(f"process:{{{POOL}}}:{worker_id}")
    found = await until(lambda: parked(site))
    assert await parking.drop_worker(site.log, found[worker_id], told, ORIGIN)

    async def elsewhere() -> bool:
        [agent] = [await site.log.agent(POOL, name) for name in await site.log.live(POOL)]
        assert agent is not None
        return agent.status is Status.RUNNING and agent.worker_id != worker_id

    await until(elsewhere)
    site.check()


async def test_what_a_stranger_read_from_the_queue_is_put_back(site: Site, server: Any) -> None:
    """XREADGROUP by hand takes a spawn that nobody will start."""
    pool = await site.pool()
    await pool.spawn()
    server.xreadgroup("workers", "somebody", {f"{BASE}commands": ">"})
    await site.host()
    await site.until_running(1)
    await until(lambda: server.xlen(f"{BASE}commands") == 0)
    assert server.hget(f"{BASE}meta", "waiting") == b"0"
    site.check()


async def test_a_pool_that_a_recovered_catalogue_does_not_know_is_let_be(
    site: Site, server: Any
) -> None:
    """Nothing of it is made anew in Redis, and it is an error of the log, said once."""
    await site.pool()
    supervisor = await site.host()
    with pytest.raises(LogError, match="does not know pool 'gone'"):
        await supervisor._supervise_pool("gone")
    assert server.keys("pool:{gone}:*") == []
