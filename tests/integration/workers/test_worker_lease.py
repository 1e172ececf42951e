"""A worker renews its lease, and ends its agents when it has lost it."""

import asyncio
import time
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from eventstore.language.workers import Suspect
from tests.integration.workers.roles import Quiet
from tests.integration.workers.script_calls import is_claim
from tests.waiting import until, until_sync
from tests.worker_pool import ORIGIN, POOL, QUICK, WorkerPool, eventually, worker_pool
from workers.api.agent import Agent, Context
from workers.host.processes import boot_seconds
from workers.process import lease
from workers.process.loop_watch import LoopWatch
from workers.process.worker import Worker


async def test_a_fenced_worker_cancels_its_agents_and_writes_nothing(pool: WorkerPool):
    """Invariant 4: no event has an older epoch than a fence before it."""
    ended = asyncio.Event()

    class Noting(Agent):
        async def run(self, context: Context) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    worker = await pool.worker(Noting)
    await pool.running()
    await pool.fence("w1")
    before = len(await pool.events())
    assert await asyncio.wait_for(worker.wait(), 15) == "fenced"
    assert ended.is_set()
    assert worker.exit_code != 0
    assert len(await pool.events()) == before


async def test_a_fenced_worker_does_not_write_the_ends_of_its_agents(pool: WorkerPool):
    """The agent ends before the worker has noticed the fence."""
    go = asyncio.Event()

    class Crashing(Agent):
        async def run(self, context: Context) -> None:
            await go.wait()
            raise RuntimeError

    pool.config = replace(QUICK, renew_seconds=2.0)
    worker = await pool.worker(Crashing)
    await pool.running()
    await pool.fence("w1")
    before = len(await pool.events())
    go.set()
    assert await asyncio.wait_for(worker.wait(), 15) == "fenced"
    assert len(await pool.events()) == before


async def test_an_outage_shorter_than_the_lease_ends_no_agent(redis_server, tmp_path: Path):
    """Agents continue, and their events are written afterwards."""
    server = redis_server()
    go = asyncio.Event()

    class Finishing(Agent):
        async def run(self, context: Context) -> None:
            await go.wait()

    async with worker_pool(server.url, tmp_path) as pool:
        await pool.worker(Finishing)
        (agent_id,) = await pool.running()
        server.pause()
        go.set()
        await asyncio.sleep(0.5)  # an outage lasts
        server.resume()
        await pool.reached(agent_id, "terminated")


async def ends_with_its_lease(worker: Worker, ended: asyncio.Event) -> None:
    """The agent has ended before its lease of 1.5 s; Redis has just stopped answering."""
    started = time.monotonic()
    await asyncio.wait_for(ended.wait(), 10)
    assert time.monotonic() - started < 1.5
    assert await asyncio.wait_for(worker.wait(), 10) == "lease-expired"


async def test_without_redis_the_lease_ends_and_the_agents_with_it(redis_server, tmp_path: Path):
    """By its own clock the worker ends before any other worker may run its agents."""
    server = redis_server()
    started, ended = asyncio.Event(), asyncio.Event()

    class Noting(Agent):
        async def run(self, context: Context) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    config = replace(QUICK, lease_seconds=1.5)
    async with worker_pool(server.url, tmp_path, config) as pool:
        worker = await pool.worker(Noting)
        await pool.spawn()
        await asyncio.wait_for(started.wait(), 5)
        server.pause()
        await ends_with_its_lease(worker, ended)
        server.resume()


