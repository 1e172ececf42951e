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
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import Any, Final

from eventstore.language.events import Error
from workers.output.lines import Owner
from workers.runtime.errors import describe
from workers.runtime.loop_guard import own_task
from workers.runtime.stacks import task_stack

STUCK_SECONDS = 5
"""How long cancelled code may go on before its worker is ended."""
CANCEL_SECONDS = 1.0
"""After which code is cancelled again that swallowed a cancellation."""
STACKS_MAX: Final = 10


class Stuck(Exception):
    """Code of an agent outlives its cancellation; `stacks`: where it is."""

    def __init__(self, stacks: Iterable[str]) -> None:
        self.stacks = [stack for stack in stacks if stack][:STACKS_MAX]
        super().__init__(*self.stacks)


class Call:
    """One call of an agent's code; `on_end` is called once it is over."""

    def __init__(self, function: Callable[[], Awaitable[None]], on_end: Callable[[], None]) -> None:
        self.error: Error | None = None
        self.done = self.cancelled = False
        self.interrupted = False
        """It ended with a cancellation that is not ours."""
        self.task: asyncio.Task[None] | None = None
        self._function: Callable[[], Awaitable[None]] | None = function
        self._on_end = on_end

    @property
    def stack(self) -> str:
        """Where it waits."""
        return task_stack(self.task) if self.task is not None else ""

    def cancel(self) -> None:
        """Cancel it, if it has not ended. May be repeated, for code that swallows the first."""
        if not self.done:
            self.cancelled = True
            if self.task is not None and self._function is None:  # else it ends as it begins
                self.task.cancel()

    async def run(self) -> None:
        function, self._function = self._function, None  # it refers to the agent, to be freed
        try:
            if function is not None and not self.cancelled:
                await function()
        except asyncio.CancelledError as error:
            self.interrupted = not self.cancelled
            if self.interrupted:
                self.error = describe(error)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.error = describe(error)
        finally:
            self.end()

    def end(self, *_: object) -> None:
        """(Also of one whose task was cancelled before it began, by other code of its agent.)"""
        if not self.done:
            self.done, self._function = True, None
            self._on_end()


class AgentTask:
    """The task of one incarnation, in which its `start`, `run` and `stop` are called in turn.

    It exists from the first call to `close`; until then no cancellation ends it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, name: str) -> None:
        self.variables = owner.context()
        self._loop, self._owner, self._name = loop, owner, name
        self._next: Call | None = None
        self._wakeup: asyncio.Future[None] | None = None
        """While it waits for a call."""
        self._closed = self._interrupted = False
        self._task: asyncio.Task[None] | None = None

    def call(
        self,
        function: Callable[[], Awaitable[None]],
        on_end: Callable[[], None] = lambda: None,
        *,
        sheltered: bool = False,
    ) -> Call:
        """Call it as soon as the call before has ended.

        What the agent left open may cancel its task between two calls (a task group of which a task
        fails, a time-out): that cancels the next one, unless it is `sheltered`.
        """
        call = self._next = Call(function, on_end)
        self._interrupted = self._interrupted and not sheltered
        if self._task is None or self._task.done():
            self._task = self._create_task(self._serve(), self._name, self.variables)
            self._task.add_done_callback(call.end)
        call.task = self._task
        self._wake()
        return call

    def call_apart(
        self, function: Callable[[], Awaitable[None]], on_end: Callable[[], None] = lambda: None
    ) -> Call:
        """Call it at the same time. What it sets as context variables stays its own."""
        call = Call(function, on_end)
        call.task = self._create_task(call.run(), f"check:{self._name}", self.variables.copy())
        call.task.add_done_callback(call.end)
        return call

    def close(self) -> None:
        """Call nothing more. The task that calls its code ends by itself, if it only waits."""
        self._closed = True
        self._wake()

    async def end(self) -> None:
        """Cancel whatever still runs of the agent, its own tasks too. Raises `Stuck`."""
        self.close()
        for _ in range(int(STUCK_SECONDS / CANCEL_SECONDS)):
            if not (unfinished := self._unfinished()):
                return
            for task in unfinished:
                task.cancel()
            await asyncio.wait(unfinished, timeout=CANCEL_SECONDS)
        if unfinished := self._unfinished():
            raise Stuck(task_stack(task) for task in unfinished)

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        waits = self._task if self._wakeup is not None else None
        return [task for task in self._owner.tasks if task is not waits and not task.done()]

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _serve(self) -> None:
        task = self._task
        assert task is not None
        while not self._closed:
            if (call := self._next) is None:
                await self._wait()
                continue
            self._next = self._wakeup = None
            if self._interrupted:
                task.cancel()
            await call.run()
            self._interrupted = False
            while task.cancelling():  # what ended one call must not end the next
                task.uncancel()

    async def _wait(self) -> None:
        self._wakeup = self._loop.create_future()
        try:
            await self._wakeup
        except asyncio.CancelledError:
            self._interrupted = True

    def _create_task(self, coroutine: Any, name: str, variables: Context) -> asyncio.Task[None]:
        return own_task(self._loop, coroutine, self._owner, name=name, context=variables)
