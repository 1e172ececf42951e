"""What an agent starts ends with its incarnation, and nothing survives its worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.workers.hosts import Site, abandon
from tests.integration.workers.worker_processes import Processes
from tests.waiting import until
from tests.worker_pool import WorkerPool
from workers.host.process_tree import all_processes

AGENTS = """
import asyncio, concurrent.futures, json, multiprocessing, os, subprocess, sys, time
from pathlib import Path
from muster import Agent

FOLDER = Path(__file__).parent
FORK = multiprocessing.get_context("fork")
SHARED = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)

def orphan():
    if not os.fork():
        time.sleep(900)
        os._exit(0)
    time.sleep(900)

class Starter(Agent):
    async def start(self, context):
        self.own = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)
        self.own.submit(time.sleep, 900)
        self.children = [
            subprocess.Popen(["sleep", "901"]),
            subprocess.Popen(["sleep", "902"], env={}),
            subprocess.Popen("sleep 903 & sleep 904 & exit 3", shell=True),
            subprocess.Popen("setsid sleep 905 & (env -i sleep 906)", shell=True),
            subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 907; sleep 907"]),
            await asyncio.create_subprocess_exec("sleep", "908"),
            await asyncio.create_subprocess_shell("sleep 909; sleep 909"),
            await asyncio.to_thread(subprocess.Popen, ["sleep", "910"]),
        ]
        for method in ("fork", "spawn"):
            child = multiprocessing.get_context(method).Process(target=time.sleep, args=(900,))
            child.start()
            self.children.append(child)
        if not (child := os.fork()):
            orphan()
            os._exit(0)
        self.children.append(child)
        await asyncio.to_thread(SHARED.submit(os.getpid).result)

class Neighbour(Agent):
    async def start(self, context):
        self.child = subprocess.Popen(["sleep", "920"])
        answer = await asyncio.to_thread(SHARED.submit(os.getpid).result)
        (FOLDER / "neighbour.json").write_text(json.dumps([self.child.pid, answer]))

    async def check(self, context):
        assert self.child.poll() is None
        answer = await asyncio.to_thread(SHARED.submit(os.getpid).result)
        (FOLDER / "checked").write_text(str(answer))

class Waiter(Agent):
    async def run(self, context):
        child = subprocess.Popen("sleep 0 & exit 3", shell=True)
        pid = os.fork()
        if not pid:
            os._exit(5)
        await asyncio.sleep(0.8)  # renewals, each of which collects what others left
        codes = [child.wait(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
        (FOLDER / "codes.json").write_text(json.dumps(codes))
        await context.stopping.wait()
"""


def below(pid: int) -> set[int]:
    """What runs below a process."""
    found = all_processes()
    tree = {pid}
    for _ in range(10):
        tree |= {one for one, process in found.items() if process.parent in tree}
    return {one for one in tree - {pid} if not found[one].ended}


def exists(pid: int) -> bool:
    found = all_processes().get(pid)
    return found is not None and not found.ended


async def test_what_an_incarnation_started_ends_with_it_and_nothing_else_does(
    pool: WorkerPool, processes: Processes
):
    """By whatever means, also what lost its parent, changed its session or its environment."""
    worker = await processes.start("Starter", "Neighbour")
    neighbour = await pool.spawn(role_type="Neighbour", heartbeat_interval=0.3)
    await pool.reached(neighbour, "running")
    others = await processes.written("neighbour.json")
    before = below(worker.pid)
    starter = await processes.running("Starter")
    started = below(worker.pid) - before
    assert len(started) >= 16
    commands = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
    assert {f"sleep\0{number}\0".encode() for number in range(901, 911)} <= commands
    await pool.terminate(starter)
    await pool.reached(starter, "terminated")
    left = below(worker.pid)
    assert {*others} <= left
    assert len(left) <= len(before) + 1, "and the resource tracker of multiprocessing"
    (processes.app / "checked").unlink(missing_ok=True)
    await until((processes.app / "checked").exists, what="the neighbour's processes serve it")
    [warning] = processes.lines("agent.children_ended")
    assert (warning["agent_id"], warning["level"]) == (starter, "warning")
    assert "sleep" in warning["commands"]
    await processes.drain(worker)
    assert [pid for pid in left if exists(pid)] == []


async def test_an_agent_gets_the_exit_codes_of_its_children(processes: Processes):
    """Those of orphans are collected: they would stay as zombies for as long as the worker."""
    worker = await processes.start("Waiter")
    await processes.running("Waiter")
    assert await processes.written("codes.json") == [3, 5]
    own = lambda: [p for p in all_processes().values() if p.parent == worker.pid]  # noqa: E731
    await until(lambda: not own(), what="no zombie is left")
    await processes.drain(worker)


CHILDREN = """
import asyncio, subprocess
from pathlib import Path
from muster import Agent

class Parent(Agent):
    async def start(self, context):
        if context.incarnation > 1:
            return
        made = [
            subprocess.Popen(["sleep", "930"]),
            subprocess.Popen("sleep 931 & wait", shell=True),
            subprocess.Popen(["sleep", "932"], env={}),
            await asyncio.create_subprocess_exec("sleep", "933"),
        ]
        Path(__file__).with_name("started").touch()
"""


async def test_nothing_survives_workers_that_are_killed(site: Site) -> None:
    """Their zygote ends what they left; without one their supervisor does, or the next one."""
    (site.folder / "parent.py").write_text(CHILDREN)
    pool = await site.pool(agents_per_worker=1)
    supervisor = await site.host(agent="parent:Parent")
    await site.run(pool, 3)
    workers = (await site.workers()).values()
    children = {worker: below(worker) for worker in workers}
    assert [len(below_one) for below_one in children.values()] == [5] * 3
    zygote = all_processes()[next(iter(children))].parent

    async def all_ended(worker: int) -> None:
        await until(lambda: not any(map(exists, children[worker])), what="its children have ended")

    by_zygote, by_supervisor, by_next_one = children
    os.kill(by_zygote, signal.SIGKILL)
    await all_ended(by_zygote)
    os.kill(zygote, signal.SIGKILL)
    os.kill(by_supervisor, signal.SIGKILL)
    await all_ended(by_supervisor)
    await abandon(supervisor)
    site.supervisors.remove(supervisor)
    os.kill(by_next_one, signal.SIGKILL)
    await site.host(agent="parent:Parent")
    await all_ended(by_next_one)


def test_a_forked_child_dies_with_a_worker_that_is_killed() -> None:
    """Nobody could recognise it: its environment is that of the zygote."""
    code = (
        "import asyncio, os, time\n"
        "from workers.process import forks\n"
        "async def main():\n"
        "    forks.protect(asyncio.get_running_loop(), None)\n"
        "    child = os.fork()\n"
        "    if child: print(child, flush=True)\n"
        "    time.sleep(900)\n"
        "asyncio.run(main())\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    assert exists(child)
    worker.kill()
    worker.communicate()
    assert not exists(child)
