"""`POST /spawn`: an agent is asked for, and the answer waits for it as long as the caller likes.

The watch is opened before the step is written, and the answer is built from the events that the
tail brings: between the request and "running" nothing polls and nothing asks the database.

A submit is known by its operation id, made from the `Idempotency-Key` or, without one, from a key
of our own, which an `outcome-unknown` names. So every spawn can be asked for again.
"""

import asyncio
import hashlib
import re
from typing import Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from eventstore.errors import LogMissing, LogUnreachable, OutcomeUnknown
from eventstore.language.agents import Agent, Status
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested
from eventstore.log.replies import Outcome
from eventstore.log.submission import Submitted, submit
from gateway.backend.agent_rows import row_of
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.backend.reading import READING
from gateway.following.waiters import Watch, until_started
from gateway.resources.durability import assurance_of
from gateway.wire.preferences import Patience, patience
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import SpawnRequest, body, check_spawn
from gateway.wire.responses import AGENTS, answer
from projector.queries.views import AgentRow

_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
START_FAILED: Final = "start_failed"


async def spawn(request: web.Request) -> web.Response:
    """`POST /api/v1/agents/spawn`."""
    backend = request.app[BACKEND]
    key = idempotency_key(request)
    wanted = await body(request, SpawnRequest)
    check_spawn(wanted, backend.limits)
    pool = await _pool_for(backend, wanted)
    patient = patience(request.headers.getall("Prefer", ()), backend.limits)
    assurance = await assurance_of(request, patient)
    agent_id = backend.log.new_id()
    with backend.waiters.watch(agent_id) as watch:
        submitted = await _submit(backend, request, pool, wanted, agent_id, key)
        assert submitted.proof is not None
        assurance.begin(submitted.proof)
        if submitted.outcome is Outcome.KNOWN:
            written = replace(submitted.proof, seq=submitted.seq)  # the proof itself tells of now
            backend.ledger.note_again(written, "spawn", submitted.agent_id, operation_id=key)
            row = await _replay(backend, request, pool, submitted, patient)
        else:
            backend.ledger.note(submitted.proof, "spawn", agent_id, operation_id=key)
            row = await _follow(backend, request, submitted, watch, patient)
    headers = {**patient.headers, "Location": f"{AGENTS}/{row.agent_id}"}
    headers |= await assurance.headers(row.agent_id)
    if submitted.agent_id != agent_id:
        headers["Idempotency-Replayed"] = "true"
    return assurance.dressed(spawn_answer(row, headers))


def idempotency_key(request: web.Request) -> str:
    """What the caller calls this request; empty if it has no name. Raises `Problem`."""
    key: str | None = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        detail = "Idempotency-Key: 1 to 255 printable ASCII characters"
        raise Problem(Kind.INVALID_REQUEST, detail, field="Idempotency-Key")
    return key or ""


async def _pool_for(backend: Backend, wanted: SpawnRequest) -> Pool:
    """The pool asked for, once its role is found to be the one asked for."""
    pool = await backend.pool(wanted.pool_name)
    if wanted.role_type not in backend.options.roles:
        raise role_not_found(wanted.role_type, backend.options.roles)
    _demand_role(pool, wanted.role_type)
    return pool


def _demand_role(pool: Pool, role: str) -> None:
    if role != pool.role_type:
        detail = f"pool {pool.pool_name!r} is for role {pool.role_type!r}"
        raise Problem(Kind.ROLE_MISMATCH, detail, field="role_type")


def role_not_found(role: str, roles: tuple[str, ...]) -> Problem:
    known = ", ".join(sorted(roles)) or "none"
    return Problem(
        Kind.ROLE_NOT_FOUND, f"no role {role!r} is declared; declared: {known}", field="role_type"
    )


async def _submit(
    backend: Backend,
    request: web.Request,
    pool: Pool,
    wanted: SpawnRequest,
    agent_id: str,
    key: str,
) -> Submitted:
    """Submit, once more where the pool was created anew or its keys are not there yet."""
    named = key or backend.log.new_id()
    for attempt in (1, 2):
        try:
            submitted = await submit(
                backend.log,
                pool,
                _requested(backend, wanted),
                request[ORIGIN],
                agent_id=agent_id,
                operation_id=f"key:{hashlib.sha256(named.encode()).hexdigest()[:40]}",
                digest=_digest(wanted),
                from_client=bool(key),
            )
        except OutcomeUnknown as error:
            detail = f"{error}; ask again with this Idempotency-Key to learn what became of it"
            raise Problem(
                Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id, idempotency_key=named
            ) from error
        except LogMissing:
            if attempt == 2:
                raise
            await backend.log.initialise(pool.pool_name)
            continue
        if submitted.outcome is Outcome.CLOSED and attempt == 1:
            pool = await _reopened(backend, pool)
            _demand_role(pool, wanted.role_type)
            continue
        return _accepted(submitted, pool)
    raise AssertionError("the second attempt returns or raises")


def _requested(backend: Backend, wanted: SpawnRequest) -> AgentRequested:
    timeout = wanted.pending_timeout
    return AgentRequested(
        role_type=wanted.role_type,
        project_id=wanted.project_id,
        heartbeat_interval=wanted.heartbeat_interval,
        max_idle_time=wanted.max_idle_time,
        pending_timeout=timeout,
        expires_ms=backend.log.now_ms(wanted.pool_name) + int(timeout * 1000) if timeout else 0,
        input=msgspec.Raw(msgspec.json.encode(wanted.input)),
        labels=wanted.labels,
    )


