"""Workers: the processes that agents run in, now or as they were."""

from aiohttp import web

from gateway.backend.app_keys import BACKEND
from gateway.resources import as_of
from gateway.wire.requests import WorkerId, WorkerQuery, query
from gateway.wire.responses import WorkerPage, after, answer, cursor_of, next_page


async def list_workers(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/workers`."""
    backend = request.app[BACKEND]
    asked = query(request, WorkerQuery)
    pools = None if asked.pool_name is None else [asked.pool_name]
    begin, ended, limit = after(asked.cursor, WorkerId), asked.include_ended, asked.limit + 1
    pinned = ""
    if asked.as_of is not None:
        async with backend.looking_back() as views:
            moment = await as_of.moment(request, views, asked.as_of, pools)
            rows = await views.history.workers(
                moment, asked.pool_name, ended=ended, after=begin, limit=limit
            )
            pinned = as_of.pinned(moment)
    else:
        async with backend.reading() as views:
            await backend.settle(views, request, pools)
            rows = await views.workers(asked.pool_name, ended=ended, after=begin, limit=limit)
    if len(rows) <= asked.limit:
        return answer(WorkerPage(workers=rows))
    rows = rows[: asked.limit]
    link, headers = next_page(request, cursor_of(rows[-1].worker_id), pinned)
    return answer(WorkerPage(workers=rows, next=link), headers=headers)
