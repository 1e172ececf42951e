"""Workers in this process, on a real Valkey: how agents are claimed, run and ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.connection.calls import execute
from eventstore.log import parked
from tests.waiting import until
from tests.worker_pool import POOL, WorkerPool, eventually, worker_pool
from workers.api.agent import Agent, Context
from workers.process.registration import NotOrdered
from workers.process.worker import Worker


@pytest.fixture
async def pool(redis_url: str, tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with worker_pool(redis_url, tmp_path) as made:
        yield made


class Quiet(Agent):
    """Runs until it is stopped."""


class Noted(Agent):
    """Records its calls."""

    calls: ClassVar[list[str]] = []

    async def start(self, context: Context) -> None:
        self.calls.append("start")

    async def run(self, context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.calls.append("run ended")

    async def stop(self, context: Context) -> None:
        self.calls.append("stop")


@pytest.fixture(autouse=True)
def _forget_calls() -> None:
    Noted.calls.clear()


async def test_a_worker_needs_an_open_order(pool: WorkerPool):
    """A launch after its order expired, or a second one, must not become a worker."""
    worker = Worker(pool.options("unknown"), {}, start_time=1)
    with pytest.raises(NotOrdered):
        await worker.start()
    first = await pool.worker(Quiet)
    again = Worker(pool.options("w1"), {}, start_time=1)
    with pytest.raises(NotOrdered):
        await again.start()
    assert await pool.types("w1") == ["worker.requested", "worker.started"]
    await first.stop()


async def test_spawns_are_claimed_and_started_each_with_its_input(pool: WorkerPool):
    """The steps of one spawn, with the agent's input."""
    contexts: list[Context] = []

    class Curious(Agent):
        async def start(self, context: Context) -> None:
            contexts.append(context)

    await pool.worker(Curious)
    agent_id = await pool.spawn(
        labels={"a": "b"}, input=msgspec.Raw(b'{"n": 1}'), project_id="proj"
    )
    await pool.reached(agent_id, "running")
    assert await pool.types(agent_id) == ["agent.requested", "agent.claimed", "agent.started"]
    context = contexts[0]
    assert (context.agent_id, context.project_id, context.pool_name) == (agent_id, "proj", POOL)
    assert (context.input, context.labels, context.incarnation) == ({"n": 1}, {"a": "b"}, 1)
    claimed = next(e for e in await pool.events(agent_id) if e["type"] == "agent.claimed")
    assert str(context.fencing_token) == f"1:{claimed['seq']}"


async def test_no_worker_has_more_agents_than_slots(pool: WorkerPool):
    """Invariant 1, and a freed slot is filled at once."""
    await pool.worker(Quiet, max_agents=2)
    ids = [await pool.spawn() for _ in range(5)]

    async def running() -> list[str]:
        return [i for i in ids if (await pool.state(i)).status == "running"]

    await eventually(lambda: _count(running, 2))
    assert len(await pool.log.held(POOL, "w1")) == 2
    for _ in range(3):
        await pool.terminate((await running())[0])
        await eventually(lambda: _count(running, 2))
        assert len(await pool.log.held(POOL, "w1")) == 2


async def _count(listing, count: int) -> bool:
    return len(await listing()) == count