async def test_an_agent_whose_start_was_never_answered_ends_with_the_lease(
    redis_server, tmp_path: Path
):
    """A write about it that has started when Redis stops answering is not awaited."""
    server = redis_server()
    paused, ended = asyncio.Event(), asyncio.Event()

    class Noting(Agent):
        async def start(self, context: Context) -> None:
            self.work = asyncio.create_task(self.note())
            await asyncio.sleep(0)
            server.pause()
            paused.set()

        async def note(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    config = replace(QUICK, lease_seconds=1.5)
    async with worker_pool(server.url, tmp_path, config) as pool:
        worker = await pool.worker(Noting)
        await pool.spawn()
        await asyncio.wait_for(paused.wait(), 5)
        await ends_with_its_lease(worker, ended)
        server.resume()


async def test_no_agent_starts_from_a_reply_that_is_read_after_the_lease(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """The machine slept between a claim and its reply, and the lease's threads wake up last."""
    started: list[str] = []

    class Noting(Agent):
        async def run(self, context: Context) -> None:
            started.append(context.agent_id)

    pool.config = replace(QUICK, lease_seconds=3600.0, renew_seconds=600.0)
    worker = await pool.worker(Noting)
    await until(lambda: not worker._slots._wakeup.is_set())
    evaluate = worker._log._evaluate

    async def sleep_after_a_claim(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if is_claim(source, arguments):
            monkeypatch.setattr(lease, "boot_seconds", lambda: boot_seconds() + 3600.0)
        return reply

    worker._log._evaluate = sleep_after_a_claim  # type: ignore[method-assign]
    await pool.spawn()
    assert await asyncio.wait_for(worker.wait(), 15) == "lease-expired"
    assert started == []


def renewals(client: redis.Redis) -> int:
    return int(client.xlen(f"pool:{{{POOL}}}:heartbeats"))


async def test_the_lease_is_renewed_for_a_while_although_the_loop_is_busy(pool: WorkerPool):
    """Its thread needs no loop."""
    pool.config = replace(QUICK, loop_stall_seconds=20.0)
    worker = await pool.worker(Quiet)
    await pool.running()
    with redis.Redis.from_url(pool.url) as client:
        enough = renewals(client) + 4
        until_sync(lambda: renewals(client) >= enough)  # the stall: the loop does not turn
    assert not worker._lost_reason


async def test_a_loop_that_stalls_for_too_long_loses_the_lease(pool: WorkerPool):
    pool.config = replace(QUICK, loop_stall_seconds=0.5, lease_seconds=1.0)
    worker = await pool.worker(Quiet)
    await pool.running()  # one that still prepares may take longer
    time.sleep(3.0)  # the stall: after 0.5 s it is renewed once more, to say where
    assert await asyncio.wait_for(worker.wait(), 10) == "lease-expired"


async def test_a_live_suspect_recovers(pool: WorkerPool):
    await pool.worker(Quiet)
    await pool.log.act_on_worker(POOL, "w1", Suspect(reason="late"), ORIGIN)

    async def active() -> bool:
        observed = await pool.log.worker(POOL, "w1")
        return observed is not None and observed.worker.status == "active"

    await eventually(active)


class Working(Agent):
    async def run(self, context: Context) -> None:
        await asyncio.Event().wait()


async def test_the_guard_looks_seldom_while_no_agent_is_busy(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(lease, "IDLE_TICK_SECONDS", 0.1)
    pauses: list[float] = []
    monkeypatch.setattr(LoopWatch, "observe", lambda _, seconds: pauses.append(seconds))
    await pool.worker({"role": Quiet, "working": Working})
    await pool.running()
    await until(lambda: pauses[-2:] == [0.1, 0.1])
    await pool.running(role_type="working")
    await until(lambda: pauses[-2:] == [0.02, 0.02])


async def test_heartbeats_report_which_agents_are_idle(pool: WorkerPool):
    await pool.worker({"role": Quiet, "working": Working})
    (idle,) = await pool.running()
    (busy,) = await pool.running(role_type="working")

    async def reported() -> bool:
        heartbeats = await pool.entries("heartbeats")
        data = heartbeats[-1]["data"] if heartbeats else ""
        return f'"{idle}":"idle"' in data and f'"{busy}":"busy"' in data

    await eventually(reported)
