"""Calling an agent's code: every outcome recorded, and nothing left running at its end.

`start`, `run` and `stop` of an incarnation run one after the other in one task, so that what
`start` enters (a task group, a cancel scope, a time-out) `stop` may leave. `check` runs at the same
time as `run`, in a task and a copy of the context variables of its own.

Nothing that an agent raises gets past here, SystemExit and KeyboardInterrupt included: it becomes
the call's `error`. A cancellation of ours is no error, one that the agent's code raised is.

Ten agents share one process. Every call runs in a context in which `CURRENT` names its owner; tasks
it creates and `asyncio.to_thread` inherit that. So what it prints gets its ids (see `output`), and
whatever tasks it leaves behind can be ended with it: an end is written to the log only when nothing
of the agent runs any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from eventstore.language.events import Error
from workers.output.lines import CURRENT, Owner
from workers.runtime.errors import describe

STUCK_SECONDS = 5
"""How long cancelled code may go on before its worker is ended."""


class Stuck(Exception):
    """An agent's task outlives its cancellation."""


class Call:
    """One call of an agent's code; `ended` is done once it is over."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        self.error: Error | None = None
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self._function = function

    @property
    def done(self) -> bool:
        return self.ended.done()

    def cancel(self) -> None:
        """Cancel it, if it has not ended. May be repeated, for code that swallows the first."""
        if not self.done:
            self.cancelled = True
            if self.task is not None:
                self.task.cancel()

    def run_in(self, task: asyncio.Task[None]) -> None:
        self.task = task
        task.add_done_callback(self.end)  # one cancelled before it began never runs

    async def run(self) -> None:
        try:
            if not self.cancelled:
                await self._function()
        except asyncio.CancelledError as error:
            if not self.cancelled:
                self.error = describe(error)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.error = describe(error)
        finally:
            self.end()

    def end(self, *_: object) -> None:
        if not self.done:
            self.ended.set_result(None)


class AgentTask:
    """The task of one incarnation, in which its `start`, `run` and `stop` are called in turn.

    It exists from the first call to `close`; until then nothing that an agent left open ends it.
    """

    def __init__(self, owner: Owner, variables: Context, name: str) -> None:
        self._owner, self._variables, self._name = owner, variables, name
        self._next: Call | None = None
        self._wakeup = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def call(self, function: Callable[[], Awaitable[None]]) -> Call:
        """Call it as soon as the call before has ended."""
        call = self._next = Call(function)
        self._task = self._task or self._create_task(self._serve(), self._name, self._variables)
        call.run_in(self._task)
        self._wakeup.set()
        return call

    def call_apart(self, function: Callable[[], Awaitable[None]]) -> Call:
        """Call it at the same time. What it sets as context variables stays its own."""
        call = Call(function)
        call.run_in(self._create_task(call.run(), f"check:{self._name}", self._variables.copy()))
        return call

    def close(self) -> None:
        """Call nothing more."""
        self._closed = True
        self._wakeup.set()

    async def end(self) -> None:
        """Cancel whatever still runs of the agent, its own tasks too. Raises `Stuck`."""
        self.close()
        for _ in range(STUCK_SECONDS):
            if not (unfinished := self._owner.running_tasks()):
                return
            for task in unfinished:
                task.cancel()
            await asyncio.wait(unfinished, timeout=1.0)
        if self._owner.running_tasks():
            raise Stuck

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._closed:
            try:
                await self._wakeup.wait()
            except asyncio.CancelledError:
                continue  # by what the agent left open: a time-out, a cancel scope
            self._wakeup.clear()
            call, self._next = self._next, None
            if call is not None:
                await call.run()
            while task.cancelling():  # what ended one call must not end the next
                task.uncancel()

    def _create_task(
        self, coroutine: Coroutine[Any, Any, None], name: str, variables: Context
    ) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=name, context=variables)
        self._owner.tasks.add(task)
        return task


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
    guarded = _catch_exits(coroutine) if owner and asyncio.iscoroutine(coroutine) else coroutine
    make = partial(inner, loop) if inner else partial(asyncio.Task, loop=loop)
    task: asyncio.Task[Any] = make(guarded, **options)
    if owner is not None:
        owner.tasks.add(task)
    if guarded is not coroutine:  # one cancelled before it began is never awaited
        task.add_done_callback(lambda _: coroutine.close())
    return task


async def _catch_exits(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """asyncio lets these two out of a task and through the event loop."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        described = describe(error)
        raise AgentExit(f"{described.type}: {described.message}") from error
