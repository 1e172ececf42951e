"""Agents that fail their checks or are idle for too long are ended."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from tests.integration.workers.roles import Noted
from tests.waiting import until
from tests.worker_pool import WorkerPool
from workers.api.agent import Agent, Context


async def test_two_failed_checks_in_a_row_are_unhealthy(pool: WorkerPool, calls: list[str]):
    class Sick(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            if context.labels:
                await asyncio.Event().wait()
            raise RuntimeError("sick")

    await pool.worker(Sick)
    for labels, kind in (({}, "RuntimeError"), ({"hangs": "yes"}, "TimeoutError")):
        calls.clear()
        agent_id = await pool.spawn(heartbeat_interval=0.1, labels=labels)
        await pool.reached(agent_id, "restarting")
        assert calls == ["start", "check", "check", "run ended", "stop"]
        assert (await pool.data(agent_id, "agent.unhealthy"))["error"]["type"] == kind


async def test_the_next_check_waits_until_one_that_hung_has_ended(
    pool: WorkerPool, calls: list[str]
):
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
    assert calls[:4] == ["start", "check", "check ended", "check"]


async def test_a_check_that_cannot_be_cancelled_is_unhealthy_by_itself(
    pool: WorkerPool, calls: list[str]
):
    class Clinging(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    await pool.worker(Clinging)
    agent_id = await pool.spawn(heartbeat_interval=0.1)
    await pool.reached(agent_id, "restarting")
    assert calls == ["start", "check", "run ended", "stop"]
    error = (await pool.data(agent_id, "agent.unhealthy"))["error"]
    assert error["type"] == "TimeoutError"


async def test_a_single_failed_check_has_no_effect(pool: WorkerPool, calls: list[str]):
    class Flaky(Noted):
        async def check(self, context: Context) -> None:
            self.calls.append("check")
            if len(self.calls) % 2:
                raise RuntimeError("sometimes")

    await pool.worker(Flaky)
    agent_id = await pool.spawn(heartbeat_interval=0.05)
    await until(lambda: len(calls) > 6)
    assert (await pool.state(agent_id)).status == "running"


async def test_an_idle_agent_is_ended_and_a_busy_one_is_not(pool: WorkerPool):
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
    """The test, which may be slow, sets the clock; the worker reads it all the time."""
    contexts: list[Context] = []
    now = 0.0

    class Touched(Agent):
        async def start(self, context: Context) -> None:
            contexts.append(context)

    monkeypatch.setattr("workers.api.agent.time", SimpleNamespace(monotonic=lambda: now))
    await pool.worker(Touched)
    agent_id = await pool.spawn(max_idle_time=0.1)
    await pool.reached(agent_id, "running")
    for _ in range(10):
        now += 0.02
        contexts[0].touch()
        await asyncio.sleep(0.02)  # time must pass: that is tested
    assert (await pool.state(agent_id)).status == "running"
    now += 0.1
    await pool.reached(agent_id, "terminated")