async def test_a_crash_is_restarted_until_the_budget_is_spent(pool: WorkerPool):
    """`agent.crashed` has the error; when the budget is spent, `agent.failed` follows."""

    class Crashing(Agent):
        async def run(self, context: Context) -> None:
            raise ValueError("boom \udcff" + "x" * 5000)

    await pool.worker(Crashing)
    agent_id = await pool.spawn()
    for incarnation in range(1, 6):
        await pool.reached(agent_id, "restarting", incarnation=incarnation)
        await pool.restart_due()
    await pool.reached(agent_id, "failed")
    error = (await pool.data(agent_id, "agent.crashed"))["error"]
    assert error["type"] == "ValueError"
    assert error["message"].startswith("boom \\udcff")
    assert len(error["message"]) == 2000
    assert "raise ValueError" in error["traceback"]
    assert "calls.py" not in error["traceback"]
    assert (await pool.types(agent_id)).count("agent.started") == 6


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_an_agent_raises_is_its_own_crash(pool: WorkerPool, exception):
    """Not the worker's: its other agents continue."""

    class Leaving(Agent):
        async def run(self, context: Context) -> None:
            raise exception

    await pool.worker({"quiet": Quiet, "leaving": Leaving})
    other = await pool.spawn(role_type="quiet")
    await pool.reached(other, "running")
    agent_id = await pool.spawn(role_type="leaving")
    await pool.reached(agent_id, "restarting")
    error = (await pool.data(agent_id, "agent.crashed"))["error"]
    assert error["type"].endswith(exception.__name__)
    assert (await pool.state(other)).status == "running"


async def test_a_subtask_that_exits_does_not_end_the_worker(pool: WorkerPool):
    """asyncio would let a SystemExit of any task end the loop."""

    class Nested(Agent):
        async def run(self, context: Context) -> None:
            async def leave() -> None:
                raise SystemExit(3)

            await asyncio.create_task(leave())

    await pool.worker(Nested)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "restarting")
    assert "AgentExit" in (await pool.data(agent_id, "agent.crashed"))["error"]["type"]


class BadStart(Agent):
    async def start(self, context: Context) -> None:
        raise RuntimeError("cannot")


class SlowStart(Agent):
    async def start(self, context: Context) -> None:
        await asyncio.Event().wait()


class BadInit(Agent):
    def __init__(self) -> None:
        raise RuntimeError("cannot")


@pytest.mark.parametrize(
    ("role", "said"), [(BadStart, "cannot"), (SlowStart, "within 0.5 s"), (BadInit, "cannot")]
)
async def test_a_start_that_fails_is_recorded_with_its_error(pool: WorkerPool, role, said: str):
    """It raises, hangs, or cannot even be constructed."""
    await pool.worker(role, config=replace(pool.config, start_timeout_seconds=0.5))
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "restarting")
    assert said in (await pool.data(agent_id, "agent.start_failed"))["error"]["message"]
    assert await pool.log.held(POOL, "w1") == []


async def test_a_role_that_the_worker_does_not_have_fails_to_start(pool: WorkerPool):
    await pool.worker({})
    agent_id = await pool.spawn(role_type="other")
    await pool.reached(agent_id, "restarting")
    error = (await pool.data(agent_id, "agent.start_failed"))["error"]
    assert "'other' is not declared" in error["message"]


