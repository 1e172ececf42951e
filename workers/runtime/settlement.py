"""Writing what becomes of an agent: it started, failed, was released, ended, or is cleared."""

import random
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import structlog
from msgspec.structs import replace

from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError, MemoryExhausted, Unreadable
from eventstore.language.agent_commands import Clear, Command, Fail, Release, Save
from eventstore.language.agents import RESTART_REQUESTED, Status
from eventstore.language.agents import Agent as State
from eventstore.language.events import Error
from eventstore.log.replies import AgentResult, Outcome
from eventstore.steps.step import Origin
from workers.api.agent import SaveFailed
from workers.runtime.stop_signal import StopRequest, StopSignal
from workers.runtime.worker_context import WorkerContext

log = structlog.get_logger("muster.agents")

_LOG_EVENTS: Final = {
    Status.RUNNING: "agent.started",
    Status.RESTARTING: "agent.restarting",
    Status.PENDING: "agent.released",
    Status.TERMINATED: "agent.terminated",
    Status.FAILED: "agent.failed",
}

ROUTINE: Final = frozenset((Status.RUNNING, Status.TERMINATED))


def failure(worker_context: WorkerContext, state: State, during: str, error: Error) -> Fail:
    """The agent's code failed in `start`, `run` or `check`."""
    log.warning(
        "agent.failing",
        agent_id=state.agent_id,
        incarnation=state.incarnation,
        during=during,
        error=error.type,
        message=error.message,
    )
    return Fail(
        during=during,
        error=error,
        now_ms=worker_context.log.now_ms(),
        policy=worker_context.config.restart_policy,
        jitter=random.random(),
    )


class Settlement:
    """The outcomes of one incarnation, and its `state` as the log has it."""

    def __init__(self, worker_context: WorkerContext, state: State, stop: StopSignal) -> None:
        self.state = state
        self.released_with: bytes | None = None
        """The state that a release stores."""
        self._worker_context, self._stop = worker_context, stop
        self.origin: Origin | None = None
        """What is recorded of its outcomes, if that is not what the worker records."""

    async def write(self, command: Command) -> None:
        """Write an outcome, for as long as the right to do so lasts.

        Where that ends, a write under way is not waited for: Redis may not answer.
        """
        if not self._stop.abandoned:
            self._on_acted(command, await self._stop.unless_abandoned(self._act(command)))

    async def save(self, command: Save, saved: bytes) -> None:
        """Store a state that the agent asked for. Raises `SaveFailed`."""
        agent_id, fence = self.state.agent_id, self._worker_context.fence

        async def act() -> AgentResult:
            try:
                return await self._worker_context.log.act(
                    agent_id,
                    command,
                    fence=fence,
                    incarnation=self.state.incarnation,
                    state=saved,
                    adds_load=True,
                )
            except (MemoryExhausted, Unreadable) as error:
                raise SaveFailed(f"the state was not stored: {error}") from error

        acted = await retry(Backoff("save", agent_id=agent_id), act)
        if acted.agent is None or acted.outcome not in {Outcome.DONE, Outcome.ALREADY}:
            self.on_fenced(acted.outcome)
            raise SaveFailed("the state was not stored: another worker may have the agent now")
        self.state = acted.agent
        if acted.agent.discards:
            raise SaveFailed("the state was not stored: what it saved was discarded, it restarts")
        if acted.proof and (confirm := self._worker_context.confirm):
            try:
                reason = await confirm(acted.proof)
            except LogError as error:
                reason = str(error)
            if reason:
                raise SaveFailed(f"the state was stored, but is not as durable as asked: {reason}")

    @cached_property
    def log(self) -> Any:
        return log.bind(agent_id=self.state.agent_id, incarnation=self.state.incarnation)

    def on_fenced(self, outcome: Outcome) -> None:
        """Another worker has the agent now, or none."""
        self.log.warning("agent.fenced", outcome=outcome.value)
        self._stop.send(StopRequest.ABANDON)
        self._worker_context.on_fenced()

    def log_status(self) -> None:
        """Log what became of it; of many starts and ends, which are events anyway, not all."""
        status, limit = self.state.status, self._worker_context.routine_lines
        if status not in _LOG_EVENTS or (status in ROUTINE and not limit.admit(0)):
            return
        left_out, _ = limit.take_dropped()
        more = {"left_out": left_out} if left_out else {}
        self.log.info(_LOG_EVENTS[status], reason=self.state.reason, **more)

    async def _act(self, command: Command) -> AgentResult | None:
        """Carry out a command on the agent, for as long as it takes: to be cancelled.

        None where nothing was written: its state in Redis is damaged, and it is parked, for an
        operator; or it is left to the reaper of its worker.
        """
        if isinstance(command, Release) and self._worker_context.leaves_agents():
            if command.saved is not None and self.released_with is not None:
                with suppress(SaveFailed):  # then it goes on from what it saved before
                    await self.save(command.saved, self.released_with)
            return None
        pool_log, agent_id = self._worker_context.log, self.state.agent_id
        fence, incarnation = self._worker_context.fence, self.state.incarnation
        backoff = Backoff("settle", agent_id=agent_id)
        origin = self.origin or pool_log.origin
        if isinstance(command, Release) and command.reason != RESTART_REQUESTED:
            origin = replace(origin, causation_id=self._worker_context.drained_by)

        async def act() -> AgentResult | None:
            nonlocal command
            known, saved = None if backoff.active else self.state, self.released_with
            try:
                acted = await pool_log.act(
                    agent_id,
                    command,
                    origin=origin,
                    fence=fence,
                    incarnation=incarnation,
                    agent=known,
                    state=saved,
                    adds_load=saved is not None,
                )
                if acted.outcome is Outcome.ABSENT and agent_id in await pool_log.live():
                    raise Unreadable("agent", agent_id, "its hash is gone")
            except MemoryExhausted as error:
                if saved is not None and isinstance(command, Release):
                    self.log.warning("agent.save_failed", reason=str(error))
                    command = replace(command, saved=None, save_error=str(error))
                    self.released_with = None
                raise
            except Unreadable as error:
                await pool_log.park(error, holder=fence.worker_id)
                return None
            return acted

        return await retry(backoff, act)

    def _on_acted(self, command: Command, acted: AgentResult | None) -> None:
        if acted is None:
            self._stop.send(StopRequest.ABANDON)
            return
        if acted.outcome not in {Outcome.DONE, Outcome.ALREADY} or acted.agent is None:
            self.on_fenced(acted.outcome)
            return
        self.state = acted.agent
        if isinstance(command, Clear):
            if acted.outcome is Outcome.DONE:  # else the leader has cleared it
                self.log.info("agent.cleared", reason=command.reason)
        else:
            self.log_status()
