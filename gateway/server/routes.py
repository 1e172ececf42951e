"""All routes, and what all requests pass through."""

from typing import Final

from aiohttp import web

from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.health import metrics, monitor, probes
from gateway.options import LIMITS
from gateway.resources import agents, event_stream, parked, pools, spawn, workers
from gateway.server import openapi, pages
from gateway.server.middleware import guard, set_headers
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
        web.get(f"{AGENTS}/workers", workers.list_workers),
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
        web.get("/healthz", probes.alive),
        web.get("/readyz", probes.ready),
        web.get("/metrics", metrics.metrics),
        web.get("/openapi.json", openapi.document),
        web.get("/docs", pages.docs),
        web.get("/", pages.dashboard),
        web.get("/static/{name}", pages.static),
    ]
