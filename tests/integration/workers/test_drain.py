"""A worker ends: drained, stopped, or after a failure of its own."""

import asyncio
import contextlib

import pytest
from msgspec.structs import replace

from eventstore.ids import new_id
from eventstore.language.workers import Drain
from eventstore.log.replies import ClaimedAgent
from tests.integration.workers.roles import Quiet
from tests.integration.workers.script_calls import sends
from tests.waiting import timed
from tests.worker_pool import ORIGIN, POOL, QUICK, WorkerPool
from workers.api.agent import Agent, Context
from workers.process import inbox, registration
from workers.process.registration import ShutdownResult
from workers.runtime.slots import Slots


async def test_a_drain_releases_every_agent_and_stops_the_worker(pool: WorkerPool):
    """They are requeued as their next incarnation, and another worker runs them."""
    worker = await pool.worker(Quiet)
    ids = await pool.running(3)
    worker.request_drain("shut-down")
    await worker.wait()
    assert worker.exit_code == 0
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]
    events = await pool.events()
    [drained] = [e["event_id"] for e in events if e["type"] == "worker.draining"]
    causes = [e["causation_id"] for e in events if e["type"] == "agent.released"]
    assert causes == [drained] * 3
    for agent_id in ids:
        state = await pool.state(agent_id)
        assert (state.status, state.incarnation) == ("pending", 2)
        assert (await pool.data(agent_id, "agent.released"))["reason"] == "shut-down"
    await pool.worker(Quiet)
    for agent_id in ids:
        await pool.reached(agent_id, "running", incarnation=2)


async def test_agents_that_are_starting_are_released_too(pool: WorkerPool):
    class Slow(Agent):
        async def start(self, context: Context) -> None:
            await asyncio.Event().wait()

    pool.config = replace(QUICK, start_timeout_seconds=30)
    worker = await pool.worker(Slow)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "starting")
    worker.request_drain("shut-down")
    await worker.wait()
    assert (await pool.state(agent_id)).status == "pending"


async def test_a_slow_stop_is_cancelled_in_time_to_release_the_agent(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """The drain ends before the agent's grace does."""

    class Dallying(Agent):
        async def stop(self, context: Context) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(registration, "GRACE_SHARE", 0.1)
    pool.config = replace(QUICK, stop_grace_seconds=600, drain_seconds=5.0)
    worker = await pool.worker(Dallying)
    (agent_id,) = await pool.running()
    worker.request_drain("shut-down")
    took, _ = await timed(worker.wait())
    assert took < 2
    assert (await pool.state(agent_id)).status == "pending"
    assert worker.exit_code == 0


async def test_a_drain_ends_an_agent_with_the_termination_flag(pool: WorkerPool):
    """A termination is concurrent with a shut-down."""
    worker = await pool.worker(Quiet)
    (agent_id,) = await pool.running()
    worker._slots.apply_stop_flags = lambda *flag: None  # type: ignore[method-assign]  # no message
    await pool.terminate(agent_id)
    worker.request_drain("shut-down")
    await worker.wait()
    assert (await pool.state(agent_id)).status == "terminated"
    assert "agent.released" not in await pool.types(agent_id)


async def test_a_worker_that_stopped_properly_does_not_consider_itself_lost(pool: WorkerPool):
    """After `worker.stopped` a renewal would be refused as FENCED."""
    worker = await pool.worker(Quiet)
    evaluate = worker._log._evaluate

    async def delay_the_reply(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if sends("worker.stopped", arguments):
            await asyncio.sleep(3 * QUICK.renew_seconds)
        return reply

    worker._log._evaluate = delay_the_reply  # type: ignore[method-assign]
    await worker.stop()
    assert (await worker.wait(), worker.exit_code) == ("stop", 0)


@pytest.mark.parametrize("part", ["claiming", "listening"])
async def test_a_worker_drains_if_a_part_of_it_fails(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, part: str
):
    """Else it would renew its lease, and its free slots would never be filled.

    Nothing ordered that, so it counts as the loss of the worker.
    """
    owner, name = (Slots, "_claim") if part == "claiming" else (inbox, "execute_blocking")
    original, failing = getattr(owner, name), False

    def fail_once(*arguments: object) -> object:
        nonlocal failing
        if failing:
            failing = False
            raise RuntimeError("a defect")
        return original(*arguments)

    monkeypatch.setattr(registration, "ORDER_SECONDS", 0.2)
    monkeypatch.setattr(owner, name, fail_once)
    worker = await pool.worker(Quiet)
    ids = await pool.running(2)
    failing = True
    await pool.spawn()  # which wakes it
    assert await asyncio.wait_for(worker.wait(), 10) == "defect"
    assert worker.exit_code == ShutdownResult.NOT_ORDERED
    assert (await pool.types("w1"))[-1] == "worker.draining"
    assert (await pool.data("w1", "worker.draining"))["reason"] == "defect"
    for agent_id in ids:
        assert (await pool.state(agent_id)).status == "running", "its reaper decides what follows"


async def test_an_agent_that_cannot_be_withdrawn_ends_with_its_worker(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Its slot would never be free again."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    claimed = await pool.state(await pool.spawn())  # as a claim returns one that is to end
    worker = await pool.worker(Quiet)
    await pool.reached(claimed.agent_id, "running")
    monkeypatch.setattr(worker._pool_log, "act", fail)
    worker._slots._accept(ClaimedAgent(replace(claimed, agent_id=new_id()), b""))
    assert await asyncio.wait_for(worker.wait(), 15) == "stuck"
    assert worker.exit_code == 77


async def test_the_leader_drains_an_empty_worker(pool: WorkerPool):
    """`worker.draining` is written by another process, with a message to the worker."""
    worker = await pool.worker(Quiet)
    await pool.log.act_on_worker(POOL, "w1", Drain(reason="empty"), ORIGIN)
    assert await asyncio.wait_for(worker.wait(), 15) == "drain"
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]


async def test_a_part_that_swallows_its_cancellation_is_cancelled_again(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """As by a time-out of its client at the same time."""
    monkeypatch.setattr("workers.process.worker.CANCEL_SECONDS", 0.05)
    running = asyncio.Event()

    async def swallow() -> None:
        running.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    worker = await pool.worker(Quiet)
    worker._start_task(swallow())
    await running.wait()
    await asyncio.wait_for(worker.stop(), 10)


async def test_stop_may_be_called_twice(pool: WorkerPool):
    worker = await pool.worker(Quiet)
    await worker.stop()
    await worker.stop()
    assert await worker.wait() == "stop"
    assert (await pool.types("w1")).count("worker.stopped") == 1
