"""`POST /spawn`: requests an agent, and waits for it as long as the client says.

The watch is opened before the step is written, and the answer is made from the events that the tail
reads: between the request and "running" nothing polls and nothing queries the database.

A submit has an operation id, made from the `Idempotency-Key` or, without one, from a key of our
own, which an `outcome-unknown` names. So every spawn can be repeated safely.
"""

from contextlib import nullcontext
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from eventstore.errors import LogMissing, LogUnreachable, OutcomeUnknown
from eventstore.language.agents import Agent, Status, shared_fields
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested
from eventstore.log.replies import Outcome
from eventstore.log.submission import SubmitResult, submit
from eventstore.names import unknown_name
from gateway.backend import agent_rows
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.following.waiters import Watch, wait_until_started
from gateway.resources.durability import DurabilityRequest, durability_request
from gateway.wire.answer import Answer
from gateway.wire.decoding import Sent, check_spawn, pool_defaults
from gateway.wire.idempotency import digest_of, digest_of_meaning, idempotency_key, operation_id
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import SpawnRequest
from projector.queries.views import AgentRow

START_FAILED: Final = "start_failed"


async def spawn(call: Call, body: SpawnRequest) -> Answer:
    """Ask for an agent, and wait for it as long as `Prefer` says (5 s unless said)."""
    backend, key = call.backend, idempotency_key(call.request)
    check_spawn(body, backend.limits)
    pool = backend.live_pool(body.pool_name) or await backend.pool(body.pool_name)
    require_declared(body.role_type or pool.role_type, backend.options.roles)
    _require_role(pool, body.role_type)
    durability = await durability_request(call)
    agent_id, waits = backend.log.new_id(), durability.preference.seconds > 0
    with backend.waiters.watch(agent_id) if waits else nullcontext() as watch:
        async with backend.turns[pool.pool_name]:
            submitted = await _submit(call, pool, body, agent_id, key)
        assert submitted.proof is not None
        durability.start(submitted.proof)
        commands = backend.acknowledged_commands
        if submitted.outcome is Outcome.KNOWN:
            # The proof itself has the position of now.
            original_proof = replace(submitted.proof, seq=submitted.seq)
            commands.record_once(original_proof, "spawn", submitted.agent_id, operation_id=key)
            row, has_run = await _replay(
                call, pool.pool_name, submitted.agent_id, durability.deadline
            )
        else:
            commands.record(submitted.proof, "spawn", agent_id, operation_id=key)
            row = await _wait_for_start(call, submitted, watch, durability)
            has_run = row.started_at is not None
    headers = await durability.headers(row.agent_id)
    if submitted.agent_id != agent_id:
        headers["Idempotency-Replayed"] = "true"
    status = _status(row, has_run, headers)
    return Answer(row, status=202 if durability.pending_reason else status, headers=headers)


def _require_role(pool: Pool, role: str | None) -> None:
    if role not in (None, pool.role_type):
        detail = f"pool {pool.pool_name!r} is for role {pool.role_type!r}"
        raise Problem(Kind.ROLE_MISMATCH, detail, field="role_type")


def require_declared(role: str, roles: tuple[str, ...]) -> None:
    """Raises `Problem` for a role that this service does not have."""
    if role not in roles:
        raise Problem(Kind.ROLE_NOT_FOUND, unknown_name("role", role, roles), field="role_type")


async def _submit(
    call: Call, pool: Pool, body: SpawnRequest, agent_id: str, key: str
) -> SubmitResult:
    """Submit, twice if the pool was recreated or its keys do not exist yet."""
    backend = call.backend
    operation_key, sent = key or f"spawn:{agent_id}", call.sent
    assert sent is not None
    digest = digest_of(sent.canonical)
    for attempt in (1, 2):
        try:
            submitted = await submit(
                backend.log,
                pool,
                _requested_event(backend, pool, body, sent),
                call.origin,
                agent_id=agent_id,
                operation_id=operation_id(operation_key, call.grant.name),
                digest=digest,
                earlier_digest=partial(digest_of_meaning, body),
                from_client=bool(key),
            )
        except OutcomeUnknown as error:
            detail = f"{error}; ask again with this Idempotency-Key to learn its outcome"
            raise Problem(
                Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id, idempotency_key=operation_key
            ) from error
        except LogMissing:
            if attempt == 2:
                raise
            await backend.log.initialise(pool.pool_name)
            continue
        if submitted.outcome is Outcome.CLOSED and attempt == 1:
            pool = await _recreated_pool(backend, pool)
            _require_role(pool, body.role_type)
            continue
        return _require_accepted(submitted, pool)
    raise AssertionError("the second attempt returns or raises")


