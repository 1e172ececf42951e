"""How a worker is started: forked from the zygote, or inside this process.

Both launchers report in the same way that a worker has ended. The supervisor knows no other
difference.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from eventstore.errors import MusterError
from workers.host.processes import Process
from workers.process.options import WorkerOptions

OnEnded: TypeAlias = Callable[[str, str], None]
"""Called with the worker's id and how its process ended."""


def ignore_end(_worker_id: str, _how: str) -> None:
    pass


class LaunchFailed(MusterError):
    """The worker could not be started."""


class ZygoteRefused(MusterError):
    """The system starts no process to fork workers from."""


class Launcher(Protocol):
    """Starts workers on this host."""

    async def start(self, on_ended: OnEnded) -> None:
        """Get ready. Raises `ConfigurationError` when an agent class cannot be imported.

        Raises `ZygoteRefused` where the system refuses for long.
        """

    async def launch(self, options: WorkerOptions) -> Process:
        """Start a worker; returns its process. Raises `LaunchFailed`."""

    async def stop(self) -> None:
        """Start no more. Workers with a process of their own go on, others are abandoned."""
