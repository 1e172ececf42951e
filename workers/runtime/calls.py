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
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, Final

from eventstore.language.events import Error
from workers.output.lines import Owner
from workers.runtime.errors import describe
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
    """One call of an agent's code; `ended` is done once it is over."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        self.error: Error | None = None
        self.cancelled = False
        self.interrupted = False
        """It ended with a cancellation that is not ours."""
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self._function: Callable[[], Awaitable[None]] | None = function

    @property
    def done(self) -> bool:
        return self.ended.done()

    @property
    def stack(self) -> str:
        """Where it waits."""
        return task_stack(self.task) if self.task is not None else ""

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
            if self._function is not None and not self.cancelled:
                await self._function()
        except asyncio.CancelledError as error:
            self.interrupted = not self.cancelled
            if self.interrupted:
                self.error = describe(error)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.error = describe(error)
        finally:
            self.end()

    def end(self, *_: object) -> None:
        self._function = None  # it refers to the agent, which is to be freed
        if not self.done:
            self.ended.set_result(None)


class AgentTask:
    """The task of one incarnation, in which its `start`, `run` and `stop` are called in turn.

    It exists from the first call to `close`; until then no cancellation ends it.
    """

    def __init__(self, owner: Owner, variables: Context, name: str) -> None:
        self._owner, self._variables, self._name = owner, variables, name
        self._next: Call | None = None
        self._wakeup = asyncio.Event()
        self._closed = self._interrupted = False
        self._task: asyncio.Task[None] | None = None

    def call(self, function: Callable[[], Awaitable[None]], *, sheltered: bool = False) -> Call:
        """Call it as soon as the call before has ended.

        What the agent left open may cancel its task between two calls (a task group of which a task
        fails, a time-out): that cancels the next one, unless it is `sheltered`.
        """
        call = self._next = Call(function)
        self._interrupted = self._interrupted and not sheltered
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
        await asyncio.sleep(0)  # the task that calls its code ends by itself, if it only waits
        for _ in range(int(STUCK_SECONDS / CANCEL_SECONDS)):
            if not (unfinished := self._owner.running_tasks()):
                return
            for task in unfinished:
                task.cancel()
            await asyncio.wait(unfinished, timeout=CANCEL_SECONDS)
        if unfinished := self._owner.running_tasks():
            raise Stuck(task_stack(task) for task in unfinished)

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._closed:
            try:
                await self._wakeup.wait()
            except asyncio.CancelledError:
                self._interrupted = True
                continue
            self._wakeup.clear()
            call, self._next = self._next, None
            if self._interrupted:
                task.cancel()
            if call is not None:
                await call.run()
            self._interrupted = False
            while task.cancelling():  # what ended one call must not end the next
                task.uncancel()

    def _create_task(
        self, coroutine: Coroutine[Any, Any, None], name: str, variables: Context
    ) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=name, context=variables)
        self._owner.tasks.add(task)
        return task
