"""Reading agents and ending them."""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from eventstore.errors import LogError, Unreadable
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import TERMINAL, Status
from eventstore.log.replies import Outcome, Proof
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.resources import as_of
from gateway.resources.durability import assurance_of
from gateway.resources.parked import put_aside
from gateway.wire.preferences import patience
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import (
    AgentQuery,
    DeleteAgentQuery,
    Identifier,
    MomentQuery,
    ProjectId,
    ProjectQuery,
    TerminateRequest,
    body,
    part,
    query,
)
from gateway.wire.responses import AGENTS, after, answer, page
from projector.queries.views import AgentFilter, AgentRow


async def list_agents(request: web.Request) -> web.Response:
    """`GET /api/v1/agents`."""
    asked = query(request, AgentQuery)
    name, _, value = (asked.label or "").partition(":")
    chosen = AgentFilter(
        pool_name=asked.pool_name,
        role_type=asked.role_type,
        project_id=asked.project_id,
        status=tuple(status.value for status in asked.status),
        process_id=asked.process_id,
        label=(name, value) if asked.label else None,
        ended=_ended(asked.include_ended, asked.status),
    )
    return await _page(request, chosen, asked)


async def list_project(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/project/{project_id}`."""
    asked = query(request, ProjectQuery)
    chosen = AgentFilter(
        project_id=part(request, "project_id", ProjectId),
        status=tuple(status.value for status in asked.status),
        ended=_ended(asked.include_ended, asked.status),
    )
    return await _page(request, chosen, asked)


def _ended(include: bool, statuses: list[Status]) -> bool | None:
    """Ended ones are left out unless asked for, in so many words or by their status."""
    return None if include or any(status in TERMINAL for status in statuses) else False


async def _page(
    request: web.Request, chosen: AgentFilter, asked: AgentQuery | ProjectQuery
) -> web.Response:
    backend, limit = request.app[BACKEND], asked.limit
    begin = after(asked.cursor)
    pools = None if chosen.pool_name is None else [chosen.pool_name]
    if asked.as_of is not None:
        async with backend.looking_back() as views:
            moment = await as_of.moment(request, views, asked.as_of, pools)
            rows = await views.history.agents(moment, chosen, after=begin, limit=limit + 1)
        return page(request, rows, limit, as_of.pinned(moment))
    async with backend.reading() as views:
        await backend.settle(views, request, pools)
        rows = await views.agents(chosen, after=begin, limit=limit + 1)
    return page(request, rows, limit)


async def get_agent(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/{agent_id}`."""
    asked = query(request, MomentQuery)
    agent_id = part(request, "agent_id", Identifier)
    if asked.as_of is not None:
        return answer(await _as_of(request, agent_id, asked.as_of))
    return answer(await request.app[BACKEND].recorded(request, agent_id))


async def _as_of(request: web.Request, agent_id: str, text: str) -> AgentRow:
    """An agent as it was. Raises `Problem` where there was none yet."""
    async with request.app[BACKEND].looking_back() as views:
        pool = await views.history.pool_of(agent_id)
        moment = await as_of.moment(request, views, text, None if pool is None else [pool])
        pool = pool or await views.history.pool_of(agent_id)  # it may have been waited for
        row = await views.history.agent(moment, agent_id, pool)
    if row is None:
        raise Problem(Kind.AGENT_NOT_FOUND, f"there was no agent {agent_id} then", field="agent_id")
    return row


async def terminate(request: web.Request) -> web.Response:
    """`POST /api/v1/agents/terminate`."""
    asked = await body(request, TerminateRequest)
    await request.app[BACKEND].pool_or_past(asked.pool_name)
    return await _terminate(request, asked.pool_name, asked.agent_id, asked.graceful)


async def delete_agent(request: web.Request) -> web.Response:
    """`DELETE /api/v1/agents/{agent_id}`."""
    agent_id = part(request, "agent_id", Identifier)
    asked = query(request, DeleteAgentQuery)
    if asked.pool_name:
        await request.app[BACKEND].pool_or_past(asked.pool_name)
    pool = asked.pool_name or await _pool_of(request.app[BACKEND], agent_id)
    return await _terminate(request, pool, agent_id, asked.graceful)


async def _pool_of(backend: Backend, agent_id: str) -> str:
    """The pool that an agent is in: as the views know, else looked for in the log.

    One that no log has may be archived: where the views cannot say, their `Problem` is raised.
    """
    unread: Problem | None = None
    row = None
    try:
        async with backend.reading() as views:
            row = await views.agent(agent_id)
    except Problem as problem:
        unread = problem
    if row is not None:
        return row.pool_name
    heard = set(backend.known_pools())
    found = await _among(backend, heard, agent_id)
    if found is None:
        found = await _among(backend, await backend.pools_by_now() - heard, agent_id)
    if found is None:
        raise unread or agent_not_found(agent_id)
    return found


async def _among(backend: Backend, pools: Iterable[str], agent_id: str) -> str | None:
    """Which of these pools has an agent in Redis."""
    for pool in pools:
        if await backend.log.agent(pool, agent_id) is not None:
            return pool
    return None


def agent_not_found(agent_id: str) -> Problem:
    return Problem(Kind.AGENT_NOT_FOUND, f"there is no agent {agent_id}", field="agent_id")


async def _terminate(
    request: web.Request, pool: str, agent_id: str, graceful: bool
) -> web.Response:
    backend = request.app[BACKEND]
    patient = patience(request.headers.getall("Prefer", ()), backend.limits)
    assurance = await assurance_of(request, patient)
    deadline = asyncio.get_running_loop().time() + patient.seconds
    with backend.waiters.watch(agent_id) as watch:
        command = Terminate(graceful=graceful)
        try:
            acted = await backend.log.act(pool, agent_id, command, request[ORIGIN])
        except Unreadable as error:
            raise await put_aside(backend, pool, error) from error
        agent = acted.agent
        if acted.outcome is Outcome.ABSENT or agent is None:
            row = await backend.recorded(request, agent_id, pool)
            if row.status not in TERMINAL:
                raise await _gone(request, row)
            assurance.begin(Proof(pool, "log"))
            headers = {**patient.headers, **await assurance.headers(agent_id)}
            return assurance.dressed(answer(row, headers=headers))
        if acted.proof is not None:
            backend.ledger.note(acted.proof, "terminate", agent_id)
        else:  # it was asked to before, perhaps by a request whose answer was lost
            head = await backend.ledger.head(pool)
            backend.ledger.note_again(head, "terminate", agent_id)
        assurance.begin(acted.proof or Proof(pool, "ending", agent_id))
        while not agent.ended:
            event = await watch.next(deadline)
            if event is None:
                break
            backend.saw(request, pool, event.seq)
            try:
                agent = await backend.log.agent(pool, agent_id) or agent
            except LogError:  # what was asked for is written; only the news of it are missing
                break
    row = await backend.row(request, agent)
    headers = {**patient.headers, "Location": f"{AGENTS}/{agent_id}"}
    headers |= await assurance.headers(agent_id)
    status = 200 if row.status in TERMINAL else 202
    return assurance.dressed(answer(row, status=status, headers=headers))


async def _gone(request: web.Request, row: AgentRow) -> Problem:
    """Redis has nothing of an agent that has not ended, by what the views know.

    One that its pool does not list has ended, and only the views lack that.
    """
    backend = request.app[BACKEND]
    if row.agent_id not in await backend.log.live(row.pool_name):
        return agent_not_found(row.agent_id)
    damage = Unreadable("agent", row.agent_id, "its hash is gone")
    return await put_aside(backend, row.pool_name, damage)
