"""One damaged agent or worker blocks no other: not in a restart, a reap, or a survey."""

import asyncio
import os
import signal
from functools import partial
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from eventstore.errors import LogError
from eventstore.ids import new_id
from eventstore.language.agent_commands import End, Restart
from eventstore.language.agents import Status
from eventstore.language.pool_config import PoolConfig
from eventstore.log import parked as parking
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Outcome
from tests.integration.workers.hosts import POOL, Site
from tests.integration.workers.test_stale_surveys import context_of
from tests.pools import ORIGIN, types
from tests.waiting import until
from workers.supervisor import reaper
from workers.supervisor.pool_supervisor import PoolSupervisor

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
def site(site: Site) -> Site:
    (site.folder / "failing.py").write_text(FAILING)
    return site


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def pool_log(site: Site) -> PoolLog:
    return PoolLog(site.log, POOL, ORIGIN)


async def parked(site: Site) -> dict[str, parking.ParkedEntry]:
    return {one.subject: one for one in await parking.read(site.log, POOL)}


async def statuses(site: Site, ids: list[str]) -> set[Status]:
    return {agent.status for name in ids if (agent := await site.log.agent(POOL, name))}


async def test_a_restart_that_fails_delays_no_other(site: Site, server: Any) -> None:
    """A damaged agent is parked; names of no agent are removed from the schedules."""
    pool = await site.pool(backoff_min_seconds=60.0, backoff_max_seconds=60.0, max_workers=1)
    await site.host(agent="failing:Failing")
    damaged, *others = [(await pool.spawn()).agent_id for _ in range(3)]
    every = [damaged, *others]

    async def restarting() -> bool:
        return await statuses(site, every) == {Status.RESTARTING}

    await until(restarting)
    server.hset(f"agent:{{{POOL}}}:{damaged}", "incarnation", "x")
    due_now = [*every, *(f"unknown-{number}" for number in range(150))]
    server.zadd(f"{BASE}due", dict.fromkeys(due_now, 1))
    server.zadd(f"{BASE}timeouts", {"unknown": 1, others[0]: 2})

    async def running() -> bool:
        return await statuses(site, others) == {Status.RUNNING}

    await until(running, timeout=15)
    assert (await parked(site)).keys() == {damaged}
    await until(lambda: server.zcard(f"{BASE}due") == server.zcard(f"{BASE}timeouts") == 0)


