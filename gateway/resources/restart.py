"""`POST /agents/{id}/restart`: brings back an agent that failed, and starts any other one again."""

from msgspec import Struct

from eventstore.errors import OutcomeUnknown, Unreadable
from eventstore.language.agents import Agent, Status
from eventstore.log.replies import Outcome
from eventstore.log.restarting import Operation, RestartResult, request_restart
from gateway.backend import agent_rows
from gateway.backend.call import Call
from gateway.resources.durability import durability_request
from gateway.resources.parked import catch_up_with_log, park_unreadable
from gateway.wire.answer import Answer
from gateway.wire.idempotency import digest_of, idempotency_key, operation_id
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import Identifier, OneAgentQuery, RestartRequest

SETTLED = frozenset({Status.RUNNING, Status.TERMINATED, Status.FAILED, Status.RESTARTING})
"""Statuses of a new incarnation for which nothing more is waited."""


class Target(Struct, frozen=True):
    """Which agent, and under which key."""

    pool: str
    agent_id: str
    key: str


async def restart(
    call: Call, agent_id: Identifier, query: OneAgentQuery, body: RestartRequest
) -> Answer:
    """Start an agent again: at once if it failed or waits for that, else in good order."""
    backend, key = call.backend, idempotency_key(call.request)
    pool = query.pool_name or await agent_rows.pool_of(backend, agent_id)
    durability = await durability_request(call)
    with backend.waiters.watch(agent_id) as watch:
        result = await _request(call, Target(pool, agent_id, key), body)
        agent = result.agent
        assert agent is not None
        if result.proof is not None:
            backend.acknowledged_commands.record(result.proof, "restart", agent_id)
        durability.start(result.proof)
        if result.outcome is not Outcome.KNOWN:
            agent = await agent_rows.follow(
                call, watch, agent, durability.deadline, until=_is_settled
            )
    row = await agent_rows.from_log(backend, call, agent)
    status = 202 if row.status in {Status.PENDING, Status.STARTING} or agent.restart else 200
    headers = {"Idempotency-Replayed": "true"} if result.outcome is Outcome.KNOWN else {}
    return await durability.response(row, status, headers, agent_id)


async def _request(call: Call, target: Target, body: RestartRequest) -> RestartResult:
    """Request it. Raises `Problem` where that is refused."""
    backend, agent_id = call.backend, target.agent_id
    pool = await backend.pool(target.pool)

    async def from_views() -> Agent | None:
        async with backend.read_views() as views:
            await catch_up_with_log(call, target.pool)
            return await views.agent_state(target.pool, agent_id)

    async def copied_state(agent: Agent) -> bytes | None:
        async with backend.read_views() as views:
            return await views.saved_state(agent)

    discards = b',"discard_state":true' if body.discard_state else b""
    content = b'{"restart":"%b"%b}' % (agent_id.encode(), discards)
    key_id = operation_id(target.key, call.grant.name)
    operation = Operation(key_id, digest_of(content)) if target.key else None
    try:
        result = await request_restart(
            backend.log,
            pool,
            agent_id,
            body.reason,
            call.origin,
            from_views=from_views,
            copied_state=copied_state,
            discard_state=body.discard_state,
            operation=operation,
        )
    except Unreadable as error:
        raise await park_unreadable(backend, target.pool, error) from error
    except OutcomeUnknown as error:
        detail = f"{error}; ask again to learn its outcome"
        raise Problem(
            Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id, idempotency_key=target.key
        ) from error
    _require_accepted(target, result)
    return result


def _require_accepted(target: Target, result: RestartResult) -> None:
    agent = result.agent
    if agent is None:
        raise agent_rows.not_found(target.agent_id, target.pool)
    if result.outcome is Outcome.CLOSED:
        detail = f"pool {target.pool!r} is being deleted"
        raise Problem(Kind.POOL_CLOSED, detail, agent_id=agent.agent_id)
    if result.outcome is Outcome.FULL:
        detail = f"{result.waiting} spawns wait in pool {target.pool!r}, which is its maximum"
        raise Problem(Kind.BACKLOG_FULL, detail, agent_id=agent.agent_id)
    if not result.same:
        detail = "this Idempotency-Key was used with another request"
        raise Problem(Kind.IDEMPOTENCY_KEY_REUSED, detail, field="Idempotency-Key")
    if agent.stop or agent.status is Status.TERMINATED:
        how = f"has ended ({agent.reason})" if agent.ended else "is to end"
        detail = f"agent {agent.agent_id} {how}, and what was terminated never runs again"
        raise Problem(Kind.NOT_RESTARTABLE, detail, agent_id=agent.agent_id)
    if agent.state_lost:
        detail = (
            f"the state that agent {agent.agent_id} saved last (save {agent.save}) is in neither"
            " Redis nor the database; `discard_state` (`muster restart --discard-state`) starts it"
            " without"
        )
        raise Problem(Kind.STATE_LOST, detail, agent_id=agent.agent_id)


def _is_settled(agent: Agent) -> bool:
    """Whether its new incarnation runs, or does not."""
    return not agent.restart and agent.status in SETTLED
