"""The first processes of the roles of `muster up`: forked from it, they share what it imports.

Imported code is most of a role's memory, and most of its start. So `muster up` imports that of all
roles and forks their processes first of all: before there is a thread or an event loop, and before
it reads its settings. A new process overwrites the environment it was forked with, waits, and gets
its own through a socket: it never has what another role may not know.

A role that is started again is a program of its own, as all are where this cannot be done: on other
systems than Linux, or with threads that something else has started.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.embedded.server import end_with_parent
from muster.process.roles import ROLES
from workers.host.process_tree import name_process

SHARED: Final = (
    "muster.up.up",
    "workers.supervisor.supervisor",
    "projector.service.projector",
    "gateway.server.listener",
)


class Beginning(Struct, frozen=True):
    """What a forked process waits for, as one line of JSON."""

    role: str
    environment: dict[str, str]
    log: str
    """The file for its standard output and standard error."""


class ForkedRole:
    """A forked process that waits to become a role; from then on it is used as a `Popen` is."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.waiting = True
        self._channel = channel
        self._code: int | None = None

    def begin(self, beginning: Beginning) -> socket.socket:
        """Let it become a role; returns where its status comes from. Raises `OSError`."""
        self.waiting = False
        try:
            self._channel.sendall(msgspec.json.encode(beginning) + b"\n")
        except OSError:
            self._channel.close()
            raise
        return self._channel

    def poll(self) -> int | None:
        return self._collect(os.WNOHANG) if self._code is None else self._code

    def wait(self) -> int | None:
        return self._collect(0) if self._code is None else self._code

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # else the pid may be another's by now
            os.kill(self.pid, number)

    def end(self) -> None:
        """End it if it still waits."""
        if self.waiting:
            self._channel.close()
            self.wait()

    def forget(self) -> None:
        """Leave it to the process that has forked it."""
        self._channel.close()

    def _collect(self, options: int) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:  # another has collected it; `Popen` returns 0 then, too
            pid, status = self.pid, 0
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
        return self._code


def command_of(role: str) -> list[str]:
    """The command line of a role's process. `-P`: without the current folder on the module path."""
    return [sys.executable, "-P", "-m", "muster", role]


def fork_roles() -> tuple[str, dict[str, ForkedRole]]:
    """Fork a process for each role; in it returns the role that it is, once it is to begin.

    In the caller's process the role is empty. Those of which the system refused one are missing.
    """
    forked: dict[str, ForkedRole] = {}
    threads = Path("/proc/self/task")  # also those that Python does not know of
    if sys.platform != "linux" or not threads.is_dir():
        return "", forked
    gc.disable()
    for name in SHARED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would write to all that is shared
    end_with_owner = end_with_parent()
    assert end_with_owner is not None
    for role in ROLES if len(list(threads.iterdir())) == 1 else ():
        ours, theirs = socket.socketpair()
        with contextlib.suppress(OSError), theirs:
            pid = os.fork()
            if not pid:
                ours.close()
                for other in forked.values():
                    other.forget()
                end_with_owner()
                return _become_role(theirs), {}
            forked[role] = ForkedRole(pid, ours)
    gc.enable()
    return "", forked


def _become_role(channel: socket.socket) -> str:
    os.setsid()
    for inherited in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if inherited not in {0, 1, 2, channel.fileno()}:
            with contextlib.suppress(OSError):  # that of the folder, which is closed again
                os.close(inherited)
    _forget_environment()
    with channel.makefile("rb") as file:
        line = file.readline()
    if not line:
        os._exit(0)
    beginning = msgspec.json.decode(line, type=Beginning)
    os.environ.update(beginning.environment, MUSTER_READY_FD=str(channel.detach()))
    with Path(beginning.log).open("ab") as log, Path(os.devnull).open("rb") as nothing:
        for number, file_descriptor in enumerate((nothing, log, log)):
            os.dup2(file_descriptor.fileno(), number)
    _show_command(command_of(beginning.role))
    gc.enable()
    return beginning.role


def _forget_environment() -> None:
    """Overwrite all values: in Python's memory, and where /proc reads them."""
    for value in os.environb.values():
        if len(value) > 1:  # shorter ones are constants of Python
            ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))
    os.environ.clear()
    start, end = _stack_areas()[2:]
    ctypes.memset(start, 0, end - start)


def _show_command(command: Sequence[str]) -> None:
    """Let `ps` show this one, in the place of the first one and, if it is longer, behind it."""
    name_process(Path(command[0]).name)
    start, arguments_end, _, end = _stack_areas()
    text = " ".join(command).encode()[: end - start - 1]
    ctypes.memset(start, 0, arguments_end - start)
    ctypes.memmove(start, text, len(text))
    if start + len(text) < arguments_end - 1:  # not 0: it is one text rather than arguments
        ctypes.memset(arguments_end - 1, ord("."), 1)


def _stack_areas() -> tuple[int, int, int, int]:
    """Start and end of arguments and environment: fields 48 to 51 of proc_pid_stat(5)."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, arguments_end, environment_start, end = map(int, fields[45:49])
    return start, arguments_end, environment_start, end
