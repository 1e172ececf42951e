"""Calling an agent's code: in a task and context of its own, with every outcome recorded.

Nothing that an agent raises gets past here, SystemExit and KeyboardInterrupt included: it becomes
the call's `error`. A cancellation of ours is no error, one that the agent's code raised is.

Ten agents share one process. Every call runs in a context in which `CURRENT` names its owner; tasks
it creates and `asyncio.to_thread` inherit that. So what it prints gets its ids (see `output`), and
whatever tasks it leaves behind can be ended with it: an end is written to the log only when nothing
of the agent runs any more.

Of an exception type, message and traceback are recorded, trimmed. Frames of Muster itself are left
out at the top, so that a user sees their own code. Text that UTF-8 cannot encode is escaped: the
outcome must be writable whatever was raised.
"""

import asyncio
import os
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any, Final

from eventstore.language.events import Error
from workers.output.lines import CURRENT, Owner

STUCK_SECONDS = 5
"""How long cancelled code may go on before its worker is ended."""
MESSAGE_MAX: Final = 2_000
TRACEBACK_MAX: Final = 8_192
FRAMES_MAX: Final = 20

_OWN: Final = str(Path(__file__).resolve().parents[1]) + os.sep
"""The folder of `workers`: its frames are left out of what an agent's author reads."""


class Stuck(Exception):
    """An agent's task outlives its cancellation."""


class Call:
    """One call under way."""

    def __init__(
        self, function: Callable[[], Awaitable[None]], context: Context, name: str
    ) -> None:
        self.error: Error | None = None
        self.cancelled = False
        self._function = function
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._run(), name=name, context=context)

    @property
    def done(self) -> bool:
        return self.task.done()

    def cancel(self) -> None:
        """Cancel it, if it has not ended. May be repeated, for code that swallows the first."""
        if not self.task.done():
            self.cancelled = True
            self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._function()
        except asyncio.CancelledError as error:
            if not self.cancelled:
                self.error = describe(error)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.error = describe(error)


async def cancel_all(owner: Owner, calls: Collection[Call]) -> None:
    """Cancel whatever still runs of an agent, its own tasks too; raises `Stuck` if that fails."""
    for _ in range(STUCK_SECONDS):
        unfinished = _unfinished(owner, calls)
        if not unfinished:
            return
        for call in calls:
            call.cancelled = call.cancelled or not call.done
        for task in unfinished:
            task.cancel()
        await asyncio.wait(unfinished, timeout=1.0)
    if _unfinished(owner, calls):
        raise Stuck


def _unfinished(owner: Owner, calls: Collection[Call]) -> set[asyncio.Task[Any]]:
    return {*owner.running_tasks(), *(call.task for call in calls if not call.done)}


class AgentExit(Exception):
    """An agent's code raised SystemExit or KeyboardInterrupt, which would end the whole worker."""


def track_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop note the tasks of agents with their owners. A second call does nothing."""
    inner: Any = loop.get_task_factory()
    if getattr(inner, "func", None) is not _create_task:
        loop.set_task_factory(partial(_create_task, inner))


def _create_task(
    inner: Any, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    context: Context | None = options.get("context")
    owner = CURRENT.get() if context is None else context.get(CURRENT)
    if owner is not None and asyncio.iscoroutine(coroutine):
        coroutine = _catch_exits(coroutine)
    if inner is None:
        task = asyncio.Task(coroutine, loop=loop, **options)
    else:
        task = inner(loop, coroutine, **options)
    if owner is not None:
        owner.tasks.add(task)
    return task


async def _catch_exits(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """asyncio lets these two out of a task and through the event loop."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentExit(f"{type(error).__name__}: {error}") from error


def describe(error: BaseException) -> Error:
    """An exception as it is recorded in an event."""
    return Error(
        type=_name(type(error)),
        message=_clean(_message(error))[:MESSAGE_MAX],
        traceback=_clean(_traceback(error))[-TRACEBACK_MAX:],
    )


def timeout_error(during: str, seconds: float) -> Error:
    """The error of code that hung."""
    return Error(type="TimeoutError", message=f"{during}() did not return within {seconds:g} s")


def _name(kind: type[BaseException]) -> str:
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001  a user's __str__ may raise anything
        return f"<its message could not be made: {_name(type(second))}>"


def _traceback(error: BaseException) -> str:
    try:
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if not frame.f_code.co_filename.startswith(_OWN)
        ]
        summary = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX)
        summary.stack = traceback.StackSummary.extract(iter(frames[-FRAMES_MAX:]))
        return "".join(summary.format())
    except Exception:  # noqa: BLE001  as above: formatting calls the user's code
        return ""


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
