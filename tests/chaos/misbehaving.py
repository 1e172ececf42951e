"""What agents do to their process, their neighbours and themselves: one act after another.

Copied next to `agents.py`. Each act is one that agents' authors are known to write. None may end,
silence, slow or double another agent, and nothing that it starts may outlive its incarnation:
every process started here has `CHAOS_CHILD` in its environment. An act is noted in the trace
before it is done. While the file `calm` is in the folder of the traces, nothing is done any more.
"""

import asyncio
import contextlib
import gc
import io
import logging
import logging.config
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

FOREVER: Final = "98765"
PAUSE_SECONDS: Final = (0.3, 3.0)

Write = Callable[..., None]
"""Adds a line to the agent's trace: it runs, and what else is known of it."""


class Unreadable(Exception):
    """One whose every method raises."""

    def __str__(self) -> str:
        raise RuntimeError("no message")

    __repr__ = __str__


async def misbehave(seed: str, child: str, write: Write) -> None:
    """Acts until the run is calm; raises what an act raises. `child`: the incarnation's name."""
    random = Random(seed)
    calm = Path(os.environ["CHAOS_TRACE"]) / "calm"
    while not calm.exists():
        ends = time.monotonic() + random.uniform(*PAUSE_SECONDS)
        while time.monotonic() < ends:
            write()
            await asyncio.sleep(0.2)
        act = random.choice(ACTS)
        write(act=act.__name__)
        await act(random, child, write)


# ---- processes -----------------------------------------------------------------------------------


async def signal_a_forked_child(random: Random, _: str, __: Write) -> None:
    number = random.choice((signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL))
    if random.random() < 0.5:
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        forked.start()
        os.kill(forked.pid or 0, number)
        await asyncio.to_thread(forked.join, 0.3)
        forked.kill()
        return
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, number)
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pid, 0)


async def leave_children(random: Random, child: str, _: Write) -> None:
    command = random.choice(
        (
            ["sleep", FOREVER],
            ["sh", "-c", f"sleep {FOREVER} & sleep 0.1"],
            ["sh", "-c", f"trap '' TERM INT HUP; sleep {FOREVER}"],
        )
    )
    apart = random.random() < 0.5
    subprocess.Popen(command, env={**os.environ, "CHAOS_CHILD": child}, start_new_session=apart)


async def wait_for_a_child(random: Random, child: str, _: Write) -> None:
    code = random.randrange(100)
    command = ("sh", "-c", f"sleep 0.1; exit {code}")
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "CHAOS_CHILD": child}
    )
    assert await process.wait() == code


# ---- threads and tasks ---------------------------------------------------------------------------


async def leave_a_thread(random: Random, _: str, write: Write) -> None:
    seconds = random.uniform(0.1, 1.5)

    def work() -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            write()
            time.sleep(0.1)

    _left = asyncio.get_running_loop().run_in_executor(None, work)


async def park_threads(random: Random, _: str, __: Write) -> None:
    loop, seconds = asyncio.get_running_loop(), random.uniform(0.5, 2.0)
    for _number in range(8):
        _left = loop.run_in_executor(None, time.sleep, seconds)


async def block_the_loop(random: Random, _: str, __: Write) -> None:
    time.sleep(random.uniform(0.1, 1.2))


async def cancel_everything(_: Random, __: str, ___: Write) -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def stop_the_loop(_: Random, __: str, ___: Write) -> None:
    asyncio.get_running_loop().stop()


async def lose_a_task(_: Random, __: str, ___: Write) -> None:
    async def fail() -> None:
        raise Unreadable

    _lost = asyncio.create_task(fail())  # noqa: RUF006  on purpose
    await asyncio.sleep(0)


async def change_the_loop(random: Random, _: str, __: Write) -> None:
    loop = asyncio.get_running_loop()
    random.choice(
        (
            lambda: loop.set_exception_handler(lambda *_: None),
            lambda: loop.set_task_factory(None),
            lambda: loop.set_debug(True),
        )
    )()


# ---- exceptions ----------------------------------------------------------------------------------


async def raise_something(random: Random, _: str, __: Write) -> None:
    raise random.choice(
        (
            Unreadable(),
            ExceptionGroup("several", [Unreadable(), ValueError("inner")]),
            KeyboardInterrupt(),
            SystemExit(3),
            GeneratorExit(),
            asyncio.CancelledError("mine"),
            RuntimeError("x" * 1_000_000),
        )
    )


# ---- what the process shares ---------------------------------------------------------------------


async def print_badly(random: Random, _: str, __: Write) -> None:
    def raw() -> None:
        os.write(1, "half a ✗".encode()[:-1])

    def buffered() -> None:
        sys.stdout.buffer.write("✗".encode()[:2])
        sys.stdout.buffer.flush()

    random.choice(
        (
            lambda: print("x" * 1_000_000),
            lambda: print("dot.", end="", flush=True),
            lambda: sys.stdout.reconfigure(encoding="utf-8"),  # type: ignore[union-attr]
            sys.stdout.fileno,
            lambda: setattr(sys, "stdout", io.StringIO()),
            raw,
            buffered,
        )
    )()


async def configure_logging(random: Random, _: str, __: Write) -> None:
    random.choice(
        (
            lambda: logging.config.dictConfig({"version": 1, "root": {"handlers": []}}),
            lambda: logging.disable(logging.CRITICAL),
            logging.getLogger().handlers.clear,
            lambda: logging.basicConfig(force=True, stream=io.StringIO()),
        )
    )()


async def change_the_process(random: Random, child: str, _: Write) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    changes: tuple[Callable[[], object], ...] = (
        lambda: os.chdir("/"),
        lambda: os.umask(0o777),
        lambda: os.environ.__setitem__(f"CHAOS_{child}", "1"),
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)),
        gc.disable,
    )
    random.choice(changes)()


ACTS: Final[tuple[Callable[[Random, str, Write], Awaitable[Any]], ...]] = (
    signal_a_forked_child,
    leave_children,
    wait_for_a_child,
    leave_a_thread,
    park_threads,
    block_the_loop,
    cancel_everything,
    stop_the_loop,
    lose_a_task,
    change_the_loop,
    raise_something,
    print_badly,
    configure_logging,
    change_the_process,
)


def left(folder: Path) -> dict[int, str]:
    """The processes that acts started and that run: the incarnation's name by pid.

    `folder`: of the run's traces; the processes of other runs are left out.
    """
    ours = f"CHAOS_TRACE={folder}".encode()
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            variables = path.read_bytes().split(b"\0")
            for variable in variables if ours in variables else ():
                name, _, value = variable.partition(b"=")
                if name == b"CHAOS_CHILD":
                    found[int(path.parent.name)] = value.decode()
    return found
