"""Every call of the HTTP API: what answers it, how, and which problems it may have.

The routes and `/openapi.json` are made from this one table.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from eventstore.language.tokens import Scope
from gateway.access.grants import About, Need
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.read_state import requested_position
from gateway.following.subscriptions import FlatEvent
from gateway.health import alert_list, live, metrics, monitor, readiness
from gateway.options import Limits
from gateway.resources import (
    agents,
    consolidation,
    event_stream,
    explain,
    lookup,
    parked,
    pools,
    replacements,
    restart,
    session,
    spawn,
    tokens,
    usage,
    worker_commands,
)
from gateway.server import openapi, pages
from gateway.server.admission import Handler, Response, admit, answering, require_understood
from gateway.server.authorization import require_declared, require_own, require_scope
from gateway.server.openapi import (
    DURABILITY,
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    MUSTER_REQUEST,
    PREFER,
    Operation,
)
from gateway.server.paths import PROBES, is_public
from gateway.webhooks import changes as webhook_changes
from gateway.webhooks import endpoints as webhooks
from gateway.wire.answer import Answer
from gateway.wire.decoding import convert, read_body, read_query, require_bounded
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import NoParameters
from gateway.wire.responses import API, AgentPage, PoolDeletion, PoolList, WorkerPage
from projector.queries.views import (
    AgentRow,
    Explanation,
    PoolHistory,
    PoolRow,
    UsageReport,
    WorkerRow,
)

if TYPE_CHECKING:
    from gateway.server.tracing import RequestTracing

AGENT_ID: Final = "{agent_id:(?!(?:spawn|terminate|pools|workers|health|usage)$)[^/]+}"
"""One part of a path that is not one of the fixed ones: `DELETE /agents/health` is a 405."""
FILE: Final = "{file:.+}"
"""The remaining path."""
WEBHOOK: Final = "{name:(?!dead$)[^/]+}"
"""As `AGENT_ID`."""
EVENT_STREAM: Final = "text/event-stream"


def application(limits: Limits) -> web.Application:
    """The aiohttp application of a gateway. Raises `TypeError` for a route that is not declared."""
    app = web.Application(client_max_size=limits.body_max)
    for op in OPERATIONS:
        what, public = f"{op.method} {op.path}", is_public(op.path)
        require_declared(what, op.needs, op.inputs, public=public)
        path = op.path.replace("{agent_id}", AGENT_ID).replace("{file}", FILE)
        path = path.replace("/webhooks/{name}", f"/webhooks/{WEBHOOK}")
        options = {"allow_head": False} if op.content_type == EVENT_STREAM else {}
        app.add_routes([web.route(op.method, path, cast("Any", _reading(op)), **options)])
    return app


def serve(
    server: web.Server,
    app: web.Application,
    backend: Backend,
    tracing: "RequestTracing | None" = None,
) -> None:
    """Let the server of the application answer each request by way of admission.

    What clients send most often is not routed by aiohttp, which takes as long as admitting it.
    """
    direct = {op.path: _reading(op) for op in OPERATIONS if op.handler is spawn.spawn}
    server.request_handler = cast("Any", answering(backend, app, direct, tracing))


def _reading(op: Operation) -> Handler:
    """Calls the operation's handler with what it reads of the request."""
    inputs = op.inputs
    of_api = op.path.startswith(f"{API}/")
    parameterless = of_api and not inputs.keys() & {"query", "body"}
    bodiless = of_api and "body" not in inputs

    async def handle(call: Call) -> Response:
        call.route, request, limits = op.path, call.request, call.backend.limits
        require_scope(call, op.needs)
        if op.path not in PROBES and call.asked is None:
            require_understood(request)
            if "body" in inputs:
                require_bounded(request, limits)
            own = call.grant.has_log
            requested = requested_position(request)
            call.read_state.requested = {log: seq for log, seq in requested.items() if own(log)}
        values: dict[str, Any] = {}
        if parameterless:
            read_query(request, NoParameters)
        if bodiless and request.body_exists:
            detail = f"{request.method} takes no body here; parameters are in the address"
            raise Problem(Kind.INVALID_REQUEST, detail, field="body")
        for name, shape in inputs.items():
            if name == "query":
                values[name] = read_query(request, shape)
            elif name == "body":
                values[name], call.sent = await read_body(request, shape, limits)
            else:
                values[name] = convert(call.parts[name], shape, strict=True, prefix=name)
        if "body" in inputs:  # meanwhile its token may have been revoked
            admit(call)
            require_scope(call, op.needs)
        await require_own(call, op.needs, values)
        return await op.handler(call, **values)

    return handle


