"""What is requested of an incarnation from outside, and waiting for its code meanwhile.

A stronger request overrides a weaker one at any time, and interrupts whatever is waited for.
"""

import asyncio
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, TypeVar

from eventstore.language.agent_commands import Command, End, Release
from eventstore.language.agents import Stop
from eventstore.language.events import Error
from workers.runtime.calls import CANCEL_SECONDS, Call

T = TypeVar("T")


class StopRequest(IntEnum):
    """How an agent is to stop, the strongest last."""

    NONE = 0
    RELEASE = 1
    """Stop in good order, to run again elsewhere."""
    STOP = 2
    RELEASE_NOW = 3
    STOP_NOW = 4
    ABANDON = 5
    """The right to run it is lost: end it at once and write nothing."""


class StopSignal:
    """The requests to stop one incarnation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.request = StopRequest.NONE
        self._loop = loop
        self._reason = ""
        self._waiter: asyncio.Future[None] | None = None
        self._working: asyncio.Task[Any] | None = None
        """What ends when the right to run it is lost."""

    @property
    def in_good_order(self) -> bool:
        """Whether the agent may take its grace period."""
        return self.request < StopRequest.RELEASE_NOW

    @property
    def releases(self) -> bool:
        """Whether the agent is to run again elsewhere."""
        return self.request in {StopRequest.RELEASE, StopRequest.RELEASE_NOW}

    @property
    def abandoned(self) -> bool:
        return self.request is StopRequest.ABANDON

    def send(self, request: StopRequest, reason: str = "") -> None:
        """Request its end in some way. A weaker request than the present one changes nothing."""
        if request > self.request:
            self.request, self._reason = request, reason or self._reason
            self.wake()
            if self.abandoned and self._working is not None:
                self._working.cancel()

    def apply_flag(self, stop: Stop) -> None:
        """Follow the termination flag."""
        if stop is not Stop.NO:
            now = stop is Stop.NOW
            self.send(StopRequest.STOP_NOW if now else StopRequest.STOP, "requested")

    def command(self, error: Error | None = None) -> Command:
        """What a requested end is recorded as."""
        if self.releases:
            return Release(reason=self._reason)
        return End(reason=self._reason, error=error)

    def wake(self) -> None:
        """End the wait, if there is one: something that it is for has happened."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Wait for a stronger request, for `wake`, or for the time, if any. One task may wait."""
        self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self.wake)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    async def unless_abandoned(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Its result; None if it was cancelled, because the right to run the agent was lost."""
        task = self._working = asyncio.current_task(self._loop)
        try:
            return await work
        except asyncio.CancelledError:
            if not self.abandoned or task is None or task.uncancel():
                raise
            return None
        finally:
            self._working = None

    async def wait_for_end(self, call: Call, seconds: float, interrupted_by: StopRequest) -> None:
        """Wait for a call to end, up to some time or until such a request."""
        clock = self._loop.time
        deadline = clock() + seconds
        while (
            not call.done
            and self.request < interrupted_by
            and (remaining := deadline - clock()) > 0
        ):
            await self.wait(remaining)

    async def cancel(self, call: Call, seconds: float) -> None:
        """Cancel a call until it has ended, for some time at most while that may be taken."""
        clock = self._loop.time
        deadline = clock() + seconds
        while not call.done:
            call.cancel()
            remaining = deadline - clock()
            if remaining <= 0 or not self.in_good_order:
                return
            await self.wait_for_end(
                call, min(remaining, CANCEL_SECONDS), interrupted_by=StopRequest.RELEASE_NOW
            )
