"""The preloaded process that workers are forked from.

It imports Muster's worker code and the users' agent classes once, freezes the garbage collector, so
that children share those pages, and then forks a worker for every order. It has no event loop and
no threads, which is what makes forking from it safe. An import that starts threads is therefore
not done here: the zygote restarts itself without it, and leaves it to the workers of that role.

It reads the options of workers from its socket (see `zygote_messages`). When that closes the
zygote ends; its workers do not.
"""

import asyncio
import atexit
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from eventstore.errors import ConfigurationError, LogError
from eventstore.log.script_runner import script
from workers.api import role_loader
from workers.api.agent import Agent
from workers.host.process_tree import (
    all_processes,
    become_subreaper,
    descendants,
    name_process,
)
from workers.host.processes import start_time
from workers.launch.randomness import reseed
from workers.launch.zygote_messages import Plan, ZygoteMessage, arguments, read_options
from workers.output.capture import Capture
from workers.output.descriptors import StandardPipes
from workers.process.options import WorkerOptions
from workers.process.registration import NotOrdered
from workers.process.worker import Worker
from workers.runtime.child_records import STARTED, track
from workers.runtime.children import end_all
from workers.runtime.errors import describe
from workers.runtime.loop_guard import guard_loop, keep_running, track_neighbours
from workers.runtime.process_state import watch
from workers.runtime.worker_loop import Loop

ZYGOTE_NAME: Final = "muster-zygote"
WORKER_NAME: Final = "muster-worker"
OOM_SCORE: Final = 500
"""Of 1,000: before all other processes of Muster, which have 0."""
EXIT_NOT_ORDERED: Final = 78
EXIT_UNREACHABLE: Final = 79
EXIT_HOOKS_SECONDS: Final = 5.0
"""How long a worker's `atexit` functions may take together."""

log = structlog.get_logger("muster.worker")


def main(argv: Sequence[str]) -> int:
    with socket.socket(fileno=int(argv[0])) as channel:
        return _run(channel, msgspec.json.decode(argv[1], type=Plan))


def _run(channel: socket.socket, plan: Plan) -> int:
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all: others decide
        signal.signal(number, _ignore)
    become_subreaper()  # of what a killed worker leaves
    name_process(ZYGOTE_NAME)
    track()
    watch()
    gc.disable()
    try:
        classes, unforkable = _preload(plan, channel)
    except ConfigurationError as error:
        _send(channel, ZygoteMessage(failed=str(error)))
        return 1
    if unforkable:
        os.set_inheritable(channel.fileno(), True)
        command_line = arguments(
            replace(plan, deferred=(*plan.deferred, *unforkable)), channel.fileno()
        )
        os.execv(command_line[0], command_line)
    Capture.prepare()
    gc.collect()
    gc.freeze()
    _send(channel, ZygoteMessage(ready=True, deferred=plan.deferred))
    return _serve(channel, classes)


def _preload(plan: Plan, channel: socket.socket) -> tuple[dict[str, type[Agent]], list[str]]:
    """Import what may be imported before the fork; also names the roles that do not bear it."""
    for name in ("claim", "commit", "draw", "renew"):
        script(name)  # read once, shared by all
    track_neighbours()
    classes: dict[str, type[Agent]] = {}
    unforkable: list[str] = []
    for name, path in plan.roles.items():
        if name in plan.deferred:
            continue
        _send(channel, ZygoteMessage(importing=f"role {name!r} ({path})"))
        loaded = role_loader.load(path, plan.app_dir)
        classes[name] = loaded.role
        if loaded.cannot_fork:
            unforkable.append(name)
    return classes, unforkable