async def document(call: Call) -> Answer:
    """This document."""
    backend = call.backend
    return Answer(build_document(backend.options.version, backend.credentials.required))


@cache
def build_document(version: str, token: bool) -> dict[str, Any]:
    """`/openapi.json`; `token`: whether calls need one."""
    return openapi.describe(OPERATIONS, version, token)


_PUBLIC: Final = Need(None)
_READ_ANY: Final = Need(Scope.READ)
_READ_SERVICE: Final = Need(Scope.READ, About.SERVICE)
_READ_POOL: Final = Need(Scope.READ, About.POOL)
_READ_POOLS: Final = Need(Scope.READ, About.POOLS)
_READ_WORKER: Final = Need(Scope.READ, About.WORKER)
_READ_AGENT: Final = Need(Scope.READ, About.AGENT)
_READ_AGENTS: Final = Need(Scope.READ, About.AGENTS)
_SPAWN_AGENT: Final = Need(Scope.SPAWN, About.AGENT)
_OPERATE_AGENT: Final = Need(Scope.OPERATE, About.AGENT)
_OPERATE_POOL: Final = Need(Scope.OPERATE, About.POOL)
_OPERATE_WORKER: Final = Need(Scope.OPERATE, About.WORKER)
_ADMIN_POOL: Final = Need(Scope.ADMIN, About.POOL)
_ADMIN_SERVICE: Final = Need(Scope.ADMIN, About.SERVICE)

_COMMAND: Final = (PREFER, DURABILITY)
_ENDED: Final = {200: "It has ended", 202: "It is ending"}
_LOWER: Final = "It is done, but not at the level of durability asked for"
_PAGE: Final = {200: "A page"}
_HTML: Final = "text/html"

