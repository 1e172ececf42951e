"""A worker in a process of its own, forked as the supervisor does: signals, death, log files."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.integration.workers.worker_processes import Processes
from tests.waiting import until
from tests.worker_pool import QUICK, WorkerPool
from workers.host.processes import start_time
from workers.process.lease import EXIT_LEASE_LOST
from workers.process.registration import ShutdownResult

NOT_ORDERED = ShutdownResult.NOT_ORDERED

AGENTS = """
import asyncio, logging, sys, time
from workers.api.agent import Agent

class Talking(Agent):
    async def run(self, context):
        print("printed")
        logging.getLogger("acme").warning("logged")
        context.logger.info("asked", answer=42)
        print("no newline", end="")

class Blocking(Agent):
    async def run(self, context):
        time.sleep(3600)

class Deaf(Agent):
    async def run(self, context):
        print("at work")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

class Parked(Agent):
    async def run(self, context):
        print("at work")
        await asyncio.to_thread(lambda: time.sleep(3600))

class Ending(Agent):
    async def run(self, context):
        loop = asyncio.get_running_loop()
        for task in asyncio.tasks._all_tasks:
            if task is not asyncio.current_task():
                task.cancel()
        loop.call_soon(loop.stop)
        await asyncio.sleep(0.01)
        loop.stop()

GENERATORS = []

async def ticks():
    try:
        while True:
            yield
    finally:
        await asyncio.Event().wait()

class Ticking(Agent):
    async def run(self, context):
        GENERATORS.append(ticks())
        print("at work")
        async for _ in GENERATORS[-1]:
            await asyncio.Event().wait()

class Callback(Agent):
    async def start(self, context):
        asyncio.get_running_loop().call_soon(sys.exit, 3)
"""


async def at_work(processes: Processes, role: str) -> str:
    """Its code runs: an agent that is terminated before that is never called."""
    agent_id = await processes.running(role)
    said = lambda: any(line.get("message") == "at work" for line in processes.lines())  # noqa: E731
    await until(said, what=f"{role} is at work")
    return agent_id


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_that_nothing_ordered_is_a_loss(
    pool: WorkerPool, processes: Processes, number: signal.Signals
):
    process = await processes.start("Quiet")
    agent_id = await processes.running("Quiet")
    process.send_signal(signal.SIGINT)  # Ctrl-C at the terminal reaches it too, and must be ignored
    process.send_signal(number)
    assert process.wait() == NOT_ORDERED
    assert (await pool.data("w1", "worker.draining"))["reason"] == "signal"
    assert "stopped in good order" in [line.get("message") for line in processes.lines()]
    assert (await pool.state(agent_id)).status == "running", "its reaper decides what follows"


async def test_a_signal_after_an_order_releases(pool: WorkerPool, processes: Processes):
    """As of a supervisor whose host shuts down, or of a system that ends all processes at once."""
    process = await processes.start("Quiet")
    agent_id = await processes.running("Quiet")
    await processes.drain(process)
    assert (await pool.state(agent_id)).status == "pending"
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]


async def test_the_output_of_agents_is_in_the_log_file(pool: WorkerPool, processes: Processes):
    process = await processes.start("Talking")
    agent_id = await pool.spawn(role_type="Talking")
    await pool.reached(agent_id, "terminated")
    logged = [
        (line.get("message") or line.get("event"), line["stream"], line["level"])
        for line in processes.lines()
        if line.get("project_id") == "p" and line["agent_id"] == agent_id
    ]
    assert logged == [
        ("printed", "stdout", "info"),
        ("logged", "log", "warning"),
        ("asked", "log", "info"),
        ("no newline", "stdout", "info"),
    ]
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, "it is empty"
    assert (await pool.types("w1"))[-1] == "worker.stopped"


async def test_an_exit_in_a_callback_does_not_end_the_worker(
    pool: WorkerPool, processes: Processes
):
    """It is unknown whose callback it was, and the other agents did not cause it."""
    process = await processes.start("Quiet", "Callback")
    await processes.running("Callback")
    await processes.running("Quiet")
    await processes.drain(process)


async def test_a_generator_that_does_not_close_prevents_no_exit(
    pool: WorkerPool, processes: Processes
):
    """The worker has no lease any more, and only an agent's code still runs."""
    process = await processes.start("Ticking")
    await at_work(processes, "Ticking")
    await processes.drain(process)


