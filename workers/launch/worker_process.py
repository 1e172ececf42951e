"""A process that was forked from the zygote, from the fork until it ends as a worker.

It gets ready, and waits for its order: the options of a worker. A spare one is forked ahead, so
that a worker that is launched soon after another has less left to do. One that is not ordered ends,
as it does when its zygote is gone, since only that has the other end of the pipe.
"""

import asyncio
import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import LogError
from workers.api.agent import Agent
from workers.host.process_tree import become_subreaper, name_process
from workers.host.processes import start_time
from workers.launch.randomness import reseed
from workers.launch.zygote_messages import read_options
from workers.output.descriptors import StandardPipes
from workers.process.options import WorkerOptions
from workers.process.registration import NotOrdered
from workers.process.worker import Worker
from workers.runtime.children import end_all
from workers.runtime.errors import describe
from workers.runtime.loop_guard import guard_loop, keep_running
from workers.runtime.worker_loop import Loop

WORKER_NAME: Final = "muster-worker"
OOM_SCORE: Final = 500
"""Of 1,000: before all other processes of Muster, which have 0."""
ORDER_BYTES: Final = 1 << 16
"""Read at once of an order, which is rarely longer."""
NOWHERE: Final = "unix:///dev/null"
EXIT_NOT_ORDERED: Final = 78
EXIT_UNREACHABLE: Final = 79
EXIT_HOOKS_SECONDS: Final = 5.0
"""How long a worker's `atexit` functions may take together."""

log = structlog.get_logger("muster.worker")


class Forked(Struct, frozen=True):
    """Such a process, as its zygote has it."""

    pid: int
    pipes: StandardPipes
    _orders: int

    @classmethod
    def fork(
        cls,
        classes: Mapping[str, type[Agent]],
        close_others: Callable[[], None],
        likely: WorkerOptions | None = None,
    ) -> "Forked":
        """Raises `OSError`: no more processes or files. `close_others`: what is the zygote's.

        `likely`: of a spare one, options such as those that it will get.
        """
        pipes, ends = StandardPipes(), (-1, -1)
        try:
            pipes.make()
            ends = os.pipe()
            pid = os.fork()
        except OSError:
            pipes.close()
            for end in {*ends} - {-1}:
                os.close(end)
            raise
        if pid == 0:
            os.close(ends[1])
            close_others()
            _become_worker(ends[0], classes, pipes, likely)
        os.close(ends[0])
        pipes.left()
        return cls(pid, pipes, ends[1])

    def order(self, line: bytes) -> bool:
        """Let it be the worker of these options; False if it is gone. To be called once."""
        try:
            while line:
                line = line[os.write(self._orders, line) :]
        except BrokenPipeError:
            self.pipes.close()
        finally:
            os.close(self._orders)
        return not line

    def dismiss(self) -> None:
        """Let it end, instead."""
        os.close(self._orders)
        self.pipes.close()


def _become_worker(
    orders: int,
    classes: Mapping[str, type[Agent]],
    pipes: StandardPipes,
    likely: WorkerOptions | None,
) -> None:
    """All that the child does. Never returns, whatever happens."""
    code = 70
    try:
        pipes.enter()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        reseed()
        ready = Ready()
        if likely is not None:
            ready.rehearse(likely, classes)
        line = b""
        while part := os.read(orders, ORDER_BYTES):
            line += part
        os.close(orders)
        if not line:
            os._exit(0)
        code = ready.run(read_options(line), classes, pipes)
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


class Ready:
    """This process, with all that a worker needs whatever its options are."""

    def __init__(self) -> None:
        become_subreaper()  # of what loses its parent, so that it ends with this worker
        _be_killed_first()
        name_process(WORKER_NAME)
        self._start_time = start_time(os.getpid())
        self._loop = Loop()
        asyncio.set_event_loop(self._loop)
        guard_loop(self._loop)

    def rehearse(self, likely: WorkerOptions, roles: Mapping[str, type[Agent]]) -> None:
        """Start a worker that finds no Redis.

        The pages of memory that a start writes to are this process's own then.
        """
        nowhere = replace(likely, redis_url=NOWHERE)
        worker = Worker(nowhere, roles, start_time=self._start_time)
        with contextlib.suppress(LogError):
            self._loop.run_until_complete(worker.start())
        del worker
        gc.collect()

    def run(
        self,
        options: WorkerOptions,
        roles: Mapping[str, type[Agent]],
        pipes: StandardPipes | None = None,
    ) -> int:
        """Be a worker; returns the exit code of the process.

        The caller should end the process with `os._exit`: a thread that an agent left behind must
        not keep it alive.
        """
        loop = self._loop
        worker = Worker(options, roles, start_time=self._start_time, pipes=pipes)
        working = loop.create_task(_work(worker))
        keep_running(loop, until=working)
        while not working.done():
            try:
                loop.run_until_complete(working)
            except BaseException as error:  # noqa: BLE001  raised by an agent, in a callback
                if not working.done():
                    found = describe(error)
                    log.error("agent.exit_ignored", error=found.type, message=found.message)
        loop.close()  # and no generators: those left are agents' code, without a lease any more
        return working.result()


async def _work(worker: Worker) -> int:
    signal.signal(signal.SIGINT, ignore)
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


def ignore(*_: object) -> None:
    """Instead of SIG_IGN, which programs that an agent starts would inherit."""