def _requested_event(
    backend: Backend, pool: Pool, body: SpawnRequest, sent: Sent
) -> AgentRequested:
    event = shared_fields(body, AgentRequested) | pool_defaults(body, sent, pool.config)
    event["role_type"] = pool.role_type
    event["input"] = msgspec.Raw(msgspec.json.encode(body.input))
    if body.pending_timeout:
        now_ms = backend.log.now_ms(body.pool_name)
        event["expires_ms"] = now_ms + int(body.pending_timeout * 1000)
    return AgentRequested(**event)


async def _recreated_pool(backend: Backend, pool: Pool) -> Pool:
    """The pool as it was recreated; raises `Problem` if it is gone or being deleted."""
    await backend.with_catalogue(lambda catalogue: catalogue.refresh())
    current = await backend.pool(pool.pool_name)
    if current.created_seq == pool.created_seq:
        raise _pool_closed(pool)
    return current


def _pool_closed(pool: Pool) -> Problem:
    detail = f"pool {pool.pool_name!r} is being deleted"
    return Problem(Kind.POOL_CLOSED, detail, field="pool_name")


def _require_accepted(submitted: SubmitResult, pool: Pool) -> SubmitResult:
    match submitted.outcome:
        case Outcome.FULL:
            raise Problem(
                Kind.BACKLOG_FULL,
                f"{submitted.waiting} spawns wait in pool {pool.pool_name!r}, which is its maximum"
                f" (backlog_limit {pool.config.backlog_limit})",
            )
        case Outcome.CLOSED:
            raise _pool_closed(pool)
        case Outcome.KNOWN if not submitted.same:
            raise Problem(
                Kind.IDEMPOTENCY_KEY_REUSED,
                "this Idempotency-Key was used with another request",
                field="Idempotency-Key",
                agent_id=submitted.agent_id,
            )
        case _:
            return submitted


async def _wait_for_start(
    call: Call,
    submitted: SubmitResult,
    watch: Watch | None,
    durability: DurabilityRequest,
) -> AgentRow:
    """A new agent once it runs, or as it is when the time is over."""
    assert submitted.agent is not None
    backend, pool = call.backend, submitted.agent.pool_name
    now = backend.log.now_ms(pool)
    agent = replace(submitted.agent, requested_ms=now, changed_ms=now)
    if watch is None:
        backend.report_position(call.read_state, pool)
    else:
        agent, event = await wait_until_started(watch, agent, durability.deadline)
        if event is None:
            return await agent_rows.from_log(backend, call, agent)
        backend.mark_observed(call.read_state, pool, event.seq)
    return AgentRow.of(agent, backend.log.high_water_mark(pool)[0])


async def _replay(call: Call, pool: str, agent_id: str, deadline: float) -> tuple[AgentRow, bool]:
    """The agent of the first request with this key, as it is now, and whether it has run.

    Waits for its start, too.
    """
    backend = call.backend
    try:
        with backend.waiters.watch(agent_id) as watch:
            agent = await backend.log.agent(pool, agent_id)
            while agent is not None and not _start_finished(agent):
                if await watch.next(deadline) is None:
                    break
                agent = await backend.log.agent(pool, agent_id)
        if agent is not None:
            return await agent_rows.from_log(backend, call, agent), agent.has_run
        row = await agent_rows.from_views(backend, call, agent_id, pool)
        return row, row.started_at is not None
    except (LogUnreachable, Problem) as error:  # its spawn is written: an error is no refusal
        not_found = isinstance(error, Problem) and error.kind is Kind.AGENT_NOT_FOUND
        if not_found and not call.read_state.stale:
            raise
        detail = f"{error}; the agent was accepted, ask again to learn its outcome"
        raise Problem(Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id) from error


def _start_finished(agent: Agent) -> bool:
    """Whether the wait for its start is over: it has run, whatever has become of it since."""
    if agent.status is Status.RESTARTING:
        return agent.has_run or agent.reason == START_FAILED
    return agent.has_run or agent.status not in {Status.PENDING, Status.STARTING}


def _status(row: AgentRow, has_run: bool, headers: dict[str, str]) -> int:
    """200 if it runs or ran, 202 if it waits for its first start; raises `Problem` if it failed."""
    kind, error = Kind.AGENT_START_FAILED, row.last_error
    what = f"{error.type}: {error.message}" if error else row.reason
    match row.status:
        case Status.FAILED:
            detail = f"{what}; it will not be tried again"
        case Status.RESTARTING if row.reason == START_FAILED:
            detail = f"{what}; it will be tried again"
        case Status.TERMINATED if not has_run:
            kind, error = Kind.AGENT_WITHDRAWN, None
            detail = f"the agent ended before it ran: {row.reason}"
        case Status.RUNNING | Status.STOPPING | Status.TERMINATED:
            return 200
        case _:
            return 200 if has_run else 202
    raise Problem(kind, detail, headers=headers, agent_id=row.agent_id, error=error, agent=row)