async def test_a_loop_that_never_turns_again_is_killed(pool: WorkerPool, processes: Processes):
    """Its lease ends, the loop does not confirm, and the thread ends the process."""
    pool.config = replace(QUICK, lease_seconds=1.0)
    process = await processes.start("Blocking")
    await pool.spawn(role_type="Blocking")
    assert process.wait() == EXIT_LEASE_LOST


@pytest.mark.parametrize("role", ["Deaf", "Parked"])
async def test_a_stuck_agent_ends_the_process(pool: WorkerPool, processes: Processes, role: str):
    """A task that swallows its cancellation, or a call in a thread; the log says where it is."""
    process = await processes.start("Quiet", role)
    other = await processes.running("Quiet")
    stuck = await at_work(processes, role)
    await pool.terminate(stuck)
    assert process.wait() == 77
    assert (await pool.state(other)).status == "pending"
    assert (await pool.state(stuck)).status == "stopping"
    assert "worker.stopped" not in await pool.types("w1")
    [line] = processes.lines("agent.stuck")
    assert line["agent_id"] == stuck
    assert "agents_of_test.py" in line["stacks"][0]


async def test_an_agent_cannot_end_the_loop_of_its_worker(pool: WorkerPool, processes: Processes):
    """Nor cancel the tasks of others; it is named."""
    process = await processes.start("Quiet", "Ending")
    other = await processes.running("Quiet")
    ending = await pool.spawn(role_type="Ending")
    await pool.reached(ending, "restarting")
    error = (await pool.data(ending, "agent.crashed"))["error"]
    assert "is shared" in error["message"]
    assert (await pool.state(other)).status == "running"
    refused = processes.lines("agent.refused")
    assert {line["agent_id"] for line in refused} == {ending}
    assert {line["what"].split()[0] for line in refused} == {"cancel", "stop"}
    await processes.drain(process)


async def test_a_process_stopped_for_longer_than_its_lease_writes_nothing(
    pool: WorkerPool, processes: Processes
):
    """SIGSTOP, fenced meanwhile, SIGCONT: it ends by itself, with no event."""
    process = await processes.start("Quiet")
    agent_id = await processes.running("Quiet")
    process.send_signal(signal.SIGSTOP)
    await pool.fence("w1")
    await pool.terminate(agent_id)
    before = len(await pool.events())
    process.send_signal(signal.SIGCONT)
    assert process.wait() == EXIT_LEASE_LOST
    assert len(await pool.events()) == before


async def test_a_worker_does_not_outlive_its_owner(pool: WorkerPool, processes: Processes):
    """`muster up` was killed: the processes that it started must end."""
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    changes = {"owner_pid": owner.pid, "owner_start_time": start_time(owner.pid)}
    process = await processes.start("Quiet", **changes)
    agent_id = await processes.running("Quiet")
    owner.kill()
    owner.communicate()
    assert process.wait() == 0
    assert (await pool.data(agent_id, "agent.released"))["reason"] == "owner-gone"


async def test_without_its_order_a_process_ends_at_once(pool: WorkerPool, processes: Processes):
    process = processes.run(pool.options("unknown", exits=True))
    assert process.wait() == 78
    assert await pool.types() == []


async def test_an_idle_worker_loads_nothing_heavy(pool: WorkerPool, processes: Processes):
    """SQLAlchemy is loaded by the first `engine()`, the HTTP library never: they need megabytes."""
    process = await processes.start("Quiet")
    await processes.running("Quiet")
    loaded = Path(f"/proc/{process.pid}/maps").read_text()
    assert "msgspec" in loaded
    assert [name for name in ("sqlalchemy", "aiohttp", "psycopg") if name in loaded] == []
    await processes.drain(process)
