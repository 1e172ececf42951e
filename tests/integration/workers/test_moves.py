"""Agents are moved by their workers on request, and never one that is busy."""

import asyncio

import pytest

from tests.integration.workers.roles import Quiet
from tests.waiting import until
from tests.worker_pool import POOL, WorkerPool
from workers.api.agent import Agent, Context


async def ask(pool: WorkerPool, worker_id: str, message: str) -> None:
    key = f"pool:{{{POOL}}}:inbox:{worker_id}"
    await pool.log.client.execute_command("LPUSH", key, message)


async def moves(pool: WorkerPool) -> list[str]:
    return [
        e["subject"]
        for e in await pool.events()
        if e["type"] == "agent.released" and '"moved"' in e["data"]
    ]


async def test_an_idle_agent_is_released_and_goes_on_elsewhere(pool: WorkerPool) -> None:
    """It counts as no failure."""
    await pool.worker(Quiet, max_agents=2)
    first, second = await pool.running(2)
    other = await pool.worker(Quiet)
    await ask(pool, "w1", f"move:{first}")
    state = await pool.reached(first, "running", incarnation=2)
    assert state.worker_id in {"w1", other._options.worker_id}
    assert await moves(pool) == [first]
    assert (state.failures, state.failures_in_row, state.losses_in_row) == ((), 0, 0)
    assert (await pool.state(second)).incarnation == 1


async def test_a_busy_agent_is_moved_only_where_busy_ones_are_meant(pool: WorkerPool) -> None:
    class Busy(Agent):
        async def run(self, context: Context) -> None:
            await asyncio.Event().wait()

    worker = await pool.worker(Busy)
    [agent_id] = await pool.running(1)
    worker._slots.move(agent_id)
    worker._slots.move("unknown")
    await ask(pool, "w1", f"move:{agent_id}")
    await asyncio.sleep(0.3)
    assert await moves(pool) == []
    await ask(pool, "w1", f"move-busy:{agent_id}")
    await pool.reached(agent_id, "running", incarnation=2)
    assert await moves(pool) == [agent_id]


async def test_an_agent_that_starts_is_not_moved(pool: WorkerPool) -> None:
    go = asyncio.Event()

    class Slow(Agent):
        async def start(self, context: Context) -> None:
            await go.wait()

    worker = await pool.worker(Slow)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "starting")
    worker._slots.move(agent_id)
    go.set()
    state = await pool.reached(agent_id, "running")
    assert state.incarnation == 1
    assert await moves(pool) == []


@pytest.mark.parametrize("cooperates", [False, True])
async def test_no_agent_is_interrupted_at_its_work_whenever_it_is_asked(
    pool: WorkerPool, cooperates: bool
) -> None:
    """It takes turns at waiting and working, each for one turn of the loop."""
    interrupted: list[str] = []
    starts = 0

    class Juggler(Agent):
        async def run(self, context: Context) -> None:
            nonlocal starts
            starts += 1
            while not (cooperates and context.stopping.is_set()):
                async with context.idle():
                    await asyncio.sleep(0)
                try:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    interrupted.append(context.agent_id)
                    raise

    worker = await pool.worker(Juggler)
    ids = await pool.running(3)
    async with asyncio.timeout(10):
        while starts < 20:
            for agent_id in ids:
                worker._slots.move(agent_id)
            await asyncio.sleep(0)
    assert interrupted == []
    assert len(await moves(pool)) >= 17 - len(ids)


async def test_the_log_has_how_many_agents_are_busy(pool: WorkerPool) -> None:
    waiting = asyncio.Event()

    class Busy(Agent):
        async def run(self, context: Context) -> None:
            if context.project_id == "idle":
                async with context.idle():
                    await waiting.wait()
            await waiting.wait()

    await pool.worker(Busy)
    await pool.running(2, project_id="busy")
    await pool.running(1, project_id="idle")

    async def reported() -> bool:
        [observed] = (await pool.log.survey(POOL)).workers
        return observed.busy == 2

    await until(reported)
