"""How a worker is started: forked from the zygote, or inside this process.

Both launchers report in the same way that a worker has ended. The supervisor knows no other
difference.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import structlog

from eventstore.errors import ConfigurationError, MusterError
from workers.api import role_loader
from workers.api.agent import Agent
from workers.host.processes import Process, start_time, this_process
from workers.launch.zygote_messages import Plan, ZygoteMessage, arguments
from workers.process.options import WorkerOptions
from workers.process.registration import ShutdownResult
from workers.process.worker import Worker
from workers.runtime.child_records import SCOPE
from workers.runtime.process_state import watch

log = structlog.get_logger("muster.launchers")

START_SECONDS = 10.0
"""For a zygote's interpreter, besides the import of each role."""
PRELOAD_TRIES = 3
"""Of a zygote that is killed before it is ready."""
REFUSED_TRIES = 5
"""Where the system refuses to start one: it may lack memory, processes or files for a while..."""
REFUSED_SECONDS = 1.0
"""...and between them."""
FORK_SECONDS = 10.0
LINE_MAX = 2**20
"""Bytes of a zygote's message: a failing import's traceback is the longest."""
END_SECONDS = 2.0
"""For a zygote whose socket was closed to end by itself."""

OnEnded: TypeAlias = Callable[[str, str], None]
"""Called with the worker's id and how its process ended."""


class LaunchFailed(MusterError):
    """The worker could not be started."""


class ZygoteRefused(MusterError):
    """The system starts no process to fork workers from."""


class ForkLauncher:
    """Forks workers from a zygote, which is started again if it dies."""

    def __init__(self, plan: Plan, scope: str = "") -> None:
        self._plan = plan
        self._scope = scope
        self._importing = "the agent classes"
        self._zygote: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pending_forks: dict[str, asyncio.Future[int]] = {}
        self._workers: dict[int, str] = {}
        self._lock = asyncio.Lock()

    @property
    def pids(self) -> set[int]:
        """Those of its own processes: of one that starts, too."""
        return {self._zygote.pid} if self._zygote is not None else set()

    async def start(self, on_ended: OnEnded) -> None:
        """Get ready. Raises `ConfigurationError` when an agent class cannot be imported.

        Raises `ZygoteRefused` where the system refuses for long.
        """
        self._on_ended = on_ended
        await self._start_zygote()

    async def launch(self, options: WorkerOptions) -> Process:
        """Start a worker; returns its process. Raises `LaunchFailed`."""
        async with self._lock:
            if self._listener is None or self._listener.done():
                log.warning("zygote.restarting")
                try:
                    await self.stop()  # what is left of the one before
                    await self._start_zygote()
                except (MusterError, OSError, subprocess.SubprocessError) as error:
                    log.error("zygote.not_started", error=str(error))
                    raise LaunchFailed("no zygote starts to fork it from") from error
        assert self._writer is not None
        forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending_forks[options.worker_id] = forked
        try:
            self._writer.write(msgspec.json.encode(options) + b"\n")
            async with asyncio.timeout(FORK_SECONDS):
                pid = await forked
            process = Process(pid, start_time(pid))
        except (OSError, TimeoutError) as error:
            raise LaunchFailed(f"the zygote does not fork: {error!r}") from error
        finally:
            self._pending_forks.pop(options.worker_id, None)
        process.watch(lambda: self._on_process_gone(pid))
        return process

    async def stop(self) -> None:
        """Start no more. The workers go on."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        if self._zygote is not None:
            await asyncio.to_thread(_wait_or_kill, self._zygote)
            self._zygote = None

    async def _start_zygote(self) -> None:
        refused = killed = 0
        while True:
            try:
                reader, line = await self._preload()
            except (OSError, subprocess.SubprocessError) as error:
                refused += 1
                if refused == REFUSED_TRIES:
                    refusal = f"no process can be started to fork workers from: {error}"
                    raise ZygoteRefused(refusal) from error
                log.warning("zygote.refused", error=str(error))
                await asyncio.sleep(REFUSED_SECONDS)
                continue
            if line.endswith(b"\n"):
                break
            killed += 1
            await self._check_end(final=killed == PRELOAD_TRIES)
        message = msgspec.json.decode(line, type=ZygoteMessage)
        if not message.ready:
            raise ConfigurationError(message.failed)
        for role in set(message.deferred) - set(self._plan.deferred):
            log.warning("role.starts_threads", role=role, imported="after each fork")
        self._listener = asyncio.create_task(self._listen(reader), name="zygote")

    async def _check_end(self, *, final: bool) -> None:
        """Of one that ended before it was ready. It is not `final` if it was killed."""
        assert self._zygote is not None
        await asyncio.to_thread(_wait_or_kill, self._zygote)
        code = self._zygote.returncode
        if code is None:  # it was killed, and lingers
            code = -signal.SIGKILL
        how = f"importing {self._importing}: {_describe_exit(code)}"
        if code >= 0:
            raise ConfigurationError(how)
        log.warning("zygote.killed", signal=-code)
        if final:
            raise ConfigurationError(f"{how}, {PRELOAD_TRIES} times before it was done")

    async def _preload(self) -> tuple[asyncio.StreamReader, bytes]:
        """Start one; its first message, or an incomplete one if it ends before."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._zygote = subprocess.Popen(  # noqa: ASYNC220  # returns once it has forked
                    arguments(self._plan, theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", SCOPE: self._scope},
                )
            except BaseException:
                ours.close()
                raise
        if self._writer is not None:
            self._writer.close()
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_MAX)
        try:
            while True:
                async with asyncio.timeout(START_SECONDS + self._plan.import_seconds):
                    line = await reader.readline()
                if not (line and (what := msgspec.json.decode(line, type=ZygoteMessage).importing)):
                    return reader, line
                self._importing = what
        except TimeoutError:
            self._zygote.kill()
            raise ConfigurationError(
                f"importing {self._importing} took more than {self._plan.import_seconds:g} s"
                " (import_timeout_seconds)"
            ) from None
        except ConnectionError:
            return reader, b""

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = msgspec.json.decode(line, type=ZygoteMessage)
            forked = self._pending_forks.get(message.worker_id)
            if message.pid:
                self._workers[message.pid] = message.worker_id
                if forked is not None and not forked.done():
                    forked.set_result(message.pid)
            elif message.failed and forked is not None and not forked.done():
                forked.set_exception(OSError(message.failed))
            elif message.ended:
                self._report_ended(message.ended, _describe_exit(message.code))
        for forked in self._pending_forks.values():
            if not forked.done():
                forked.set_exception(ConnectionResetError("the zygote died"))

    def _on_process_gone(self, pid: int) -> None:
        """The process is gone; the zygote is about to report how, unless it is gone itself."""
        asyncio.get_running_loop().call_later(0.2, self._report_ended, pid, "its process is gone")

    def _report_ended(self, pid: int, how: str) -> None:
        worker_id = self._workers.pop(pid, None)
        if worker_id is not None:
            self._on_ended(worker_id, how)