def _digest(wanted: SpawnRequest) -> str:
    """The same for requests that mean the same, however they were written."""
    canonical = msgspec.json.encode(wanted, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()


async def _reopened(backend: Backend, pool: Pool) -> Pool:
    """The pool as created since; raises `Problem` if it is gone or being deleted."""
    await backend.with_catalogue(lambda catalogue: catalogue.refresh())
    now = await backend.pool(pool.pool_name)
    if now.created_seq == pool.created_seq:
        detail = f"pool {pool.pool_name!r} is being deleted"
        raise Problem(Kind.POOL_CLOSED, detail, field="pool_name")
    return now


def _accepted(submitted: Submitted, pool: Pool) -> Submitted:
    match submitted.outcome:
        case Outcome.FULL:
            raise Problem(
                Kind.BACKLOG_FULL,
                f"{submitted.waiting} spawns wait in pool {pool.pool_name!r}, as many as it lets"
                f" (backlog_limit {pool.config.backlog_limit})",
            )
        case Outcome.CLOSED:
            detail = f"pool {pool.pool_name!r} is being deleted"
            raise Problem(Kind.POOL_CLOSED, detail, field="pool_name")
        case Outcome.KNOWN if not submitted.same:
            raise Problem(
                Kind.IDEMPOTENCY_KEY_REUSED,
                "this Idempotency-Key came with another request before",
                field="Idempotency-Key",
                agent_id=submitted.agent_id,
            )
        case _:
            return submitted


async def _follow(
    backend: Backend,
    request: web.Request,
    submitted: Submitted,
    watch: Watch,
    patient: Patience,
) -> AgentRow:
    """A new agent when it runs, or as it is when the time is over."""
    assert submitted.agent is not None
    now = backend.log.now_ms(submitted.agent.pool_name)
    agent = replace(submitted.agent, requested_ms=now, changed_ms=now)
    if patient.seconds == 0:
        backend.tell_position(request, agent.pool_name)
        return row_of(agent, backend.log.floor(agent.pool_name)[0])
    deadline = asyncio.get_running_loop().time() + patient.seconds
    agent, event = await until_started(watch, agent, deadline)
    if event is None:
        return await backend.row(request, agent)
    backend.saw(request, agent.pool_name, event.seq)
    return row_of(agent, backend.log.floor(agent.pool_name)[0])


async def _replay(
    backend: Backend, request: web.Request, pool: Pool, submitted: Submitted, patient: Patience
) -> AgentRow:
    """The agent of the first request with this key, as it is now; waits for it likewise."""
    agent_id, name = submitted.agent_id, pool.pool_name
    deadline = asyncio.get_running_loop().time() + patient.seconds
    with backend.waiters.watch(agent_id) as watch:
        agent = await _accepted_agent(backend, name, agent_id)
        while agent is not None and not _settled(agent):
            if await watch.next(deadline) is None:
                break
            agent = await _accepted_agent(backend, name, agent_id)
    if agent is not None:
        return await backend.row(request, agent)
    try:
        return await backend.recorded(request, agent_id, name)
    except Problem as problem:
        if problem.kind is Kind.AGENT_NOT_FOUND and not request[READING].stale:
            raise
        raise _accepted_before(problem, agent_id) from problem


async def _accepted_agent(backend: Backend, pool: str, agent_id: str) -> Agent | None:
    """Read an agent whose spawn is known to be written: that it cannot be read is no refusal."""
    try:
        return await backend.log.agent(pool, agent_id)
    except LogUnreachable as error:
        raise _accepted_before(error, agent_id) from error


def _accepted_before(why: Exception, agent_id: str) -> Problem:
    detail = f"{why}; the agent was accepted, ask again to learn what became of it"
    return Problem(Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id)


def _settled(agent: Agent) -> bool:
    if agent.status is Status.RESTARTING:
        return agent.reason == START_FAILED
    return agent.status not in {Status.PENDING, Status.STARTING}


def spawn_answer(row: AgentRow, headers: dict[str, str]) -> web.Response:
    """200 for one that runs or ran, 202 for one that waits; raises `Problem` for one that fails."""
    match row.status:
        case Status.FAILED:
            raise _start_failed(row, headers, "it will not be tried again")
        case Status.RESTARTING if row.reason == START_FAILED:
            raise _start_failed(row, headers, "it will be tried again")
        case Status.TERMINATED if row.started_at == 0:
            detail = f"the agent ended before it ran: {row.reason}"
            raise Problem(
                Kind.AGENT_WITHDRAWN, detail, headers=headers, agent_id=row.agent_id, agent=row
            )
        case Status.RUNNING | Status.STOPPING | Status.TERMINATED:
            return answer(row, headers=headers)
        case _:
            return answer(row, status=202, headers=headers)


def _start_failed(row: AgentRow, headers: dict[str, str], outlook: str) -> Problem:
    error = row.last_error
    what = f"{error.type}: {error.message}" if error else row.reason
    return Problem(
        Kind.AGENT_START_FAILED,
        f"{what}; {outlook}",
        headers=headers,
        agent_id=row.agent_id,
        error=error,
        agent=row,
    )
