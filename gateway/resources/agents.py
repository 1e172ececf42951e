"""Reading agents and their workers, and ending agents."""

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
from gateway.resources.durability import durability_request
from gateway.resources.parked import park_unreadable
from gateway.wire import requests, responses
from gateway.wire.decoding import path_parameter, read_body, read_query
from gateway.wire.problems import Kind, Problem
from projector.queries.views import AgentFilter, AgentRow


async def list_agents(request: web.Request) -> web.Response:
    """`GET /api/v1/agents`."""
    params = read_query(request, requests.AgentQuery)
    name, _, value = (params.label or "").partition(":")
    agent_filter = AgentFilter(
        pool_name=params.pool_name,
        role_type=params.role_type,
        project_id=params.project_id,
        status=tuple(status.value for status in params.status),
        process_id=params.process_id,
        label=(name, value) if params.label else None,
        ended=_ended_filter(params.include_ended, params.status),
    )
    return await _list_response(request, agent_filter, params)


async def list_project(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/project/{project_id}`."""
    params = read_query(request, requests.ProjectQuery)
    agent_filter = AgentFilter(
        project_id=path_parameter(request, "project_id", requests.ProjectId),
        status=tuple(status.value for status in params.status),
        ended=_ended_filter(params.include_ended, params.status),
    )
    return await _list_response(request, agent_filter, params)


def _ended_filter(include: bool, statuses: list[Status]) -> bool | None:
    """Agents that have ended are left out unless requested, explicitly or by their status."""
    return None if include or any(status in TERMINAL for status in statuses) else False


async def _list_response(
    request: web.Request,
    agent_filter: AgentFilter,
    params: requests.AgentQuery | requests.ProjectQuery,
) -> web.Response:
    backend, limit = request.app[BACKEND], params.limit
    after_id = responses.decode_cursor(params.cursor)
    pools = None if agent_filter.pool_name is None else [agent_filter.pool_name]
    if params.as_of is not None:
        async with backend.read_history() as views:
            point = await as_of.resolve(request, views, params.as_of, pools)
            rows = await views.history.agents(point, agent_filter, after=after_id, limit=limit + 1)
        return responses.agent_page(request, rows, limit, as_of.canonical_text(point))
    async with backend.read_views() as views:
        await backend.catch_up(views, request, pools)
        rows = await views.agents(agent_filter, after=after_id, limit=limit + 1)
    return responses.agent_page(request, rows, limit)


async def get_agent(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/{agent_id}`."""
    params = read_query(request, requests.AsOfQuery)
    agent_id = path_parameter(request, "agent_id", requests.Identifier)
    if params.as_of is not None:
        return responses.json_response(await _agent_as_of(request, agent_id, params.as_of))
    return responses.json_response(await request.app[BACKEND].agent_from_views(request, agent_id))


async def _agent_as_of(request: web.Request, agent_id: str, text: str) -> AgentRow:
    """An agent as it was. Raises `Problem` if there was none yet."""
    async with request.app[BACKEND].read_history() as views:
        pool = await views.history.pool_of(agent_id)
        point = await as_of.resolve(request, views, text, None if pool is None else [pool])
        pool = pool or await views.history.pool_of(agent_id)  # it may have been waited for
        row = await views.history.agent(point, agent_id, pool)
    if row is None:
        raise Problem(Kind.AGENT_NOT_FOUND, f"there was no agent {agent_id} then", field="agent_id")
    return row


async def terminate(request: web.Request) -> web.Response:
    """`POST /api/v1/agents/terminate`."""
    payload = await read_body(request, requests.TerminateRequest)
    await request.app[BACKEND].require_known_pool(payload.pool_name)
    return await _terminate(request, payload.pool_name, payload.agent_id, payload.graceful)


async def delete_agent(request: web.Request) -> web.Response:
    """`DELETE /api/v1/agents/{agent_id}`."""
    agent_id = path_parameter(request, "agent_id", requests.Identifier)
    params = read_query(request, requests.DeleteAgentQuery)
    if params.pool_name:
        await request.app[BACKEND].require_known_pool(params.pool_name)
    pool = params.pool_name or await _pool_of(request.app[BACKEND], agent_id)
    return await _terminate(request, pool, agent_id, params.graceful)


async def _pool_of(backend: Backend, agent_id: str) -> str:
    """The pool of an agent: from the views, else searched for in the log.

    An agent that is in no log may be archived: if the views cannot be read, their `Problem` is
    raised.
    """
    views_problem: Problem | None = None
    row = None
    try:
        async with backend.read_views() as views:
            row = await views.agent(agent_id)
    except Problem as problem:
        views_problem = problem
    if row is not None:
        return row.pool_name
    known_pools = set(backend.known_pools())
    found_pool = await _pool_with_agent(backend, known_pools, agent_id)
    if found_pool is None:
        found_pool = await _pool_with_agent(
            backend, await backend.refresh_known_pools() - known_pools, agent_id
        )
    if found_pool is None:
        raise views_problem or agent_not_found(agent_id)
    return found_pool


async def _pool_with_agent(backend: Backend, pools: Iterable[str], agent_id: str) -> str | None:
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
    durability = await durability_request(request)
    preference = durability.preference
    deadline = asyncio.get_running_loop().time() + preference.seconds
    with backend.waiters.watch(agent_id) as watch:
        command = Terminate(graceful=graceful)
        try:
            result = await backend.log.act(pool, agent_id, command, request[ORIGIN])
        except Unreadable as error:
            raise await park_unreadable(backend, pool, error) from error
        agent = result.agent
        if result.outcome is Outcome.ABSENT or agent is None:
            row = await backend.agent_from_views(request, agent_id, pool)
            if row.status not in TERMINAL:
                raise await _missing_agent_problem(request, row)
            durability.start(Proof(pool, "log"))
            headers = {**preference.headers, **await durability.headers(agent_id)}
            return durability.adjust_status(responses.json_response(row, headers=headers))
        if result.proof is not None:
            backend.acknowledged_commands.record(result.proof, "terminate", agent_id)
        else:  # its end was requested before, perhaps by a request whose answer was lost
            head = await backend.acknowledged_commands.head(pool)
            backend.acknowledged_commands.record_once(head, "terminate", agent_id)
        durability.start(result.proof or Proof(pool, "ending", agent_id))
        while not agent.ended:
            event = await watch.next(deadline)
            if event is None:
                break
            backend.mark_observed(request, pool, event.seq)
            try:
                agent = await backend.log.agent(pool, agent_id) or agent
            except LogError:  # what was requested is written; only its outcome cannot be read
                break
    row = await backend.agent_row(request, agent)
    headers = {**preference.headers, "Location": f"{responses.AGENTS}/{agent_id}"}
    headers |= await durability.headers(agent_id)
    status = 200 if row.status in TERMINAL else 202
    return durability.adjust_status(responses.json_response(row, status=status, headers=headers))


async def _missing_agent_problem(request: web.Request, row: AgentRow) -> Problem:
    """Redis has nothing of an agent that has not ended according to the views.

    If its pool does not list it, it has ended, and only the views lack that.
    """
    backend = request.app[BACKEND]
    if row.agent_id not in await backend.log.live(row.pool_name):
        return agent_not_found(row.agent_id)
    unreadable = Unreadable("agent", row.agent_id, "its hash is gone")
    return await park_unreadable(backend, row.pool_name, unreadable)


async def list_workers(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/workers`."""
    backend = request.app[BACKEND]
    params = read_query(request, requests.WorkerQuery)
    pools = None if params.pool_name is None else [params.pool_name]
    after_id = responses.decode_cursor(params.cursor, requests.WorkerId)
    ended, limit = params.include_ended, params.limit + 1
    as_of_text = ""
    if params.as_of is not None:
        async with backend.read_history() as views:
            point = await as_of.resolve(request, views, params.as_of, pools)
            rows = await views.history.workers(
                point, params.pool_name, ended=ended, after=after_id, limit=limit
            )
            as_of_text = as_of.canonical_text(point)
    else:
        async with backend.read_views() as views:
            await backend.catch_up(views, request, pools)
            rows = await views.workers(params.pool_name, ended=ended, after=after_id, limit=limit)
    if len(rows) <= params.limit:
        return responses.json_response(responses.WorkerPage(workers=rows))
    rows = rows[: params.limit]
    link, headers = responses.next_page_link(
        request, responses.encode_cursor(rows[-1].worker_id), as_of_text
    )
    return responses.json_response(responses.WorkerPage(workers=rows, next=link), headers=headers)
