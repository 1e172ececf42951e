"""What all agents of a worker share, how one may be requested to stop, and writing what becomes of
it: it started, failed, was released, ended, or is cleared.
"""

import random
from collections.abc import Callable, Mapping
from enum import IntEnum

import structlog
from msgspec import Struct

from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError, Unreadable
from eventstore.language.agent_commands import Command, Fail, Release
from eventstore.language.agents import Agent as State
from eventstore.language.events import Error
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import ROLE_NOT_DECLARED
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import AgentResult, Outcome
from eventstore.steps.step import Fence
from workers.api.agent import Agent
from workers.api.engine import Database
from workers.output.lines import Output


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


class WorkerContext(Struct, kw_only=True):
    """What all agents of a worker share. `config` is replaced when the pool's settings change."""

    log: PoolLog
    fence: Fence
    config: PoolConfig
    roles: Mapping[str, type[Agent]]
    database: Database
    output: Output | None
    shared: object = None
    """What the role's `worker_lifespan` yielded."""
    fallback: bool = False
    on_fenced: Callable[[], None] = lambda: None
    """Called when the log refused something as FENCED."""
    leaves_agents: Callable[[], bool] = lambda: False
    """Whether agents that are stopped are left to the worker's reaper, and not released."""
    on_role_problem: Callable[[str], None] = lambda _: None
    """Called with the reason when the class of an agent's role is not available here."""

    def role_problem(self, role: str) -> str:
        """Why no agent of a role can be made here, which is no failure of the agent."""
        return (
            "" if role in self.roles else f"{ROLE_NOT_DECLARED}: this worker has no role {role!r}"
        )


log = structlog.get_logger("muster.agents")


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


async def write_outcome(
    worker_context: WorkerContext, state: State, command: Command
) -> AgentResult | None:
    """Carry out a command on an agent of this worker, for as long as it takes: to be cancelled.

    None where nothing was written: its state in Redis is damaged, and it is parked; or it is left
    to the reaper of its worker.
    """
    if isinstance(command, Release) and worker_context.leaves_agents():
        return None
    pool_log, agent_id = worker_context.log, state.agent_id
    backoff = Backoff("settle", agent_id=agent_id)

    async def write() -> AgentResult | None:
        known = None if backoff.active else state
        fence, incarnation = worker_context.fence, state.incarnation
        try:
            acted = await pool_log.act(
                agent_id, command, fence=fence, incarnation=incarnation, agent=known
            )
            if acted.outcome is Outcome.ABSENT and agent_id in await pool_log.live():
                raise Unreadable("agent", agent_id, "its hash is gone")
        except Unreadable as error:
            await _park(worker_context, state, error)
            return None
        return acted

    return await retry(backoff, write)


async def _park(worker_context: WorkerContext, state: State, damage: Unreadable) -> None:
    """Leave the agent to an operator."""
    try:
        await worker_context.log.park(damage, holder=worker_context.fence.worker_id)
    except LogError as error:
        log.warning(
            "agent.not_parked",
            agent_id=state.agent_id,
            incarnation=state.incarnation,
            error=str(error),
        )