def _serve(channel: socket.socket, classes: dict[str, type[Agent]]) -> int:
    workers: dict[int, tuple[WorkerOptions, StandardPipes]] = {}
    spared = set(descendants(os.getpid()))  # what imports have started
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, _ignore)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    buffer = b""
    while True:
        readable, _, _ = select.select([channel.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            for pid in _report_ended(channel):
                if pid in workers:
                    _save_output(*workers.pop(pid))
            spared |= _kill_orphans(workers.keys() | spared)
        if channel.fileno() not in readable:
            continue
        received = _receive(channel)
        if not received:
            return 0
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            options = read_options(line)
            pipes = StandardPipes()
            try:
                pipes.make()
                pid = os.fork()
            except OSError as error:  # no more processes or files: for a while, perhaps
                pipes.close()
                _send(channel, ZygoteMessage(worker_id=options.worker_id, failed=str(error)))
                continue
            if pid == 0:
                os.close(wake_read)
                os.close(wake_write)
                channel.close()
                for _, others in workers.values():
                    others.close()
                _become_worker(options, classes, pipes)
            pipes.left()
            workers[pid] = options, pipes
            _send(channel, ZygoteMessage(worker_id=options.worker_id, pid=pid))


def _become_worker(
    options: WorkerOptions, classes: dict[str, type[Agent]], pipes: StandardPipes
) -> None:
    """All that the child does. Never returns, whatever happens."""
    code = 70
    try:
        pipes.enter()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        reseed()
        code = run_worker(options, classes, pipes)
    except BaseException:  # noqa: BLE001  # the child must not return into the zygote's loop
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):  # whatever a module has made of these
            if code == 0:
                _run_exit_hooks()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run_exit_hooks() -> None:
    """What was registered with `atexit`, at an end in good order and for a bounded time."""
    late = threading.Timer(EXIT_HOOKS_SECONDS, os._exit, (0,))
    late.daemon = True
    late.start()
    atexit._run_exitfuncs()  # it prints what they raise


def run_worker(
    options: WorkerOptions, roles: Mapping[str, type[Agent]], pipes: StandardPipes | None = None
) -> int:
    """The body of a worker's process, from the fork on; returns its exit code.

    The caller should end the process with `os._exit`: a thread that an agent left behind must not
    keep it alive.
    """
    become_subreaper()  # of what loses its parent, so that it ends with this worker
    _be_killed_first()
    name_process(WORKER_NAME)
    loop = Loop()
    asyncio.set_event_loop(loop)
    guard_loop(loop)
    working = loop.create_task(_work(options, roles, pipes))
    keep_running(loop, until=working)
    while not working.done():
        try:
            loop.run_until_complete(working)
        except BaseException as error:  # noqa: BLE001  raised by an agent, in a callback
            if not working.done():
                found = describe(error)
                log.error("agent.exit_ignored", error=found.type, message=found.message)
    loop.close()  # and no generators: those left are agents' code, and there is no lease any more
    return working.result()


async def _work(
    options: WorkerOptions, roles: Mapping[str, type[Agent]], pipes: StandardPipes | None
) -> int:
    worker = Worker(options, roles, start_time=start_time(os.getpid()), pipes=pipes)
    signal.signal(signal.SIGINT, _ignore)
    drain = partial(worker.request_drain, "signal", ordered=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, drain)
    try:
        await worker.start()
    except NotOrdered as error:
        log.warning("worker.not_ordered", error=str(error))
        return EXIT_NOT_ORDERED
    except LogError as error:
        log.error("worker.not_started", error=str(error))
        return EXIT_UNREACHABLE
    await worker.wait()
    await end_all()
    return worker.exit_code


def _be_killed_first() -> None:
    """Where the kernel has to kill something for want of memory: a worker, or what it starts."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        file.write(b"%d" % max(int(file.read()), OOM_SCORE))


def _ignore(*_: object) -> None:
    """Instead of SIG_IGN, which programs that an agent starts would inherit."""


def _report_ended(channel: socket.socket) -> set[int]:
    """Report the children that have ended; returns their pids."""
    pids: set[int] = set()
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pids.add(ended[0])
            STARTED.pop(ended[0], None)
            code = os.waitstatus_to_exitcode(ended[1])
            _send(channel, ZygoteMessage(ended=ended[0], code=code))
    return pids


def _save_output(options: WorkerOptions, pipes: StandardPipes) -> None:
    """What a worker that has ended has left unread: its last words, above all."""
    if options.capture:
        pipes.save_remains(options.new_output({}))
    pipes.close()


def _kill_orphans(known: set[int]) -> set[int]:
    """Kill what a worker left that has died. Each that dies leaves its own children here.

    Returns those that may not be signalled.
    """
    refused: set[int] = set()
    for pid, found in all_processes().items():
        if found.parent == os.getpid() and pid not in known and not found.ended:
            try:
                found.process.signal(signal.SIGKILL)
                log.warning("worker.children_killed", pid=pid, command=found.name)
            except PermissionError:
                log.error("worker.children_remain", pid=pid, command=found.name)
                refused.add(pid)
    return refused


def _receive(channel: socket.socket) -> bytes:
    """Empty once the supervisor is gone, also if it was killed and had not read all of ours."""
    with contextlib.suppress(ConnectionError):
        return channel.recv(65536)
    return b""


def _send(channel: socket.socket, message: ZygoteMessage) -> None:
    try:
        channel.sendall(msgspec.json.encode(message) + b"\n")
    except OSError:
        os._exit(0)  # the supervisor is gone; the workers are not our business
