"""What the owner of output has under way in its process, apart from what it prints."""

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class UnderWay:
    """Tasks, threads and configuration of the loop; `workers.runtime` ends and applies them."""

    __slots__ = ("calls", "exception_handler", "executor", "tasks", "threads", "threads_max")

    def __init__(self, threads_max: int) -> None:
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.calls: dict[Future[Any], Any] = {}
        """Calls in pools of threads."""
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Others that it started."""
        self.executor: Executor | None = None
        """Its default one, made on first use, with so many threads:"""
        self.threads_max = threads_max
        self.exception_handler: Callable[..., object] | None = None
        """Its own, for what fails in its tasks and callbacks."""

    def running_tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended."""
        return [task for task in self.tasks if not task.done()]
