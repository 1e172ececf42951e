"""An incarnation has ended when all that it had under way has, whatever its code raised."""

import asyncio
import threading

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.language.agent_commands import Clear, Command
from tests.integration.workers.roles import Quiet
from tests.unit.workers.test_errors import HOSTILE
from tests.worker_pool import POOL, WorkerPool
from workers.api.agent import Agent, Context
from workers.runtime.settlement import Settlement


async def test_an_end_is_written_when_calls_in_threads_have_ended(pool: WorkerPool):
    """Else the next incarnation would work at the same time as this one."""
    go, parked = threading.Event(), threading.Semaphore(0)
    ways = {"terminate": "terminated", "at once": "terminated"}
    ways |= {"crash": "restarting", "check": "restarting"}

    def work() -> None:
        parked.release()
        go.wait()

    class Threaded(Agent):
        async def run(self, context: Context) -> None:
            self.work = asyncio.get_running_loop().run_in_executor(None, work)
            if context.labels["how"] == "crash":
                await ending.wait()
                raise RuntimeError("crash")
            await asyncio.Event().wait()

        async def check(self, context: Context) -> None:
            if context.labels["how"] == "check" and ending.is_set():
                raise RuntimeError("sick")

    ending = asyncio.Event()
    await pool.worker(Threaded)
    ids = {how: await pool.spawn(heartbeat_interval=0.05, labels={"how": how}) for how in ways}
    for agent_id in ids.values():
        await pool.reached(agent_id, "running")
        await asyncio.to_thread(parked.acquire)
    ending.set()
    for how in ("terminate", "at once"):
        await pool.terminate(ids[how], graceful=how == "terminate")
    statuses: set[str] = set()
    for _ in range(10):
        statuses |= {(await pool.state(agent_id)).status for agent_id in ids.values()}
        await asyncio.sleep(0.05)  # time must pass: that nothing is written is tested
    assert statuses <= {"running", "stopping"}
    go.set()
    for how, status in ways.items():
        await pool.reached(ids[how], status)


async def test_no_object_that_is_raised_changes_an_outcome(pool: WorkerPool):
    """Each is the failure of its agent, and of nobody else."""

    class Raising(Agent):
        async def fail(self, context: Context, where: str) -> None:
            if where == context.labels["during"]:
                error = HOSTILE[context.labels["name"]]()
                raise error

        async def start(self, context: Context) -> None:
            await self.fail(context, "start")

        async def run(self, context: Context) -> None:
            await self.fail(context, "run")
            await asyncio.create_task(self.fail(context, "task"))
            await asyncio.Event().wait()

        async def check(self, context: Context) -> None:
            await self.fail(context, "check")

    events = {"start": "agent.start_failed", "check": "agent.unhealthy"}
    events |= {"run": "agent.crashed", "task": "agent.crashed"}
    labels = [{"name": name, "during": during} for name in HOSTILE for during in events]
    await pool.worker({"quiet": Quiet, "role": Raising}, max_agents=len(labels) + 1)
    [other] = await pool.running(role_type="quiet")
    ids = [await pool.spawn(labels=one, heartbeat_interval=0.05) for one in labels]
    for agent_id in ids:
        await pool.reached(agent_id, "restarting")
    failed = {event["subject"]: event for event in await pool.events() if "error" in event["data"]}
    for agent_id, one in zip(ids, labels, strict=True):
        assert failed[agent_id]["type"] == events[one["during"]], one
        assert msgspec.json.decode(failed[agent_id]["data"])["error"]["type"], one
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


async def test_a_run_that_ends_while_its_isolation_is_ended_is_noticed(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Nothing waits for it while the step is written, so nothing is woken."""
    let_end, ended = asyncio.Event(), asyncio.Event()
    write = Settlement.write

    class Brief(Agent):
        async def run(self, context: Context) -> None:
            await let_end.wait()
            ended.set()

    async def write_slowly(self: Settlement, command: Command) -> None:
        if isinstance(command, Clear):
            let_end.set()
            await ended.wait()
            await asyncio.sleep(0)
        await write(self, command)

    monkeypatch.setattr(Settlement, "write", write_slowly)
    pool.config = replace(pool.config, suspicion_window_seconds=0.1)
    agent_id = await pool.spawn()
    key = pool.log.keys.agent(POOL, agent_id)
    await pool.log.client.execute_command("HSET", key, "alone", "1")
    await pool.worker(Brief)
    await pool.reached(agent_id, "terminated")
