"""An agent is terminated: with grace or without, while it starts, crashes or leaves things open."""

import asyncio

import pytest
from msgspec.structs import replace

from eventstore.errors import LogUnreachable
from eventstore.log import parked
from tests.integration.workers.roles import Noted, Quiet, SlowStart
from tests.waiting import until
from tests.worker_pool import POOL, WorkerPool, eventually
from workers.api.agent import Agent, Context


async def test_a_running_agent_is_cancelled_then_stopped(pool: WorkerPool, calls: list[str]):
    """`run` never looked at `stopping`; `stop` comes after it, then the end is written."""
    await pool.worker(Noted)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert calls == ["start", "run ended", "stop"]
    assert (await pool.types(agent_id))[-2:] == ["agent.termination_requested", "agent.terminated"]


async def test_without_grace_an_agent_is_cancelled_at_once(pool: WorkerPool, calls: list[str]):
    await pool.worker(Noted)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id, graceful=False)
    await pool.reached(agent_id, "terminated")
    assert calls == ["start", "run ended"]


class Winding(Noted):
    """Looks at `stopping`, then has something left to do."""

    seconds = 0.02

    async def run(self, context: Context) -> None:
        self.calls.append("run")
        try:
            await context.stopping.wait()
            await asyncio.sleep(self.seconds)  # the call that is under way
            self.calls.append("run returned")
        except asyncio.CancelledError:
            self.calls.append("run cancelled")
            raise


class Slow(Winding):
    seconds = 60.0


async def test_a_run_that_looks_at_stopping_may_return(pool: WorkerPool, calls: list[str]):
    """What comes behind `await context.stopping.wait()` is not cut off."""
    await pool.worker(Winding, config=_patient(pool))
    [agent_id] = await pool.running()
    await until(lambda: "run" in calls)
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert calls == ["start", "run", "run returned", "stop"]


async def test_a_run_that_does_not_return_in_time_is_cancelled(pool: WorkerPool, calls: list[str]):
    """Half of the grace period is its own; `stop` gets what is left."""
    await pool.worker(Slow)
    [agent_id] = await pool.running()
    await until(lambda: "run" in calls)
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert calls == ["start", "run", "run cancelled", "stop"]
    assert "error" not in await pool.data(agent_id, "agent.terminated")


async def test_without_grace_nothing_may_return(pool: WorkerPool, calls: list[str]):
    """At once: cancelled, and no `stop`; also where it was asked gracefully before."""
    await pool.worker(Slow, config=_patient(pool))
    [agent_id] = await pool.running()
    await until(lambda: "run" in calls)
    await pool.terminate(agent_id)
    await pool.terminate(agent_id, graceful=False)
    await pool.reached(agent_id, "terminated")
    assert calls == ["start", "run", "run cancelled"]


async def test_an_agent_whose_hash_was_deleted_is_parked_when_it_ends(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Else it would occupy its slot and count as live, although nothing of it runs.

    Also where Redis does not answer at first.
    """
    done = asyncio.Event()

    class Waits(Agent):
        async def run(self, context: Context) -> None:
            await done.wait()

    worker = await pool.worker(Waits)
    park = worker._pool_log.park

    async def fail_once(*_: object, **__: object) -> None:
        monkeypatch.setattr(worker._pool_log, "park", park)
        raise LogUnreachable("no reply")

    monkeypatch.setattr(worker._pool_log, "park", fail_once)
    [agent_id] = await pool.running()
    await pool.log.client.execute_command("DEL", pool.log.keys.agent(POOL, agent_id))
    done.set()

    async def freed() -> bool:
        return (await pool.log.survey(POOL)).free == 10

    await eventually(freed)
    [one] = await parked.read(pool.log, POOL)
    assert (one.subject, one.reason) == (agent_id, "its hash is gone")


async def test_an_unknown_flag_does_not_hide_others(pool: WorkerPool):
    """It was written by hand, or by a newer version."""
    await pool.worker(Quiet)
    damaged, other = await pool.spawn(), await pool.spawn()
    for agent_id in (damaged, other):
        await pool.reached(agent_id, "running")
    key = pool.log.keys.agent(POOL, damaged)
    await pool.log.client.execute_command("HSET", key, "stop", "perhaps")
    await pool.terminate(other)
    await pool.reached(other, "terminated")


async def test_a_termination_without_grace_replaces_a_graceful_one(pool: WorkerPool):
    stopping = asyncio.Event()

    class Dallying(Agent):
        async def stop(self, context: Context) -> None:
            stopping.set()
            await asyncio.Event().wait()

    await pool.worker(Dallying, config=_patient(pool))
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await stopping.wait()
    await pool.terminate(agent_id, graceful=False)
    await pool.reached(agent_id, "terminated")


def _patient(pool: WorkerPool):
    return replace(pool.config, stop_grace_seconds=30.0, drain_seconds=60.0)


async def test_a_starting_agent_is_ended_without_having_started(pool: WorkerPool):
    """A termination is concurrent with the start."""
    await pool.worker(SlowStart, config=_patient(pool))
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "starting")
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert "agent.started" not in await pool.types(agent_id)


async def test_a_flag_set_while_start_is_settled_wins(pool: WorkerPool):
    """A termination is concurrent with `agent.started`: no message is needed to find its flag."""
    go = asyncio.Event()

    class Waiting(Noted):
        async def start(self, context: Context) -> None:
            await go.wait()

    worker = await pool.worker(Waiting)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "starting")
    worker._lease.renew_soon = lambda: None  # type: ignore[method-assign]  # the message is lost
    worker._slots.apply_stop_flags = lambda *flag: None  # type: ignore[method-assign]
    await pool.terminate(agent_id)
    go.set()
    await pool.reached(agent_id, "terminated")
    assert "agent.started" not in await pool.types(agent_id)


async def test_a_crash_of_an_agent_to_be_ended_ends_it(pool: WorkerPool):
    """A termination is concurrent with a crash: no restart."""

    class Spiteful(Agent):
        async def run(self, context: Context) -> None:
            await context.stopping.wait()
            raise RuntimeError("never")

        async def stop(self, context: Context) -> None:
            await asyncio.sleep(0)

    await pool.worker(Spiteful)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert "agent.restarting" not in await pool.types(agent_id)


async def test_tasks_that_an_agent_left_end_with_it(pool: WorkerPool):
    """Nothing of a terminated agent runs again."""
    left: list[asyncio.Task[bool]] = []

    class Littering(Agent):
        async def start(self, context: Context) -> None:
            left.append(asyncio.create_task(asyncio.Event().wait()))

    await pool.worker(Littering)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert left[0].cancelled()


async def test_a_generator_of_an_agent_is_closed_before_its_end_is_written(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """It might release what the next incarnation uses by then."""
    monkeypatch.setattr("workers.runtime.agent_run.CLOSE_SECONDS", 20.0)
    written: list[str] = []

    async def feed():
        try:
            while True:
                yield
        finally:
            await asyncio.sleep(0.2)  # releases something
            written.append((await pool.state(agent_id)).status)

    class Feeding(Agent):
        async def run(self, context: Context) -> None:
            self.feed = feed()
            async for _ in self.feed:
                await asyncio.Event().wait()

    await pool.worker(Feeding)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    await until(lambda: written)
    assert written == ["stopping"]
