"""What is requested of an incarnation from outside, and waiting for its code meanwhile.

A stronger request overrides a weaker one at any time, and interrupts whatever is waited for.
"""

import asyncio
from enum import IntEnum
from typing import Any

from eventstore.language.agent_commands import Command, End, Release
from eventstore.language.agents import Stop
from eventstore.language.events import Error
from workers.runtime.calls import CANCEL_SECONDS, Call


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

    def __init__(self) -> None:
        self.request = StopRequest.NONE
        self._reason = ""
        self._changed = asyncio.get_running_loop().create_future()

    @property
    def in_good_order(self) -> bool:
        """Whether the agent may take its grace period."""
        return self.request < StopRequest.RELEASE_NOW

    @property
    def abandoned(self) -> bool:
        return self.request is StopRequest.ABANDON

    def send(self, request: StopRequest, reason: str = "") -> None:
        """Request its end in some way. A weaker request than the present one changes nothing."""
        if request > self.request:
            self.request, self._reason = request, reason or self._reason
            changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
            changed.set_result(None)

    def apply_flag(self, stop: Stop) -> None:
        """Follow the termination flag."""
        if stop is not Stop.NO:
            now = stop is Stop.NOW
            self.send(StopRequest.STOP_NOW if now else StopRequest.STOP, "requested")

    def command(self, error: Error | None = None) -> Command:
        """What a requested end is recorded as."""
        if self.request in {StopRequest.RELEASE, StopRequest.RELEASE_NOW}:
            return Release(reason=self._reason)
        return End(reason=self._reason, error=error)

    async def wait(self, *others: "asyncio.Future[Any]", seconds: float | None = None) -> None:
        """Wait for a stronger request, for any of the others, or for the time."""
        await asyncio.wait(
            {self._changed, *others}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )

    async def wait_for_end(self, call: Call, seconds: float, interrupted_by: StopRequest) -> None:
        """Wait for a call to end, up to some time or until such a request."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while (
            not call.done
            and self.request < interrupted_by
            and (remaining := deadline - clock()) > 0
        ):
            await self.wait(call.ended, seconds=remaining)

    async def cancel(self, call: Call, seconds: float) -> None:
        """Cancel a call until it has ended, for some time at most while that may be taken."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while not call.done:
            call.cancel()
            remaining = deadline - clock()
            if remaining <= 0 or not self.in_good_order:
                return
            await self.wait_for_end(
                call, min(remaining, CANCEL_SECONDS), interrupted_by=StopRequest.RELEASE_NOW
            )
