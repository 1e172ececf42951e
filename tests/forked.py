"""Processes of a test's own that need not import Muster first: a server that has forks them.

Each starts as a new Python does, but for the imports, which take most of the time. It finds the
environment and the folder that the run was started in.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

CONTEXT: Final = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "gateway.server.listener",
        "muster.cli.main",
        "muster.cli.maintenance.replay",
        "projector.rebuild.rebuild",
        "projector.recovery.recovery",
        "projector.service.projector",
        "workers.supervisor.supervisor",
    ]
)


class Forked:
    """A process that runs `target(report, *arguments)`; what it reports, `report` returns."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._receiving, sending = CONTEXT.Pipe(duplex=False)
        self._process = ForkServerProcess(target=target, args=(sending, *arguments))
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
