"""How a worker is started: forked from the zygote (see `fork`), or inside this process.

Both launchers report in the same way that a worker has ended. The supervisor knows no other
difference.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from eventstore.errors import MusterError
from workers.api import role_loader
from workers.api.agent import Agent
from workers.host.processes import Process, this_process
from workers.launch.zygote import Plan
from workers.process.options import WorkerOptions
from workers.process.worker import Worker

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


class InProcessLauncher:
    """Runs workers inside this process, for `--single-process`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._on_ended: OnEnded = ignore_end
        self._classes: dict[str, type[Agent]] = {}
        self._tasks: dict[asyncio.Task[None], Worker] = {}

    async def start(self, on_ended: OnEnded) -> None:
        self._on_ended = on_ended
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
        running = dict(self._tasks)
        for task, worker in running.items():
            worker.abandon("killed")
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