async def test_a_run_that_returns_is_completed(pool: WorkerPool):
    class Short(Noted):
        async def run(self, context: Context) -> None:
            self.calls.append("run ended")

    await pool.worker(Short)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "terminated")
    assert (await pool.data(agent_id, "agent.terminated"))["reason"] == "completed"
    assert Noted.calls == ["start", "run ended", "stop"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_two_failed_checks_in_a_row_are_unhealthy(pool: WorkerPool, hangs: bool):
    class Sick(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            if hangs:
                await asyncio.Event().wait()
            raise RuntimeError("sick")

    await pool.worker(Sick)
    agent_id = await pool.spawn(heartbeat_interval=0.1)
    await pool.reached(agent_id, "restarting")
    assert Noted.calls == ["start", "check", "check", "stop", "run ended"]
    error = (await pool.data(agent_id, "agent.unhealthy"))["error"]
    assert error["type"] == ("TimeoutError" if hangs else "RuntimeError")


async def test_the_next_check_waits_until_one_that_hung_has_ended(pool: WorkerPool):
    """Both would use the same resource of the agent."""

    class Tidy(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # releases something
                self.calls.append("check ended")

    await pool.worker(Tidy)
    agent_id = await pool.spawn(heartbeat_interval=0.2)
    await pool.reached(agent_id, "restarting")
    assert Noted.calls[:4] == ["start", "check", "check ended", "check"]


async def test_a_check_that_cannot_be_cancelled_is_unhealthy_by_itself(pool: WorkerPool):
    class Clinging(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    await pool.worker(Clinging)
    agent_id = await pool.spawn(heartbeat_interval=0.1)
    await pool.reached(agent_id, "restarting")
    assert Noted.calls == ["start", "check", "stop", "run ended"]
    error = (await pool.data(agent_id, "agent.unhealthy"))["error"]
    assert error["type"] == "TimeoutError"


async def test_a_single_failed_check_has_no_effect(pool: WorkerPool):
    class Flaky(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            if len(self.calls) % 2:
                raise RuntimeError("now and then")

    await pool.worker(Flaky)
    agent_id = await pool.spawn(heartbeat_interval=0.05)
    await until(lambda: len(Noted.calls) > 6)
    assert (await pool.state(agent_id)).status == "running"


async def test_an_idle_agent_is_ended_a_busy_one_is_not(pool: WorkerPool):
    """`max_idle_time` counts only time without work."""

    class Resting(Agent):
        async def run(self, context: Context) -> None:
            async with context.idle():
                await asyncio.Event().wait()

    await pool.worker({"role": Resting, "busy": Noted})
    busy = await pool.spawn(role_type="busy", max_idle_time=0.2)
    resting = await pool.spawn(max_idle_time=0.2)
    await pool.reached(resting, "terminated")
    assert (await pool.data(resting, "agent.terminated"))["reason"] == "idle"
    assert (await pool.state(busy)).status == "running"


async def test_touch_restarts_the_idle_clock(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch):
    """The clock is the test's, which may be slow; the worker reads it all the time."""
    contexts: list[Context] = []
    now = 0.0

    class Touched(Agent):
        async def start(self, context: Context) -> None:
            contexts.append(context)

    monkeypatch.setattr("workers.api.agent.time", SimpleNamespace(monotonic=lambda: now))
    await pool.worker(Touched)
    agent_id = await pool.spawn(max_idle_time=0.5)
    await pool.reached(agent_id, "running")
    for _ in range(10):
        now += 0.1
        contexts[0].touch()
        await asyncio.sleep(0.1)  # time must pass: that is tested
    assert (await pool.state(agent_id)).status == "running"
    now += 0.5
    await pool.reached(agent_id, "terminated")


# ---- terminating -------------------------------------------------------------------------------


async def test_a_running_agent_is_stopped_then_cancelled(pool: WorkerPool):
    """`stop` runs while `run` continues; the end is written when both are done."""
    await pool.worker(Noted)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    assert Noted.calls == ["start", "stop", "run ended"]
    assert (await pool.types(agent_id))[-2:] == ["agent.termination_requested", "agent.terminated"]


async def test_without_grace_an_agent_is_cancelled_at_once(pool: WorkerPool):
    await pool.worker(Noted)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
    await pool.terminate(agent_id, graceful=False)
    await pool.reached(agent_id, "terminated")
    assert Noted.calls == ["start", "run ended"]


async def test_an_agent_whose_hash_was_deleted_is_parked_when_it_ends(pool: WorkerPool):
    """Else it would keep its slot and count as live, although nothing of it runs."""
    done = asyncio.Event()

    class Waits(Agent):
        async def run(self, context: Context) -> None:
            await done.wait()

    await pool.worker(Waits)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
    await execute(pool.log.client, "DEL", pool.log.keys.agent(POOL, agent_id))
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
    await execute(pool.log.client, "HSET", key, "stop", "perhaps")
    await pool.terminate(other)
    await pool.reached(other, "terminated")


async def test_a_termination_without_grace_replaces_a_graceful_one(pool: WorkerPool):
    stopping = asyncio.Event()

    class Dallying(Agent):
        async def stop(self, context: Context) -> None:
            stopping.set()
            await asyncio.Event().wait()

    await pool.worker(Dallying, config=_patient(pool))
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
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
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
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
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
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
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    await until(lambda: written)
    assert written == ["stopping"]
