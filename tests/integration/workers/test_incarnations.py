"""An incarnation has ended when all that it had under way has, whatever its code raised."""

import asyncio
import threading

import msgspec
import pytest

from tests.integration.workers.roles import Quiet
from tests.unit.workers.test_errors import HOSTILE
from tests.worker_pool import WorkerPool
from workers.api.agent import Agent, Context


@pytest.mark.parametrize("how", ["terminate", "at once", "crash", "check"])
async def test_an_end_is_written_when_calls_in_threads_have_ended(pool: WorkerPool, how: str):
    """Else the next incarnation would work at the same time as this one."""
    go, parked, statuses = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        parked.set()
        go.wait()

    class Threaded(Agent):
        async def run(self, context: Context) -> None:
            self.work = asyncio.get_running_loop().run_in_executor(None, work)
            if how != "crash":
                await asyncio.Event().wait()
            await asyncio.to_thread(parked.wait)
            raise RuntimeError("crash")

        async def check(self, context: Context) -> None:
            if how == "check" and parked.is_set():
                raise RuntimeError("sick")

    await pool.worker(Threaded)
    agent_id = await pool.spawn(heartbeat_interval=0.05 if how == "check" else 60.0)
    await pool.reached(agent_id, "running")
    await asyncio.to_thread(parked.wait)
    if how in ("terminate", "at once"):
        await pool.terminate(agent_id, graceful=how == "terminate")
    for _ in range(10):
        statuses.append((await pool.state(agent_id)).status)
        await asyncio.sleep(0.05)  # time must pass: that nothing is written is tested
    assert set(statuses) <= {"running", "stopping"}
    go.set()
    await pool.reached(agent_id, "restarting" if how in ("crash", "check") else "terminated")


@pytest.mark.parametrize("during", ["run", "start", "check", "task"])
async def test_no_object_that_is_raised_changes_an_outcome(pool: WorkerPool, during: str):
    """Each is the failure of its agent, and of nobody else."""

    async def fail(context: Context, where: str) -> None:
        if where == during:
            error = HOSTILE[context.input["name"]]()
            raise error
        if where == "run" and during == "task":
            await asyncio.create_task(fail(context, "task"))

    class Raising(Agent):
        async def start(self, context: Context) -> None:
            await fail(context, "start")

        async def run(self, context: Context) -> None:
            await fail(context, "run")
            await asyncio.Event().wait()

        async def check(self, context: Context) -> None:
            await fail(context, "check")

    await pool.worker({"quiet": Quiet, "role": Raising}, max_agents=len(HOSTILE) + 1)
    [other] = await pool.running(role_type="quiet")
    raw = [msgspec.Raw(msgspec.json.encode({"name": name})) for name in HOSTILE]
    ids = [await pool.spawn(input=one, heartbeat_interval=0.05) for one in raw]
    for agent_id in ids:
        await pool.reached(agent_id, "restarting")
    kind = {"start": "agent.start_failed", "check": "agent.unhealthy"}.get(during, "agent.crashed")
    for agent_id in ids:
        assert (await pool.data(agent_id, kind))["error"]["type"]
    assert (await pool.state(other)).status == "running"


async def test_a_stop_that_hangs_is_logged_with_its_place(pool: WorkerPool, lines):
    """Else nobody would see why the grace period passed."""

    class Hanging(Agent):
        async def stop(self, context: Context) -> None:
            await asyncio.Event().wait()

    await pool.worker(Hanging)
    [agent_id] = await pool.running()
    await pool.terminate(agent_id)
    await pool.reached(agent_id, "terminated")
    [line] = [line for line in lines if line["event"] == "agent.hanging"]
    assert (line["agent_id"], line["during"]) == (agent_id, "stop")
    assert "in stop\n    await asyncio.Event().wait()" in line["stack"]
    error = (await pool.data(agent_id, "agent.terminated"))["error"]
    assert (error["type"], error["traceback"]) == ("TimeoutError", line["stack"])


async def test_what_hangs_in_start_or_check_is_recorded_with_its_place(pool: WorkerPool):
    class Hanging(Agent):
        async def check(self, context: Context) -> None:
            await asyncio.Event().wait()

    await pool.worker(Hanging)
    agent_id = await pool.spawn(heartbeat_interval=0.05)
    await pool.reached(agent_id, "restarting")
    error = (await pool.data(agent_id, "agent.unhealthy"))["error"]
    assert "in check\n    await asyncio.Event().wait()" in error["traceback"]


@pytest.mark.parametrize("seconds", [0.0, 0.2])
@pytest.mark.parametrize("works", [True, False])
async def test_a_crash_within_a_group_names_what_crashed(
    pool: WorkerPool, seconds: float, works: bool
):
    """Entered in `start`: the group cancels `run`, if there is one, and only `stop` sees why."""

    class Grouped(Agent):
        async def start(self, context: Context) -> None:
            self.group = asyncio.TaskGroup()
            await self.group.__aenter__()
            self.group.create_task(self.fail())

        async def fail(self) -> None:
            await asyncio.sleep(seconds)
            raise ValueError("in a task")

        async def stop(self, context: Context) -> None:
            await self.group.__aexit__(None, None, None)

    class Working(Grouped):
        async def run(self, context: Context) -> None:
            await asyncio.Event().wait()

    await pool.worker(Working if works else Grouped)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "restarting")
    error = (await pool.data(agent_id, "agent.crashed"))["error"]
    assert (error["type"], error["message"]) == ("ValueError", "in a task")
