"""An agent in a test: what it is and did, while it runs and afterwards."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, cast

from eventstore.language.events import Error
from muster.testing.context import RecordingContext
from workers.api.agent import Agent, Context
from workers.standalone.standalone import ENDED, Standalone, StandaloneOptions

POLL_SECONDS: Final = 0.005


class AgentFailed(AssertionError):
    """The agent's code failed; the message has its traceback."""


class DidNotEnd(AssertionError):
    """The agent did not do in time what was waited for; the message says where it waits."""


class TestedAgent:
    """An agent in a test: what it is and did, while it runs and afterwards."""

    __test__ = False  # it is no test, whatever its name

    def __init__(self, role: type[Agent], options: StandaloneOptions, timeout: float) -> None:
        self._role, self._timeout = role, timeout
        self._agent = Standalone(role, options, RecordingContext.of)
        self._task = asyncio.ensure_future(self._agent.run())

    # ---- what it is and did --------------------------------------------------------------------

    @property
    def instance(self) -> Any:
        """The object of the class that is tested."""
        return self._made[0]

    @property
    def context(self) -> RecordingContext:
        """What its methods were called with."""
        return cast("RecordingContext", self._made[1])

    @property
    def _made(self) -> tuple[Agent, Context]:
        if self._agent.made is None:
            raise AgentFailed(self._describe("was not made"))
        return self._agent.made

    @property
    def outcome(self) -> str:
        """`completed` (`run` returned), `idle`, `requested` (stopped), `released`; `start_failed`,
        `crashed`, `unhealthy`, `setup_failed` (its `worker_lifespan` raised); `unavailable` (it
        raised `muster.Unavailable`); `stuck` if its code could not be ended; empty
        while it runs."""
        return self._agent.outcome

    @property
    def error(self) -> Error | None:
        """What its code raised: type, message and traceback; None if nothing."""
        return self._agent.error

    @property
    def events(self) -> tuple[str, ...]:
        """The types of the events that a log would have, such as `agent.started`."""
        return self._agent.events

    @property
    def state(self) -> bytes | None:
        """What it saved last, or the `state` that it was given; None: nothing."""
        return self._agent.state

    @property
    def started(self) -> bool:
        """Whether its `start` has returned."""
        return "agent.started" in self.events

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._task.done()

    @property
    def idle(self) -> bool:
        """Whether it is running and idle."""
        return self.started and not self.context.busy

    @property
    def logs(self) -> list[dict[str, Any]]:
        return self.context.logs

    @property
    def touches(self) -> int:
        return self.context.touches

    def logged(self, event: str, **fields: object) -> bool:
        """Whether `context.logger` was called with this event, and these fields among others."""
        wanted = {"event": event, **fields}
        return any(wanted.items() <= line.items() for line in self.logs)

    def __repr__(self) -> str:
        return self._describe(self.outcome or "runs")

    def _describe(self, what: str) -> str:
        text = f"<{self._role.__name__} {what}"
        if (error := self.error) is not None:
            text += f": {error.type}: {error.message}\n{error.traceback.rstrip()}\n"
        return f"{text}>"

    # ---- while it runs -------------------------------------------------------------------------

    async def wait_until(
        self, condition: Callable[[], object], timeout: float | None = None
    ) -> None:
        """Wait until the condition holds. Raises `AgentFailed` if the agent fails meanwhile, and
        `DidNotEnd` after `timeout` seconds, unless given those of the test."""
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ended:
                raise AgentFailed(self._describe(f"ended ({self.outcome}) before that"))
            if time.monotonic() >= deadline:
                raise DidNotEnd(self._where(seconds, "what was waited for did not come"))
            await asyncio.sleep(POLL_SECONDS)

    async def check(self) -> None:
        """Call its `check` now; raises what that raises."""
        await self.instance.check(self.context)

    async def stop(self, *, now: bool = False) -> None:
        """Stop it in good order; `now`: cancel it, without its `stop`. Returns once it has ended.

        Raises `DidNotEnd` if that takes longer than the test may.
        """
        self._agent.request_stop(now=now)
        await self.wait()

    async def release(self) -> None:
        """Stop it in good order as if it were to go on elsewhere: its state is saved.

        Returns once it has ended. Raises `DidNotEnd` if that takes longer than the test may.
        """
        self._agent.request_release()
        await self.wait()

    async def wait(self, otherwise: str = "it did not end") -> None:
        """Wait for its end. Raises `DidNotEnd`."""
        done, _ = await asyncio.wait({self._task}, timeout=self._timeout)
        if not done:
            raise DidNotEnd(self._where(self._timeout, otherwise))
        self._task.result()

    def require_success(self) -> None:
        """Raises `AgentFailed`, with the traceback, if its code failed."""
        if self.ended and (self.outcome not in ENDED or self.error is not None):
            raise AgentFailed(self._describe(self.outcome))

    async def cancel(self) -> None:
        """End it whatever it does."""
        self._agent.request_stop(now=True)
        await asyncio.wait({self._task}, timeout=self._timeout)
        self._task.cancel()

    def _where(self, seconds: float, what: str) -> str:
        name, last, stack = self._role.__name__, self.events[-1], self._agent.stack()
        return f"{name}: {what} within {seconds:g} s (last: {last}); it waits at:\n{stack}"