async def test_a_lost_worker_is_reaped_although_one_of_its_agents_is_damaged(
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
    assert await parking.repair(site.log, one, None, ORIGIN, drop=False)
    await site.until_running(4)
    site.check()


def damage(server: Any, worker_id: str, how: str) -> None:
    key = f"process:{{{POOL}}}:{worker_id}"
    match how:
        case "field":
            server.hset(key, "max_agents", "ten")
        case "version":
            server.hset(key, "version", "x")
        case "gone":
            server.delete(key)
        case _:
            server.delete(key)
            server.set(key, "no hash")


async def test_workers_that_cannot_be_read_are_lost_and_their_agents_run_again(
    site: Site, server: Any
) -> None:
    """Each in another way."""
    pool = await site.pool(agents_per_worker=1)
    await site.host()
    ids = await site.run(pool, 4)
    damaged = await site.workers()
    for worker_id, how in zip(damaged, ("field", "version", "gone", "type"), strict=True):
        damage(server, worker_id, how)

    async def moved() -> bool:
        agents = [await site.log.agent(POOL, name) for name in ids]
        return all(a and a.status is Status.RUNNING and a.worker_id not in damaged for a in agents)

    await until(moved, timeout=20)
    for worker_id in damaged:
        await until(lambda: not server.sismember(f"{BASE}lost", worker_id))  # noqa: B023
        assert not server.exists(f"process:{{{POOL}}}:{worker_id}"), "what is minimal does not stay"
    assert await parked(site) == {}
    await site.until_running(4)
    site.check()


async def test_of_two_supervisors_one_fences_a_worker_that_cannot_be_read(
    site: Site, server: Any
) -> None:
    """With a new epoch; the worker's later writes are refused, and its slots are counted."""
    pool = await site.pool()
    worker_id = new_id()
    old = await pool.worker(worker_id)
    agent_id = (await pool.spawn()).agent_id
    await pool.claim(old)
    server.hset(f"{BASE}parked", f"worker:{worker_id}", "{}")  # by the previous version
    damage(server, worker_id, "field")
    [damaged] = (await site.survey()).unreadable
    await asyncio.gather(*(reaper.fence_unreadable(pool_log(site), damaged) for _ in range(2)))
    assert types(site.url)[-2:] == ["agent.claimed", "worker.lost"]
    [lost] = (await site.survey()).workers
    assert (lost.worker.status, lost.agent_count) == ("lost", 1)
    assert lost.worker.epoch > old.epoch
    acted = await site.log.act(POOL, agent_id, End(reason="completed"), ORIGIN, fence=old)
    assert acted.outcome is Outcome.FENCED
    assert server.exists(f"{BASE}parked") == 0
    assert await reaper.clean_up(pool_log(site), lost, PoolConfig())
    survey = await site.survey()
    assert (survey.free, survey.waiting, survey.workers) == (0, 1, ())


async def test_an_isolated_agent_of_a_worker_without_a_hash_is_subtracted(
    site: Site, server: Any
) -> None:
    """`meta.alone` counts workers with an isolated agent: if it is too high, others are blocked."""
    pool = await site.pool()
    agent_id = (await pool.spawn()).agent_id
    for _ in range(3):
        worker = new_id()
        fence = await pool.worker(worker)
        [claimed] = await pool.claim(fence)
        if claimed.agent.alone:
            break
        await pool.fence(worker)
        lost = await site.log.worker(POOL, worker)
        assert lost is not None
        await reaper.clean_up(pool_log(site), lost, pool.pool.config)
        await asyncio.sleep(0.1)  # its back-off
        await site.log.act(POOL, agent_id, Restart(), ORIGIN)
    assert (claimed.agent.agent_id, claimed.agent.alone) == (agent_id, True)
    assert server.hget(f"{BASE}meta", "alone") == b"1"
    damage(server, worker, "gone")
    [damaged] = (await site.survey()).unreadable
    await reaper.fence_unreadable(pool_log(site), damaged)
    [lost] = (await site.survey()).workers
    assert lost.isolated_agent == agent_id
    assert await reaper.clean_up(pool_log(site), lost, PoolConfig())
    assert server.hget(f"{BASE}meta", "alone") == b"0"


async def test_a_name_of_no_worker_is_removed_from_the_lists_without_an_event(
    site: Site, server: Any
) -> None:
    """The log has no such worker, so an event of it could not be folded."""
    await site.pool()
    await site.host()
    server.zadd(f"{BASE}processes", {"unknown": 5})
    server.hset(f"process:{{{POOL}}}:unknown", "a", "b")
    await until(lambda: server.zscore(f"{BASE}processes", "unknown") is None)
    assert server.hget(f"{BASE}meta", "free") == b"0", "its slots were never counted"
    assert types(site.url) == []
    await until(lambda: not server.exists(f"process:{{{POOL}}}:unknown"))


async def test_one_survey_that_cannot_read_a_worker_changes_nothing(
    site: Site, server: Any
) -> None:
    pool = await site.pool(lease_seconds=60.0)
    worker_id = new_id()
    await pool.worker(worker_id)
    pool_supervisor = PoolSupervisor(context_of(pool, "other"))
    damage(server, worker_id, "field")
    await pool_supervisor.reconcile()
    server.hset(f"process:{{{POOL}}}:{worker_id}", "max_agents", "10")
    await pool_supervisor.reconcile()
    damage(server, worker_id, "field")
    await pool_supervisor.reconcile()
    assert "worker.lost" not in types(site.url)
    await pool_supervisor.reconcile()
    assert types(site.url)[-1] == "worker.lost"


async def test_a_command_that_a_foreign_consumer_read_is_requeued(site: Site, server: Any) -> None:
    """A spawn that was read with XREADGROUP by hand would never start."""
    pool = await site.pool()
    await pool.spawn()
    server.xreadgroup("workers", "stranger", {f"{BASE}commands": ">"})
    await site.host()
    await site.until_running(1)
    await until(lambda: server.xlen(f"{BASE}commands") == 0)
    assert server.hget(f"{BASE}meta", "waiting") == b"0"
    site.check()


async def test_a_pool_that_a_recovered_catalogue_does_not_know_is_not_touched(
    site: Site, server: Any
) -> None:
    """Its keys are not created again, and the error is logged once."""
    pool = await site.pool()
    supervisor = await site.host()
    context = replace(
        context_of(pool),
        pool_log=PoolLog(site.log, "gone", ORIGIN),
        pool=partial(supervisor._pool, "gone"),
    )
    with pytest.raises(LogError, match="does not know pool 'gone'"):
        await PoolSupervisor(context).run()
    assert server.keys("pool:{gone}:*") == []
