"""The processes that `muster up` runs: started, watched, restarted, stopped.

A child reports over a pipe that it is ready, or why it failed. It gets a session of its own, so
that Ctrl-C at the terminal reaches `muster up` only, which then stops all in order; and the kernel
signals it to end when its parent is gone.
"""

import asyncio
import contextlib
import functools
import io
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from eventstore.embedded.server import end_with_parent
from muster.process.forked_roles import Beginning, ForkedRole
from muster.process.roles import RoleStatus
from workers.host.processes import Process, start_time


class NoStatus(RoleStatus, frozen=True):
    """The outcome of a role that reported nothing itself: its configuration may be right."""


class Child:
    """One process, started any number of times, one at a time; `forked`: the first one."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        forked: ForkedRole | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self.environment = dict(environment)
        self._log = log
        self._forked = forked
        self._process: subprocess.Popen[bytes] | ForkedRole | None = None
        self._ended = asyncio.Event()
        self._status_task: asyncio.Task[RoleStatus] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def code(self) -> int | None:
        return self._process.poll() if self._process else None

    async def start(self, timeout_seconds: float) -> RoleStatus:
        """Start it and wait for its report. That the system gives no process is `NoStatus` too."""
        try:
            self._launch()
        except (OSError, subprocess.SubprocessError) as error:
            return NoStatus(failed=f"it cannot be started: {error}")
        return await self.wait_status(timeout_seconds)

    def _launch(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as cleanup:
            forked, self._forked = self._forked, None
            pipe: io.FileIO | socket.socket
            if forked is None:
                self._process, pipe = self._run_command()
            else:
                beginning = Beginning(self.name, self.environment, str(self._log.absolute()))
                self._process, pipe = forked, forked.begin(beginning)
            for undo in (pipe.close, self._process.wait, self._process.kill):
                cleanup.callback(undo)
            ended = asyncio.Event()
            Process(self.pid, start_time(self.pid)).watch(ended.set)
            cleanup.pop_all()
        self._ended = ended
        self._status_task = asyncio.create_task(self._read_status(pipe), name=f"{self.name}.status")

    def _run_command(self) -> tuple[subprocess.Popen[bytes], io.FileIO]:
        read_fd, write_fd = os.pipe()
        with contextlib.ExitStack() as cleanup, os.fdopen(write_fd, "wb"):
            pipe = cleanup.enter_context(io.FileIO(read_fd))
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    self._command,
                    env={**self.environment, "MUSTER_READY_FD": str(write_fd)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(write_fd,),
                    start_new_session=True,
                    preexec_fn=end_with_parent(),  # noqa: PLW1509  # called from the main thread
                )
            cleanup.pop_all()
        return process, pipe

    async def wait_status(self, timeout_seconds: float) -> RoleStatus:
        """Its report; `NoStatus` where it ends without one, or sends none for so long."""
        assert self._status_task is not None, "not started"
        await asyncio.wait({self._status_task}, timeout=timeout_seconds)
        if self.awaiting_status:
            return NoStatus(failed=f"it was not ready after {timeout_seconds:g} s; see {self._log}")
        return self._status_task.result()

    @property
    def awaiting_status(self) -> bool:
        """Whether it was started and has reported nothing yet."""
        return self._status_task is not None and not self._status_task.done()

    async def _read_status(self, pipe: object) -> RoleStatus:
        reader, line = asyncio.StreamReader(), b""
        protocol = functools.partial(asyncio.StreamReaderProtocol, reader)
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(protocol, pipe)
            with contextlib.closing(transport):
                line = await reader.readline()
            return msgspec.json.decode(line, type=RoleStatus)
        except (OSError, ValueError, msgspec.DecodeError):  # killed while it reported, for one
            why = "its report cannot be read" if line else "it ended at once"
            return NoStatus(failed=f"{why}; see {self._log}")

    async def exit_reason(self) -> str:
        """How it ended, once it has."""
        await self._ended.wait()
        return f"ended ({describe_exit(self.code)})"

    async def stop(self, timeout_seconds: float) -> bool:
        """Ask it to end, and kill it after that time; True if it ended by itself."""
        if self._process is None or self.code is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_seconds)
        except TimeoutError:
            self._process.kill()
            await self._ended.wait()
            return False
        finally:
            self._process.poll()
        return True


def describe_exit(code: int | None) -> str:
    """For people."""
    if code is None:
        return "unknown"
    if code == -9:
        return "killed by signal 9, perhaps by the system for want of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def reap_orphans(managed_pids: Callable[[], set[int]]) -> None:
    """Collect ended children, but not those that `managed_pids` names: their owner does."""
    managed_pids()  # which notices those of them that have ended
    if not hasattr(os, "waitid"):  # macOS before Python 3.13, where orphans are init's
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in managed_pids():
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)
