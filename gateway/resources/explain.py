"""Why an agent, a worker or a pool is as it is, from its events."""

from eventstore.keys import CATALOGUE
from eventstore.names import unknown_name
from gateway.backend import agent_rows
from gateway.backend.call import Call
from gateway.resources import as_of
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import ExplainQuery, Identifier, PoolName, WorkerId
from projector.queries import views as queries


async def explain_agent(call: Call, agent_id: Identifier, query: ExplainQuery) -> Answer:
    """Why an agent waited, where it was placed, why it was restarted, moved or ended."""
    backend = call.backend
    if query.as_of is None:
        row = await agent_rows.from_views(backend, call, agent_id)
        now_ms = backend.log.now_ms(row.pool_name)
        async with backend.read_history() as views:
            return Answer(
                await queries.explain_agent(views.history, row, now_ms, limit=query.limit)
            )
    async with backend.read_history() as views:
        point, then = await as_of.agent_then(call, views, agent_id, query.as_of)
        found = await queries.explain_agent(
            views.history, then, point.at_ms, limit=query.limit, point=point
        )
    return Answer(found)


async def explain_worker(call: Call, worker_id: WorkerId, query: ExplainQuery) -> Answer:
    """Why a worker was started, drained, stopped or lost."""
    backend = call.backend
    async with backend.read_history() as views:
        await backend.catch_up(views, call.read_state, call.logs_of(None))
        row, point = await views.worker(worker_id), None
        if row is not None and query.as_of is not None:
            pool = row.pool_name
            point = await as_of.resolve(call, views, query.as_of, [pool])
            row = await views.history.worker(point, worker_id, pool)
        if row is None:
            then = "" if point is None else " then"
            detail = f"{unknown_name('worker', worker_id)}{then}"
            raise Problem(Kind.WORKER_NOT_FOUND, detail, field="worker_id")
        now_ms = backend.log.now_ms(row.pool_name) if point is None else point.at_ms
        found = await queries.explain_worker(
            views.history, row, now_ms, limit=query.limit, point=point
        )
    return Answer(found)


async def explain_pool(call: Call, pool_name: PoolName, query: ExplainQuery) -> Answer:
    """Why a pool has the workers that it has, and who changed it."""
    names = [CATALOGUE, pool_name]
    async with as_of.reading(call, query.as_of, names) as (views, point):
        row = await (views.history.pool(point, pool_name) if point else views.pool(pool_name))
        found = await queries.explain_pool(
            views.history, pool_name, row, limit=query.limit, point=point
        )
    if not found.lines:
        raise call.backend.pool_not_found(pool_name)
    return Answer(found)
