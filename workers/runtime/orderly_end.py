"""The end of an incarnation in good order: its `run` ends, then come `stop` and `save`.

All three share the grace period. `stop`, if there is one, has at least a third of it, `save` a
sixth. What raises or hangs delays the others by no more than that.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from eventstore.language.events import Error
from workers.api.agent import Agent, Context, keeps_state, overrides
from workers.runtime.calls import AgentTask, Call
from workers.runtime.errors import timeout_error
from workers.runtime.saved_state import SavedState
from workers.runtime.settlement import Settlement
from workers.runtime.stop_signal import StopRequest, StopSignal
from workers.runtime.worker_context import WorkerContext

STOP_SHARE: Final = 1 / 3
"""The part of the grace period that `run` leaves to `stop`, if there is one."""
SAVE_SHARE: Final = 1 / 6
"""The part that both leave to `save`."""
RETURN_SHARE: Final = 3 / 4
"""The part of its own in which a `run` that looks at `context.stopping` may return by itself."""


class OrderlyEnd:
    """Of one incarnation. `grace_ends_at`: by the event loop's time, once it began."""

    __slots__ = ("_saved", "_settlement", "_stop", "_task", "_worker_context", "grace_ends_at")

    def __init__(
        self,
        worker_context: WorkerContext,
        task: AgentTask,
        stop: StopSignal,
        settlement: Settlement,
        saved: SavedState,
    ) -> None:
        self.grace_ends_at = 0.0
        self._worker_context, self._task, self._stop = worker_context, task, stop
        self._settlement, self._saved = settlement, saved

    async def run(self, agent: Agent, context: Context, run: Call | None) -> Error | None:
        """End `run`, then call `stop` and `save`; returns what the first two raised."""
        clock, kind = self._worker_context.loop.time, type(agent)
        grace = self._worker_context.config.stop_grace_seconds
        deadline = self.grace_ends_at = clock() + grace
        saves = keeps_state(kind) and self._stop.releases
        has_stop = overrides(kind, "stop")
        for_stop = grace * STOP_SHARE if has_stop else 0.0
        for_save = grace * SAVE_SHARE if saves else 0.0
        patient = context.request_stop() and overrides(kind, "run")
        if run is not None and not run.done:
            if patient:
                seconds = RETURN_SHARE * (grace - for_stop - for_save)
                await self._stop.wait_for_end(run, seconds, StopRequest.RELEASE_NOW)
            await self._stop.cancel(run, deadline - clock())
            self._log_hanging(run, "run", grace)
        raised = run.error if run is not None and not run.interrupted else None
        if has_stop and self._stop.in_good_order:
            seconds = max(deadline - clock() - for_save, for_stop)
            raised = await self._call_stop(agent, context, seconds) or raised
        if saves and self._stop.releases:
            await self._collect_state(agent, max(deadline - clock(), for_save))
        return raised

    async def _call_stop(self, agent: Agent, context: Context, seconds: float) -> Error | None:
        stop = self._call(lambda: agent.stop(context))
        await self._stop.wait_for_end(stop, seconds, StopRequest.RELEASE_NOW)
        error = self._log_hanging(stop, "stop", seconds)
        stop.cancel()
        if stop.error:
            error = stop.error
            self._settlement.log.warning(
                "agent.stop_failed", error=error.type, message=error.message
            )
        return error

    async def _collect_state(self, agent: Agent, seconds: float) -> None:
        """Ask for the state that is stored with the release, which goes on without it, too."""
        if not self._stop.in_good_order:
            self._saved.fail("there was no time for it")
            return
        save = self._call(lambda: self._saved.collect(agent))
        await self._stop.wait_for_end(save, seconds, StopRequest.RELEASE_NOW)
        error = save.error
        if not save.done:
            error = self._log_hanging(save, "save", seconds)
            self._saved.fail(error.message if error else "there was no time for it")
        elif error:
            self._saved.fail(f"{error.type}: {error.message}")
        save.cancel()

    def _log_hanging(self, call: Call, during: str, seconds: float) -> Error | None:
        """Say where a call is that did not end in its time."""
        if call.done or not self._stop.in_good_order:
            return None
        error = timeout_error(during, seconds, call.stack)
        self._settlement.log.warning(
            "agent.hanging", during=during, seconds=seconds, stack=call.stack
        )
        return error

    def _call(self, function: Callable[[], Awaitable[None]]) -> Call:
        return self._task.call(function, self._stop.wake, sheltered=True)
