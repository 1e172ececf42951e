"""What all agents of a worker share: an agent's changes are put back, and it is named."""

import signal

import msgspec
import pytest

from tests.integration.workers.roles import Quiet
from tests.integration.workers.worker_processes import Processes
from tests.waiting import until
from tests.worker_pool import POOL, WorkerPool, eventually
from workers.process.registration import ShutdownResult
from workers.runtime.process_state import KINDS, Kind

AGENTS = """
import asyncio, json, locale, os, resource, signal, subprocess
from pathlib import Path
from muster import Agent

FOLDER = Path(__file__).parent

def state():
    return {
        "working directory": os.getcwd(),
        "umask": next(l for l in open("/proc/self/status") if l.startswith("Umask")),
        "resource limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "locale": locale.setlocale(locale.LC_ALL),
        "signal handlers": [repr(signal.getsignal(n)) for n in (1, 2, 15, 17)],
        "signal mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "alarm": repr(signal.getsignal(signal.SIGALRM)),
    }

def chdir():
    os.chdir("/")

def gone():
    folder = FOLDER / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()

def handlers():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

def loop_handlers():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, print)
    loop.remove_signal_handler(signal.SIGHUP)

CHANGES = {
    "chdir": chdir,
    "gone": gone,
    "umask": lambda: os.umask(0),
    "limits": lambda: resource.setrlimit(
        resource.RLIMIT_NOFILE, (99, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "handlers": handlers,
    "loop": loop_handlers,
    "children": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
    "wakeup": lambda: signal.set_wakeup_fd(-1),
}

class Changer(Agent):
    async def run(self, context):
        before = state()
        for name in context.input["changes"]:
            CHANGES[name]()
            await asyncio.sleep(0.05)
            assert state() == before, (before, state())
        child = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
        assert await child.wait() == 3
        (FOLDER / "done").touch()
        await context.stopping.wait()

class Alarming(Agent):
    async def run(self, context):
        rang = []
        signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        while not rang:
            await asyncio.sleep(0.01)

class Reader(Agent):
    async def start(self, context):
        (FOLDER / "alarm").write_text(state()["alarm"])

class Exporting(Agent):
    async def start(self, context):
        os.environ["ACME_TOKEN"] = "secret"

class Bypassing(Agent):
    async def start(self, context):
        signal.signal.__wrapped__(signal.SIGTERM, signal.SIG_IGN)
"""
EXPECTED = {
    "chdir": "working directory",
    "gone": "working directory",
    "umask": "umask",
    "limits": "resource limits",
    "locale": "locale",
    "handlers": "signal handlers",
    "loop": "signal handlers",
    "children": "signal handlers",
    "mask": "signal mask",
    "wakeup": "signal handlers",
}


async def change(pool: WorkerPool, processes: Processes, *changes: str) -> str:
    done = processes.app / "done"
    done.unlink(missing_ok=True)
    asked = msgspec.Raw(msgspec.json.encode({"changes": changes}))
    agent_id = await pool.spawn(role_type="Changer", input=asked)
    await until(done.exists, what=f"{changes} is put back")
    return agent_id


async def test_what_an_agent_changes_is_put_back_and_it_is_named(
    pool: WorkerPool, processes: Processes
):
    worker = await processes.start("Changer")
    changers = {name: await change(pool, processes, name) for name in EXPECTED}
    said = {
        (line["agent_id"], line["kind"]) for line in processes.lines("agent.process_state_restored")
    }
    assert said == {(changers[name], kind) for name, kind in EXPECTED.items()}
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == ShutdownResult.NOT_ORDERED, "its handler is in place"
    assert (await pool.types("w1"))[-1] == "worker.draining"


async def test_handlers_of_other_signals_are_put_back_when_their_agent_has_ended(
    pool: WorkerPool, processes: Processes
):
    """And a timer that it left does not kill the worker."""
    worker = await processes.start("Alarming", "Reader")
    agent_id = await pool.spawn(role_type="Alarming")
    await pool.reached(agent_id, "terminated")
    read = processes.app / "alarm"

    async def put_back() -> bool:
        await pool.reached(await pool.spawn(role_type="Reader"), "running")
        return "SIG_DFL" in read.read_text()

    await eventually(put_back)
    await processes.drain(worker)


async def test_variables_that_an_agent_sets_are_reported_without_their_values(
    processes: Processes,
):
    worker = await processes.start("Exporting")
    agent_id = await processes.running("Exporting")
    await until(lambda: processes.lines("agent.environment_changed"), what="it is reported")
    [line] = processes.lines("agent.environment_changed")
    assert (line["agent_id"], line["added"]) == (agent_id, ["ACME_TOKEN"])
    assert "secret" not in str(processes.lines())
    await processes.drain(worker)


async def test_a_handler_that_is_replaced_unseen_is_put_back_with_a_renewal(
    processes: Processes,
):
    """By a library in C, or by a function that was imported before it was wrapped."""
    worker = await processes.start("Bypassing")
    await processes.running("Bypassing")
    await until(lambda: processes.lines("agent.process_state_restored"), what="it is put back")
    [line] = processes.lines("agent.process_state_restored")
    assert line["kind"] == "signal handlers"
    assert "agent_id" not in line
    await processes.drain(worker)


async def test_of_the_workers_of_a_pool_one_is_replaced_for_what_cannot_be_put_back(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Another one may be in order; but where an agent does it again, none would be."""

    def refuse(_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    limits = iter(range(1000))
    monkeypatch.setitem(KINDS, "resource limits", Kind(lambda: next(limits), refuse))
    first = await pool.worker(Quiet)
    assert await first.wait() == "process-state"
    assert await pool.log.damaged([POOL]) == {}
    second = await pool.worker(Quiet)
    [agent_id] = await pool.running()

    async def named() -> bool:
        found = await pool.log.damaged([POOL, "other"])
        return found == {POOL: "resource limits of worker w2"}

    await eventually(named)
    assert second.exit_code == 0
    assert (await pool.state(agent_id)).worker_id == "w2"
