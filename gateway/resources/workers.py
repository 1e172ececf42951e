"""Workers: the processes in which agents run, now or at a point in time."""

from aiohttp import web

from gateway.backend.app_keys import BACKEND
from gateway.resources import as_of
from gateway.wire.decoding import read_query
from gateway.wire.requests import WorkerId, WorkerQuery
from gateway.wire.responses import (
    WorkerPage,
    decode_cursor,
    encode_cursor,
    json_response,
    next_page_link,
)


async def list_workers(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/workers`."""
    backend = request.app[BACKEND]
    params = read_query(request, WorkerQuery)
    pools = None if params.pool_name is None else [params.pool_name]
    after_id, ended, limit = (
        decode_cursor(params.cursor, WorkerId),
        params.include_ended,
        params.limit + 1,
    )
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
        return json_response(WorkerPage(workers=rows))
    rows = rows[: params.limit]
    link, headers = next_page_link(request, encode_cursor(rows[-1].worker_id), as_of_text)
    return json_response(WorkerPage(workers=rows, next=link), headers=headers)
