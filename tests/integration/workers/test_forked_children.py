"""What agents fork: a signal to a child is the child's, and nothing of the worker's is in it."""

import signal

from tests.integration.workers.worker_processes import Processes
from tests.worker_pool import WorkerPool

AGENTS = """
import asyncio, concurrent.futures, json, multiprocessing, os, pty, signal, subprocess, sys, time
from pathlib import Path
from muster import Agent

FOUND = Path(__file__).with_name("found.json")
CONTEXT = multiprocessing.get_context("fork")

def process():
    child = CONTEXT.Process(target=time.sleep, args=(60,))
    child.start()
    return child.pid, lambda: child.join() or child.exitcode

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fork():
    if not (pid := os.fork()):
        try:
            time.sleep(60)
        finally:
            os._exit(3)
    return pid, lambda: wait(pid)

def terminal():
    pid, _ = pty.fork()
    if not pid:
        try:
            time.sleep(60)
        finally:
            os._exit(3)
    return pid, lambda: wait(pid)

def pool():
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=CONTEXT)
    futures = [executor.submit(time.sleep, 60) for _ in range(2)]
    child = next(iter(executor._processes.values()))
    def ended():
        done, _ = concurrent.futures.wait(futures, return_when="FIRST_COMPLETED")
        error = done.pop().exception()
        if isinstance(error, KeyboardInterrupt):  # it was at work, and takes that for a result
            child.kill()
            return -signal.SIGINT
        assert isinstance(error, concurrent.futures.process.BrokenProcessPool)
        while child.exitcode is None:  # its pool waits for it, too: whoever is first has it
            time.sleep(0.01)
        return child.exitcode
    return child.pid, ended

async def end(number, pid, ended):
    os.kill(pid, number)
    ending = asyncio.ensure_future(asyncio.to_thread(ended))
    # Python ignores a KeyboardInterrupt that comes within another module's hook of a fork.
    while number == signal.SIGINT and not (await asyncio.wait({ending}, timeout=2))[0]:
        os.kill(pid, number)
    return await ending

class Forker(Agent):
    async def run(self, context):
        found = {}
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            for means in (process, fork, terminal, pool):
                found[f"{means.__name__} {number.name}"] = await end(number, *means())
            found[f"thread {number.name}"] = await end(number, *await asyncio.to_thread(fork))
        FOUND.write_text(json.dumps(found))
        await context.stopping.wait()

def interrupted():
    # As by a signal that comes before multiprocessing has noticed the fork.
    def fork():
        if not (pid := original()):
            raise KeyboardInterrupt
        return pid

    original, os.fork = os.fork, fork
    try:
        child = CONTEXT.Process(target=print)
        child.start()
    finally:
        os.fork = original
    return child._popen

class Returner(Agent):
    async def run(self, context):
        done = asyncio.get_running_loop().create_future()
        done.get_loop().call_later(0.2, done.set_result, None)
        codes = []
        for how in ("return", "raise", "exit", "sleep", "await", "interrupted"):
            if how == "interrupted":
                codes.append(await asyncio.to_thread(interrupted().wait))
            elif pid := os.fork():
                codes.append(await asyncio.to_thread(wait, pid))
            elif how == "raise":
                raise ValueError
            elif how == "exit":
                sys.exit(0)
            elif how == "sleep":
                await asyncio.sleep(60)
            elif how == "await":
                await done
            else:
                return
        asyncio.get_running_loop().call_soon(os.fork)
        pid = await asyncio.to_thread(os.fork)
        codes.append(await asyncio.to_thread(wait, pid))
        FOUND.write_text(json.dumps(codes))
        await context.stopping.wait()

class Looker(Agent):
    async def start(self, context):
        receiving, sending = CONTEXT.Pipe(duplex=False)
        CONTEXT.Process(target=look, args=(sending,)).start()
        FOUND.write_text(json.dumps(receiving.recv()))

def look(sending):
    import atexit, threading
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    with asyncio.Runner() as runner:
        slept = runner.run(asyncio.sleep(0, "slept"))
    sending.send({
        "wakeup": signal.set_wakeup_fd(-1),
        "handled": [n.name for n in signal.valid_signals() if isinstance(n, signal.Signals)
                    and callable(signal.getsignal(n)) and n != signal.SIGINT],
        "sockets": sum(link.startswith("socket:") for link in links),
        "polled": sum("eventpoll" in link for link in links),
        "threads": threading.active_count(),
        "atexit": atexit._ncallbacks(),
        "slept": slept,
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    })

class Ignorer(Agent):
    async def start(self, context):
        show = ("grep", "SigIgn", "/proc/self/status")
        shown = [subprocess.run(show, capture_output=True).stdout]
        made = await asyncio.create_subprocess_exec(*show, stdout=subprocess.PIPE)
        shown.append((await made.communicate())[0])
        FOUND.write_text(json.dumps([int(line.split()[1], 16) for line in shown]))
"""


async def found(pool: WorkerPool, processes: Processes, role: str) -> object:
    """What an agent of the role wrote, while a neighbour noticed nothing."""
    process = await processes.start("Quiet", role)
    agents = [await processes.running(one) for one in ("Quiet", role)]
    result: object = await processes.written("found.json")
    for one in agents:
        assert (await pool.state(one)).incarnation == 1
        assert (await pool.state(one)).status == "running"
    assert "worker.draining" not in await pool.types()
    await processes.drain(process)
    return result


async def test_a_signal_to_a_forked_child_is_the_childs(pool: WorkerPool, processes: Processes):
    """However it was forked, and also before it has run at all."""
    codes = await found(pool, processes, "Forker")
    assert isinstance(codes, dict)
    interrupted = {f"{means} SIGINT" for means in ("process", "pool", "fork", "terminal", "thread")}
    assert {name: code for name, code in codes.items() if name not in interrupted} == {
        f"{means} {number.name}": -number
        for means in ("process", "fork", "terminal", "pool", "thread")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    }
    # KeyboardInterrupt, or too early; a pool whose child was interrupted may end it itself.
    assert {codes[name] for name in interrupted - {"pool SIGINT"}} <= {1, 3, -2, 70}
    assert codes["pool SIGINT"] in {1, 3, -2, 70, -15}


async def test_a_child_that_returns_to_what_called_the_agent_is_ended(
    pool: WorkerPool, processes: Processes
):
    codes = await found(pool, processes, "Returner")
    assert codes == [70] * 7
    events = await pool.types()
    assert events.count("worker.started") == 1


async def test_nothing_of_the_worker_is_in_a_forked_child(pool: WorkerPool, processes: Processes):
    assert await found(pool, processes, "Looker") == {
        "wakeup": -1,
        "handled": [],
        "sockets": 1,  # the other end of what wakes the loop
        "polled": 0,
        "threads": 1,
        "atexit": 0,
        "slept": "slept",
        "blocked": 0,
    }


async def test_a_program_that_an_agent_starts_ignores_no_signal(
    pool: WorkerPool, processes: Processes
):
    ignored = await found(pool, processes, "Ignorer")
    quits = 1 << (signal.SIGQUIT - 1)  # a shell ignores it in what it starts with `&`
    outside = quits if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN else 0
    assert isinstance(ignored, list)
    assert [one & ~outside for one in ignored] == [0, 0]
