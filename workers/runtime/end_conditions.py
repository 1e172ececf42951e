"""What may end a running agent by itself: its `run` is over, its `check` fails, it is idle."""

from typing import Final

from eventstore.language.agent_commands import Command, End
from eventstore.language.agents import Agent as State
from workers.api.agent import Context
from workers.runtime.calls import Call
from workers.runtime.health_check import HealthCheck
from workers.runtime.isolation_window import IsolationWindow
from workers.runtime.outcome import failure
from workers.runtime.worker_context import WorkerContext

DAY_SECONDS: Final = 86_400.0


class EndConditions:
    """Of one incarnation, from the start of its `run` on."""

    def __init__(
        self,
        worker_context: WorkerContext,
        context: Context,
        run: Call | None,
        health_check: HealthCheck | None,
    ) -> None:
        self._worker_context = worker_context
        self._context = context
        self._run = run
        self._health_check = health_check
        self._isolation_window = IsolationWindow(worker_context.config)

    @property
    def calls(self) -> tuple[Call | None, ...]:
        """The calls whose end may fulfil one."""
        return self._run, self._health_check.call if self._health_check else None

    def poll(self, state: State) -> Command | None:
        """How the agent ends, if one is fulfilled. Starts the next `check` when that is due."""
        run, check = self._run, self._health_check
        if run is not None and run.done:
            if run.error:
                return failure(self._worker_context, state, "run", run.error)
            return End(reason="completed")
        if check is not None:
            check.poll()
            if check.unhealthy and check.error:
                return failure(self._worker_context, state, "check", check.error)
        limit = state.max_idle_time
        if limit is not None and self._context.idle_seconds >= limit:
            return End(reason="idle")
        return None

    def isolation_ended(self, state: State) -> bool:
        """Whether the agent is isolated, and has behaved for long enough."""
        return self._isolation_window.remaining(state) == 0.0

    def wait_seconds(self, state: State) -> float:
        """How long nothing can be fulfilled, unless a call ends."""
        seconds = [DAY_SECONDS]
        if self._health_check is not None:
            seconds.append(self._health_check.wait_seconds)
        if (isolated := self._isolation_window.remaining(state)) is not None:
            seconds.append(isolated)
        if state.max_idle_time is not None:
            seconds.append(max(state.max_idle_time - self._context.idle_seconds, 0.0))
        return min(seconds)
