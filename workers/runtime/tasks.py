"""Whose code is running: a context variable names the agent.

Ten agents share one process. Every call into an agent's code runs in a context in which `CURRENT`
names its owner; tasks it creates and `asyncio.to_thread` inherit that. So what it prints gets its
ids (see `output`), and whatever tasks it leaves behind can be ended with it: an end is written to
the log only when nothing of the agent runs any more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from workers.output.lines import CURRENT


class AgentExit(Exception):
    """An agent's code raised SystemExit or KeyboardInterrupt, which would end the whole worker."""


class TaskFactory:
    """Makes an event loop's tasks, noting those of agents with their owners."""

    def __init__(self, inner: Callable[..., Any] | None) -> None:
        self._inner = inner

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        context: Context | None = options.get("context")
        owner = CURRENT.get() if context is None else context.get(CURRENT)
        if owner is not None and asyncio.iscoroutine(coroutine):
            coroutine = _catch_exits(coroutine)
        task: asyncio.Task[Any]
        if self._inner is None:
            task = asyncio.Task(coroutine, loop=loop, **options)
        else:
            task = self._inner(loop, coroutine, **options)
        if owner is not None:
            owner.tasks.add(task)
        return task


def track_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop note the tasks of agents. A second call does nothing."""
    if not isinstance(loop.get_task_factory(), TaskFactory):
        loop.set_task_factory(TaskFactory(loop.get_task_factory()))


async def _catch_exits(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """asyncio lets these two out of a task and through the event loop."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentExit(f"{type(error).__name__}: {error}") from error
