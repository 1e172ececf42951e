"""The background tasks of `muster up`."""

import asyncio
from collections.abc import Coroutine

import structlog

from muster.up.messages import echo

log = structlog.get_logger("muster.up")


class Background:
    """Tasks that run until all ends. `stopping` is set once the end is asked for."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Do it until the end. A failure is reported, since no caller waits for the task."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._report_failure)
        self._tasks.append(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    def _report_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            echo(f"a defect of Muster: its task {task.get_name()} has failed: {error!r}")
            log.error("up.task_failed", task=task.get_name(), exc_info=error)
