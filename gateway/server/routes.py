"""All routes, what all requests pass through, and the pages.

Pages are plain files without data of their own, and load nothing from elsewhere: what they show
they request from the API, with the token that the reader enters.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import web

from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.health import facts, metrics, monitor
from gateway.options import LIMITS
from gateway.resources import agents, event_stream, parked, pools, spawn
from gateway.server import openapi
from gateway.server.middleware import guard, set_headers
from gateway.wire.problems import Kind, Problem
from gateway.wire.responses import AGENTS, API

AGENT_ID: Final = "{agent_id:(?!(?:spawn|terminate|pools|workers|health)$)[^/]+}"
"""One part of a path that is not one of the fixed ones: `DELETE /agents/health` is a 405."""


def application(backend: Backend) -> web.Application:
    """The aiohttp application of a gateway."""
    app = web.Application(middlewares=[guard], client_max_size=backend.limits.body_max)
    app[BACKEND] = backend
    app[LIMITS] = backend.limits
    app.on_response_prepare.append(set_headers)
    app.add_routes(routes())
    return app


def routes() -> list[web.RouteDef]:
    """Fixed paths first: none of them must be read as the id of an agent."""
    return [
        web.post(f"{AGENTS}/spawn", spawn.spawn),
        web.post(f"{AGENTS}/terminate", agents.terminate),
        web.post(f"{AGENTS}/pools", pools.create_pool),
        web.get(f"{AGENTS}/pools", pools.list_pools),
        web.get(f"{AGENTS}/pools/{{pool_name}}", pools.get_pool),
        web.patch(f"{AGENTS}/pools/{{pool_name}}", pools.change_pool),
        web.delete(f"{AGENTS}/pools/{{pool_name}}", pools.delete_pool),
        web.get(f"{AGENTS}/workers", agents.list_workers),
        web.get(f"{AGENTS}/project/{{project_id}}", agents.list_project),
        web.get(f"{AGENTS}/monitor/system", monitor.system),
        web.get(f"{AGENTS}/monitor/dashboard", monitor.dashboard),
        web.get(f"{AGENTS}/monitor/alerts", monitor.alerts),
        web.get(f"{AGENTS}/health", monitor.health),
        web.get(AGENTS, agents.list_agents),
        web.get(f"{AGENTS}/{AGENT_ID}", agents.get_agent),
        web.delete(f"{AGENTS}/{AGENT_ID}", agents.delete_agent),
        web.get(f"{API}/parked", parked.list_parked),
        web.post(f"{API}/parked/{{parked_id}}/retry", parked.retry),
        web.delete(f"{API}/parked/{{parked_id}}", parked.drop),
        web.get(f"{API}/events", event_stream.follow, allow_head=False),
        web.get("/healthz", facts.alive),
        web.get("/readyz", facts.ready),
        web.get("/metrics", metrics.metrics),
        web.get("/openapi.json", openapi.document),
        web.get("/docs", docs),
        web.get("/", dashboard),
        web.get("/static/{name}", static),
    ]


_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_NAME: Final = re.compile(r"[a-z]+\.(css|js|svg)")


async def dashboard(_request: web.Request) -> web.Response:
    """`GET /`."""
    return _file("dashboard.html")


async def docs(_request: web.Request) -> web.Response:
    """`GET /docs`."""
    return _file("docs.html")


async def static(request: web.Request) -> web.Response:
    """`GET /static/{name}`."""
    name = request.match_info["name"]
    if not _NAME.fullmatch(name):
        raise Problem(Kind.NOT_FOUND, "no resource has this path")
    return _file(name)


def _file(name: str) -> web.Response:
    try:
        content = _read(name)
    except FileNotFoundError:
        raise Problem(Kind.NOT_FOUND, "no resource has this path") from None
    kind = _TYPES[name.rpartition(".")[2]]
    return web.Response(body=content, content_type=kind, charset="utf-8")


@cache
def _read(name: str) -> bytes:
    return (files("gateway") / "static" / name).read_bytes()
