"""Reading agents and their workers, and ending agents."""

from functools import partial
from typing import Any

from eventstore.errors import Unreadable
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import TERMINAL, shared_fields
from eventstore.log.replies import Outcome, Proof
from eventstore.names import unknown_name
from gateway.backend import agent_rows
from gateway.backend.call import Call
from gateway.resources import as_of
from gateway.resources.durability import durability_request
from gateway.resources.parked import park_unreadable
from gateway.wire import requests, responses
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.responses import page_response
from projector.queries.views import AgentFilter, AgentRow


async def list_agents(call: Call, query: requests.AgentQuery) -> Answer:
    """The registry, page by page."""
    name, _, value = (query.label or "").partition(":")
    label = (name, value) if query.label else None
    return await _list_agents(call, query, shared_fields(query, AgentFilter) | {"label": label})


async def list_project(
    call: Call, project_id: requests.ProjectId, query: requests.ProjectQuery
) -> Answer:
    """The agents of a project."""
    return await _list_agents(call, query, {"project_id": project_id})


async def _list_agents(
    call: Call,
    query: requests.AgentQuery | requests.ProjectQuery,
    conditions: dict[str, Any],
) -> Answer:
    """Agents that have ended are left out unless requested, explicitly or by their status."""
    conditions["status"] = tuple(status.value for status in query.status)
    if not query.include_ended and TERMINAL.isdisjoint(query.status):
        conditions["ended"] = False
    conditions |= call.own_agents
    wanted, after = AgentFilter(**conditions), responses.decode_cursor(query.cursor)
    pools = call.logs_of(wanted.pool_name)
    with_input = requests.Part.INPUT in query.include
    async with as_of.reading(call, query.as_of, pools) as (views, point):
        find = partial(views.history.agents, point) if point else views.agents
        rows = await find(wanted, after=after, limit=query.limit + 1, with_input=with_input)
    if point is None:
        rows = await agent_rows.with_blocked(call.backend, rows)
        if not rows:
            await call.backend.explain_empty(wanted.pool_name)
    again = as_of.same_point(call)
    return page_response(call.request, "agents", rows, query.limit, "agent_id", **again)


async def list_workers(call: Call, query: requests.WorkerQuery) -> Answer:
    """The worker processes, page by page."""
    after = responses.decode_cursor(query.cursor, requests.WorkerId)
    pool, ended = query.pool_name, query.include_ended
    async with as_of.reading(call, query.as_of, call.logs_of(pool)) as (views, point):
        find = partial(views.history.workers, point) if point else views.workers
        rows = await find(
            pool, ended=ended, after=after, limit=query.limit + 1, pools=call.own_pools
        )
    if point is None and not rows:
        await call.backend.explain_empty(pool)
    again = as_of.same_point(call)
    return page_response(call.request, "workers", rows, query.limit, "worker_id", **again)


async def get_worker(call: Call, worker_id: requests.WorkerId) -> Answer:
    """One worker process."""
    backend = call.backend
    async with backend.read_views() as views:
        await backend.catch_up(views, call.read_state, call.logs_of(None))
        row = await views.worker(worker_id)
    if row is None:
        detail = unknown_name("worker", worker_id)
        raise Problem(Kind.WORKER_NOT_FOUND, detail, field="worker_id")
    return Answer(row)


async def get_agent(call: Call, agent_id: requests.Identifier, query: requests.AsOfQuery) -> Answer:
    """One agent."""
    backend, text = call.backend, query.as_of
    if text is None:
        return Answer(await agent_rows.from_views(backend, call, agent_id))
    async with backend.read_history() as views:
        _, row = await as_of.agent_then(call, views, agent_id, text)
    return Answer(row)


async def terminate(call: Call, body: requests.TerminateRequest) -> Answer:
    """End an agent."""
    await call.backend.require_known_pool(body.pool_name)
    return await _terminate(call, body.pool_name, body.agent_id, body.graceful)


async def delete_agent(
    call: Call, agent_id: requests.Identifier, query: requests.DeleteAgentQuery
) -> Answer:
    """End an agent."""
    pool = query.pool_name
    if pool is None:
        pool = await agent_rows.pool_of(call.backend, agent_id)
    else:
        await call.backend.require_known_pool(pool)
    return await _terminate(call, pool, agent_id, query.graceful)


async def _terminate(call: Call, pool: str, agent_id: str, graceful: bool) -> Answer:
    backend = call.backend
    durability = await durability_request(call)
    with backend.waiters.watch(agent_id) as watch:
        try:
            result = await backend.log.act(
                pool, agent_id, Terminate(graceful=graceful), call.origin
            )
        except Unreadable as error:
            raise await park_unreadable(backend, pool, error) from error
        agent = result.agent
        if result.outcome is Outcome.ABSENT or agent is None:
            row = await agent_rows.from_views(backend, call, agent_id, pool)
            if row.status not in TERMINAL:
                raise await _missing_agent_problem(call, row)
            durability.start(Proof(pool, "log"))
            return await durability.response(row, agent_id=agent_id)
        if result.proof is not None:
            backend.acknowledged_commands.record(result.proof, "terminate", agent_id)
        else:  # its end was requested before, perhaps by a request whose answer was lost
            head = await backend.acknowledged_commands.head(pool)
            backend.acknowledged_commands.record_once(head, "terminate", agent_id)
        durability.start(result.proof or Proof(pool, "ending", agent_id))
        agent = await agent_rows.follow(
            call, watch, agent, durability.deadline, until=lambda known: known.ended
        )
    row = await agent_rows.from_log(backend, call, agent)
    status = 200 if row.status in TERMINAL else 202
    return await durability.response(row, status, agent_id=agent_id)


async def _missing_agent_problem(call: Call, row: AgentRow) -> Problem:
    """Redis has nothing of an agent that has not ended according to the views.

    If its pool does not list it, it has ended, and only the views lack that.
    """
    backend = call.backend
    if row.agent_id not in await backend.log.live(row.pool_name):
        return agent_rows.not_found(row.agent_id)
    unreadable = Unreadable("agent", row.agent_id, "its hash is gone")
    return await park_unreadable(backend, row.pool_name, unreadable)
