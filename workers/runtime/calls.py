"""Calling an agent's code: in a task and context of its own, with every outcome recorded.

Nothing that an agent raises gets past here, SystemExit and KeyboardInterrupt included: it becomes
the call's `error`. A cancellation of ours is no error, one that the agent's code raised is.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from eventstore.language.events import Error
from workers.output.lines import Owner
from workers.runtime.errors import describe

STUCK_SECONDS = 5
"""How long cancelled code may go on before its worker is ended."""


class Stuck(Exception):
    """An agent's task outlives its cancellation."""


class Call:
    """One call under way."""

    def __init__(
        self, function: Callable[[], Awaitable[None]], context: contextvars.Context, name: str
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
