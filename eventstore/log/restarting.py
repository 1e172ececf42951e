"""Restarts an agent on request, under its id and as its next incarnation.

Redis retains the hash of an agent that has failed for a while, and never its input. Both are made
again from the views, which must have applied all that is in the log.
"""

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import asdict, replace

from eventstore.language import agent_commands
from eventstore.language.agent_commands import FindState, RequestRestart
from eventstore.language.agents import Agent, Status
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRestartRequested
from eventstore.log.commit_retry import Attempts
from eventstore.log.log import Log, proof_of
from eventstore.log.replies import AgentResult, Outcome
from eventstore.steps import clauses
from eventstore.steps.step import Origin, Step


class Operation(Struct, frozen=True):
    """Under which id a repeated request is known, and what tells it from another request."""

    operation_id: str
    digest: str


class RestartResult(AgentResult, frozen=True):
    """How it ended: DONE; KNOWN (`same`: as the same request); ALREADY: it waits to be claimed, its
    worker is to release it, or it may not be restarted; ABSENT; or CLOSED or FULL, of its pool."""

    same: bool = True
    waiting: int = 0
    """For FULL: how many spawns wait."""


async def request_restart(
    log: Log,
    pool: Pool,
    agent_id: str,
    reason: str,
    origin: Origin,
    *,
    from_views: Callable[[], Awaitable[Agent | None]],
    copied_state: Callable[[Agent], Awaitable[bytes | None]] | None = None,
    discard_state: bool = False,
    operation: Operation | None = None,
) -> RestartResult:
    """Queue an agent, or have its worker release it. Raises `Unreadable`, and as `Log.act`.

    `from_views`: called for an agent that has failed, or of which Redis has nothing. `copied_state`
    is called for a saved state that Redis does not have. `discard_state`: start without it.
    """
    name, command = pool.pool_name, RequestRestart(reason=reason, discard_state=discard_state)
    if operation is not None:
        command = replace(command, **asdict(operation), operation_ms=log.retention.keys_ms)
    attempts = Attempts(log, name, f"agent {agent_id}")
    while True:
        stored = await attempts.read(lambda: log.agent(name, agent_id))
        agent = stored
        if stored is None or stored.status is Status.FAILED:
            agent = _complete(stored, await from_views())
        if agent is None:
            return RestartResult(Outcome.ABSENT, None)
        step = log.step(name, origin)
        if operation is not None:
            step.check(clauses.OperationNew(operation.operation_id))
            recorded = (command.operation_id, command.digest, agent_id, command.operation_ms)
            step.write(clauses.RecordOperation(*recorded))
        state = None
        if agent.state_sha256 and (agent.ended or agent.state_lost) and not command.discard_state:
            state = await log.saved_state(name, agent)
            if state is None and copied_state is not None:
                state = await copied_state(agent)
        new = _decide(step, pool, command, stored, agent, state)
        reply = await attempts.commit(step)
        if reply is None:
            continue
        match reply.outcome:
            case Outcome.DONE if new is not None:
                return RestartResult(Outcome.DONE, new, proof_of(step, reply))
            case Outcome.DONE:
                return RestartResult(Outcome.ALREADY, agent)
            case Outcome.KNOWN:
                same = operation is None or reply.rest[0].decode() == operation.digest
                return RestartResult(Outcome.KNOWN, agent, same=same)
            case Outcome.FULL:
                return RestartResult(Outcome.FULL, agent, waiting=int(reply.rest[0]))
            case Outcome.CLOSED:
                return RestartResult(Outcome.CLOSED, agent)
            case _:  # it changed meanwhile
                continue


def _complete(stored: Agent | None, viewed: Agent | None) -> Agent | None:
    """What Redis has of an agent, with what only the views have."""
    if stored is None or viewed is None:
        return viewed if stored is None else None
    return replace(stored, input=viewed.input, labels=viewed.labels)


def _decide(
    step: Step,
    pool: Pool,
    command: RequestRestart,
    stored: Agent | None,
    agent: Agent,
    state: bytes | None,
) -> Agent | None:
    """Add the events of a restart; None if there is nothing to do."""
    bodies = agent_commands.decide(command, agent)
    if state is not None and agent.state_lost:
        bodies = agent_commands.decide(FindState(), agent)
    if not bodies:
        return None
    if not agent.ended:
        return step.agent(agent.agent_id, agent, bodies, state=state)
    step.check(clauses.PoolIs(pool.created_seq, takes_spawns=True))
    step.check(clauses.BacklogBelow(pool.config.backlog_limit))
    [body] = bodies
    assert isinstance(body, AgentRestartRequested)
    return step.revive_agent(agent, body, stored=stored is not None, state=state)
