"""Processes of a test's own that need not import Muster first: a server that has forks them.

Each starts as a new Python does, but for the imports, which take most of the time. It finds the
environment and the folder that the run was started in.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

from workers.launch import launchers

CONTEXT: Final = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "gateway.server.listener",
        "muster.cli.main",
        "muster.cli.maintenance.replay",
        "muster.fallback.handover",
        "muster.up.up",
        "projector.rebuild.rebuild",
        "projector.recovery.recovery",
        "projector.service.projector",
        "workers.supervisor.supervisor",
    ]
)


_SERVER: Final[Any] = vars(forkserver)["_forkserver"]


def _share_server(address: str, target: Callable[..., None], *arguments: Any) -> None:
    """In a forked process: what it forks comes from the same server."""
    _SERVER._forkserver_address, _SERVER.ensure_running = address, lambda: None
    target(*arguments)


class Forked:
    """A process that runs `target(report, *arguments)`; what it reports, `report` returns."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._receiving, sending = CONTEXT.Pipe(duplex=False)
        forkserver.ensure_running()
        shared = (_SERVER._forkserver_address, target, sending, *arguments)
        self._process = ForkServerProcess(target=_share_server, args=shared)
        self._process.start()
        sending.close()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def report(self) -> str:
        """The next line that it sends; empty if it ends without one."""
        try:
            return str(self._receiving.recv())
        except EOFError:
            return ""

    def wait(self, timeout: float) -> int:
        """Its exit code; of a signal the negative number."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it does not end"
        return self._process.exitcode

    def end(self) -> None:
        """Kill it if it still runs; a second time does nothing."""
        self._process.kill()
        self._process.join()
        self._receiving.close()


class ForkedZygote:
    """A zygote, as `subprocess.Popen` starts one: most of the time of that is its imports."""

    def __init__(
        self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str], **_: Any
    ) -> None:
        code, _fd, plan = command[-3:]
        [fd] = pass_fds
        with socket.socket(fileno=os.dup(fd)) as channel:
            self._process = ForkServerProcess(target=_be_zygote, args=(code, channel, plan, env))
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a zygote", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _be_zygote(code: str, channel: socket.socket, plan: str, env: Mapping[str, str]) -> None:
    """As `python -c CODE FD PLAN` is."""
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["-c", str(channel.detach()), plan]
    exec(code, {"__name__": "__main__"})


class _Forking:
    """The module `subprocess`, as a launcher uses it."""

    Popen = ForkedZygote

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def fork_zygotes(setattr_: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let launchers of this process fork their zygotes; `setattr_`: a test's, which undoes it."""
    setattr_(launchers, "subprocess", _Forking())