class InProcessLauncher:
    """Runs workers inside this process, for `--single-process`."""

    def __init__(self, plan: Plan, scope: str = "") -> None:
        self._plan = plan
        self._scope = scope
        self._classes: dict[str, type[Agent]] = {}
        self._tasks: dict[asyncio.Task[None], Worker] = {}

    @property
    def pids(self) -> set[int]:
        """This process has all workers, and all of theirs."""
        return {os.getpid()}

    async def start(self, on_ended: OnEnded) -> None:
        self._on_ended = on_ended
        os.environ[SCOPE] = self._scope
        watch()
        for name, path in self._plan.roles.items():
            self._classes[name] = role_loader.load(path, self._plan.app_dir).role

    async def launch(self, options: WorkerOptions) -> Process:
        process = this_process()
        options = msgspec.structs.replace(options, exits=False)
        worker = Worker(options, self._classes, start_time=process.start_time)
        task = asyncio.create_task(self._run(worker, options.worker_id))
        self._tasks[task] = worker
        task.add_done_callback(self._tasks.pop)
        return process

    async def _run(self, worker: Worker, worker_id: str) -> None:
        how = "it failed"
        try:
            await worker.start()
            how = await worker.wait()
        except MusterError as error:
            how = str(error)
        finally:
            await worker.stop()
            self._on_ended(worker_id, how)

    async def stop(self) -> None:
        """Abandon the workers."""
        os.environ.pop(SCOPE, None)
        running = dict(self._tasks)
        for task, worker in running.items():
            worker.abandon("killed")
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


Launcher: TypeAlias = ForkLauncher | InProcessLauncher


def _wait_or_kill(zygote: "subprocess.Popen[bytes]") -> None:
    """Wait for one that is about to end; one that does not is killed. Its workers go on."""
    try:
        zygote.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        zygote.kill()
    try:
        zygote.wait(END_SECONDS)
    except subprocess.TimeoutExpired:  # the system is slow; nothing else waits for that
        log.warning("zygote.lingers", pid=zygote.pid)


def _describe_exit(code: int) -> str:
    if code == ShutdownResult.NOT_ORDERED:
        return "it drained, which nothing ordered"
    return f"killed by signal {-code}" if code < 0 else f"exited with code {code}"