OPERATIONS: Final = (
    Operation("agents", "POST", "/api/v1/agents/spawn", spawn.spawn, AgentRow,
              {200: "It runs, or has run", 202: "It is accepted and waits"},
              (404, 409, 429, 502, 507),
              (PREFER, IDEMPOTENCY_KEY, DURABILITY), name="spawn_agent", needs=_SPAWN_AGENT),
    Operation("agents", "POST", "/api/v1/agents/terminate", agents.terminate, AgentRow, _ENDED,
              (404, 409), _COMMAND, name="terminate_agent", needs=_SPAWN_AGENT),
    Operation("agents", "GET", "/api/v1/agents", agents.list_agents, AgentPage, _PAGE,
              (404,), needs=_READ_AGENTS),
    Operation("agents", "GET", "/api/v1/agents/{agent_id}", agents.get_agent, AgentRow,
              {200: "The agent"}, (404,), needs=_READ_AGENT),
    Operation("agents", "DELETE", "/api/v1/agents/{agent_id}", agents.delete_agent, AgentRow,
              _ENDED, (404, 409), _COMMAND, needs=_SPAWN_AGENT),
    Operation("agents", "POST", "/api/v1/agents/{agent_id}/restart", restart.restart, AgentRow,
              {200: "Its new incarnation was started", 202: "It is accepted and waits"},
              (404, 409, 429), (*_COMMAND, IDEMPOTENCY_KEY), name="restart_agent",
              needs=_OPERATE_AGENT),
    Operation("agents", "GET", "/api/v1/agents/{agent_id}/explain", explain.explain_agent,
              Explanation, {200: "Why it is as it is"}, (404,), needs=_READ_AGENT),
    Operation("agents", "GET", "/api/v1/agents/project/{project_id}", agents.list_project,
              AgentPage, _PAGE, name="list_agents_of_project", needs=_READ_AGENTS),
    Operation("pools", "POST", "/api/v1/agents/pools", pools.create_pool, PoolRow,
              {201: "It was created", 202: _LOWER}, (409,), _COMMAND, needs=_ADMIN_POOL),
    Operation("pools", "GET", "/api/v1/agents/pools", pools.list_pools, PoolList,
              {200: "The pools"}, needs=_READ_POOLS),
    Operation("pools", "GET", "/api/v1/agents/pools/{pool_name}", pools.get_pool, PoolRow,
              {200: "The pool"}, (404,), needs=_READ_POOL),
    Operation("pools", "PATCH", "/api/v1/agents/pools/{pool_name}", pools.change_pool, PoolRow,
              {200: "The pool as it is now", 202: _LOWER}, (404,), _COMMAND, needs=_ADMIN_POOL),
    Operation("pools", "DELETE", "/api/v1/agents/pools/{pool_name}", pools.delete_pool,
              PoolDeletion, {200: "It is gone", 202: "Its agents are ending"}, (404, 409),
              _COMMAND, needs=_ADMIN_POOL),
    Operation("pools", "POST", "/api/v1/agents/pools/{pool_name}/pause", pools.pause_pool, PoolRow,
              {200: "The pool as it is now", 202: _LOWER}, (404,), _COMMAND, needs=_OPERATE_POOL),
    Operation("pools", "POST", "/api/v1/agents/pools/{pool_name}/resume", pools.resume_pool,
              PoolRow, {200: "The pool as it is now", 202: _LOWER}, (404,), _COMMAND,
              needs=_OPERATE_POOL),
    Operation("pools", "POST", "/api/v1/agents/pools/{pool_name}/replace",
              replacements.replace_pool, PoolRow, {202: "Its workers are being replaced"},
              (404, 409), _COMMAND, needs=_OPERATE_POOL),
    Operation("pools", "POST", "/api/v1/agents/pools/{pool_name}/replace/cancel",
              replacements.cancel_replacement, PoolRow, {200: "The pool as it is now", 202: _LOWER},
              (404,), _COMMAND, needs=_OPERATE_POOL),
    Operation("pools", "GET", "/api/v1/agents/pools/{pool_name}/explain", explain.explain_pool,
              Explanation, {200: "Why it is as it is"}, (404,), needs=_READ_POOL),
    Operation("pools", "GET", "/api/v1/agents/pools/{pool_name}/history", usage.get_pool_history,
              PoolHistory, {200: "Its steps"}, (404, 410), needs=_READ_POOL),
    Operation("pools", "GET", "/api/v1/agents/pools/{pool_name}/plan", consolidation.get_plan,
              consolidation.ConsolidationPlan, {200: "The plan"}, (404,),
              name="get_consolidation_plan", needs=_READ_POOL),
    Operation("pools", "POST", "/api/v1/agents/pools/{pool_name}/consolidate",
              consolidation.consolidate, consolidation.ConsolidationPlan,
              {200: "There is nothing to do", 202: "The plan, which is carried out"}, (404,),
              name="consolidate_pool", needs=_OPERATE_POOL),
    Operation("pools", "GET", "/api/v1/agents/workers", agents.list_workers, WorkerPage, _PAGE,
              (404,), needs=_READ_POOLS),
    Operation("pools", "GET", "/api/v1/agents/workers/{worker_id}", agents.get_worker, WorkerRow,
              {200: "The worker"}, (404,), needs=_READ_WORKER),
    Operation("pools", "GET", "/api/v1/agents/workers/{worker_id}/explain", explain.explain_worker,
              Explanation, {200: "Why it is as it is"}, (404,), needs=_READ_WORKER),
    Operation("pools", "POST", "/api/v1/agents/workers/{worker_id}/cordon", worker_commands.cordon,
              WorkerRow, {200: "The worker as it is now"}, (404, 409), name="cordon_worker",
              needs=_OPERATE_WORKER),
    Operation("pools", "POST", "/api/v1/agents/workers/{worker_id}/uncordon",
              worker_commands.uncordon, WorkerRow, {200: "The worker as it is now"}, (404, 409),
              name="uncordon_worker", needs=_OPERATE_WORKER),
    Operation("pools", "POST", "/api/v1/agents/workers/{worker_id}/drain", worker_commands.drain,
              WorkerRow, {200: "It has ended", 202: "It drains"}, (404, 409), name="drain_worker",
              needs=_OPERATE_WORKER),
    Operation("monitoring", "GET", "/api/v1/agents/monitor/system", monitor.system,
              monitor.SystemFigures, {200: "The figures"}, name="get_system", needs=_READ_SERVICE),
    Operation("monitoring", "GET", "/api/v1/agents/monitor/dashboard", monitor.dashboard,
              monitor.Dashboard, {200: "Pools, workers, hosts, decisions, alerts"},
              name="get_dashboard", needs=_READ_POOLS),
    Operation("monitoring", "GET", "/api/v1/agents/monitor/live", live.live, live.LiveMessage,
              {200: "A picture, then what changed in it"}, (429,), content_type=EVENT_STREAM,
              name="follow_live", needs=_READ_POOLS),
    Operation("monitoring", "GET", "/api/v1/agents/monitor/alerts", alert_list.alerts,
              alert_list.AlertList, {200: "The alerts that apply now"}, (404,), name="list_alerts",
              needs=_READ_POOLS),
    Operation("webhooks", "GET", "/api/v1/webhooks", webhooks.list_webhooks, webhooks.WebhookList,
              {200: "The webhooks"}, needs=_ADMIN_SERVICE),
    Operation("webhooks", "POST", "/api/v1/webhooks", webhook_changes.create_webhook,
              webhooks.NewWebhook, {201: "It was made"}, (409,), needs=_ADMIN_SERVICE),
    Operation("webhooks", "PATCH", "/api/v1/webhooks/{name}", webhook_changes.change_webhook,
              webhooks.NewWebhook, {200: "The webhook as it is now"}, (404, 409),
              needs=_ADMIN_SERVICE),
    Operation("webhooks", "DELETE", "/api/v1/webhooks/{name}", webhook_changes.delete_webhook,
              webhooks.WebhookRow, {200: "It is deleted"}, (404, 409), needs=_ADMIN_SERVICE),
    Operation("webhooks", "POST", "/api/v1/webhooks/{name}/test", webhooks.send_test,
              webhooks.WebhookTest, {200: "What came of it"}, (404,), name="test_webhook",
              needs=_ADMIN_SERVICE),
    Operation("webhooks", "GET", "/api/v1/webhooks/dead", webhooks.list_dead,
              webhooks.DeadLetterList, {200: "The dead letters"}, name="list_dead_letters",
              needs=_ADMIN_SERVICE),
    Operation("webhooks", "POST", "/api/v1/webhooks/dead/{dead_id}/retry", webhooks.retry_dead,
              webhooks.DeadLetter, {200: "It is sent again"}, (404,), name="retry_dead_letter",
              needs=_ADMIN_SERVICE),
    Operation("webhooks", "DELETE", "/api/v1/webhooks/dead/{dead_id}", webhooks.drop_dead,
              webhooks.DeadLetter, {200: "It is forgotten"}, (404,), name="drop_dead_letter",
              needs=_ADMIN_SERVICE),
    Operation("monitoring", "GET", "/api/v1/agents/usage", usage.get_usage, UsageReport,
              {200: "The usage"}, (404, 410), needs=_READ_AGENTS),
    Operation("monitoring", "GET", "/api/v1/agents/health", monitor.health, monitor.HealthReport,
              {200: "The agents' health"}, (404,), name="get_health", needs=_READ_AGENTS),
    Operation("parked", "GET", "/api/v1/parked", parked.list_parked, parked.ParkedList,
              {200: "What is parked, the oldest first"}, (404,), needs=_READ_POOLS),
    Operation("parked", "POST", "/api/v1/parked/{parked_id}/retry", parked.retry, parked.ParkedRow,
              {200: "It was restored"}, (404, 409), name="retry_parked", needs=_OPERATE_POOL),
    Operation("parked", "DELETE", "/api/v1/parked/{parked_id}", parked.drop, parked.ParkedRow,
              {200: "It was ended"}, (404, 409), name="drop_parked", needs=_OPERATE_POOL),
    Operation("tokens", "GET", "/api/v1/tokens", tokens.list_tokens, tokens.TokenList,
              {200: "The tokens"}, needs=_ADMIN_SERVICE),
    Operation("tokens", "POST", "/api/v1/tokens", tokens.create_token, tokens.NewToken,
              {201: "It was created", 202: _LOWER}, (409,), _COMMAND, needs=_ADMIN_SERVICE),
    Operation("tokens", "POST", "/api/v1/tokens/{token_name}/rotate", tokens.rotate_token,
              tokens.NewToken, {200: "It has a new secret", 202: _LOWER}, (404,), _COMMAND,
              needs=_ADMIN_SERVICE),
    Operation("tokens", "DELETE", "/api/v1/tokens/{token_name}", tokens.revoke_token,
              tokens.TokenRow, {200: "It is not valid any more", 202: _LOWER}, (404, 409),
              _COMMAND, needs=_ADMIN_SERVICE),
    Operation("names", "GET", "/api/v1/lookup", lookup.look_up, lookup.Lookup,
              {200: "What bears the name"}, needs=_READ_AGENTS),
    Operation("events", "GET", "/api/v1/events", event_stream.follow, FlatEvent,
              {200: "One event a message; its `id` is the `Last-Event-ID` to resume with"}, (429,),
              (LAST_EVENT_ID,), EVENT_STREAM, name="follow_events", needs=_READ_AGENTS),
    Operation("probes", "GET", "/healthz", readiness.alive, readiness.Alive, {200: "Alive"},
              name="is_alive", needs=_PUBLIC),
    Operation("probes", "GET", "/readyz", readiness.ready, readiness.Readiness,
              {200: "Ready", 503: "Not ready, and why"}, name="is_ready", needs=_PUBLIC),
    Operation("monitoring", "GET", "/metrics", metrics.metrics, str, {200: "The text format"},
              content_type=metrics.CONTENT_TYPE, name="get_metrics", needs=_READ_SERVICE),
    Operation("session", "GET", "/session", session.get_session, session.Session,
              {200: "Who one is"}, (403,), needs=_PUBLIC),
    Operation("session", "POST", "/session", session.start_session, session.Session,
              {200: "It is started"}, (401, 403), (MUSTER_REQUEST,), needs=_PUBLIC),
    Operation("session", "DELETE", "/session", session.end_session, session.Session,
              {200: "It is over"}, (403,), (MUSTER_REQUEST,), needs=_PUBLIC),
    Operation("pages", "GET", "/openapi.json", document, dict[str, object], {200: "OpenAPI 3.1"},
              name="get_openapi", needs=_READ_ANY),
    Operation("pages", "GET", "/", pages.dashboard, str, {200: "A page"}, content_type=_HTML,
              name="get_dashboard_page", needs=_PUBLIC),
    Operation("pages", "GET", "/docs", pages.docs, str, {200: "A page"}, content_type=_HTML,
              name="get_docs_page", needs=_PUBLIC),
    Operation("pages", "GET", "/static/{version}/{file}", pages.static, str,
              {200: "A style sheet, script or picture"}, (404,),
              content_type="application/octet-stream", name="get_static_file", needs=_PUBLIC),
)  # fmt: skip
