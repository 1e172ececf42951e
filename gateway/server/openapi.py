"""`/openapi.json`, made from the Structs that decode the requests and encode the answers.

What the document says of a body is what the decoder accepts, because it is the same type.
"""

from functools import cache
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from gateway.backend.app_keys import BACKEND
from gateway.following.subscriptions import FlatEvent
from gateway.health.monitor import (
    AlertList,
    Alive,
    Dashboard,
    HealthReport,
    Readiness,
    SystemFigures,
)
from gateway.resources.parked import ParkedList, ParkedRow
from gateway.wire import requests
from gateway.wire.problems import CONTENT_TYPE
from gateway.wire.problems import Body as ProblemBody
from gateway.wire.responses import (
    AGENTS,
    API,
    AgentPage,
    PoolDeletion,
    PoolList,
    WorkerPage,
    json_response,
)
from projector.queries.views import AgentRow, PoolRow

REFERENCE: Final = "#/components/schemas/{name}"
JSON: Final = "application/json"
COMMON_STATUSES: Final = (400, 408, 421, 431)
"""What any request may be refused with."""
PREFER: Final = (
    "Prefer",
    "`wait=N`: wait up to N seconds (60 at most); `respond-async`: do not wait.",
    "",
)
DURABILITY: Final = (
    "Muster-Durability",
    "`accepted`, `fsynced`, `replicated` or `archived`: the level to be reached before the answer.",
    "",
)
IDEMPOTENCY_KEY: Final = (
    "Idempotency-Key",
    "1 to 255 printable ASCII characters; for a day (a setting) it asks for the same agent.",
    "^[!-~]([ -~]{0,253}[!-~])?$",
)
LOWER_DURABILITY: Final = "It is done, but not at the level of durability asked for"
DURABILITY_HEADERS: Final = {
    "Muster-Durability": "The level that was reached",
    "Muster-Durability-Pending": "The level that was asked for and not reached, and why",
}
PATH_PARAMETERS: Final = {
    "pool_name": requests.PoolName,
    "agent_id": requests.Identifier,
    "project_id": requests.ProjectId,
    "parked_id": requests.ParkedId,
    "name": str,
}


class Operation(Struct, frozen=True, kw_only=True):
    """One call. `answers`: status, what it means, and the shape of its body."""

    method: str
    path: str
    summary: str
    tag: str
    responses: tuple[tuple[int, str, Any], ...]
    problems: tuple[int, ...] = ()
    body: Any = None
    query: Any = None
    headers: tuple[tuple[str, str, str], ...] = ()
    """Name, what it means, and the pattern of its value, if it has one."""
    content_type: str = JSON
    public: bool = False
    is_command: bool = False
    """It writes, so its answers say how safe that is."""


OPERATIONS: Final = (
    Operation(
        method="post",
        path=f"{AGENTS}/spawn",
        tag="agents",
        summary="Ask for an agent, and wait for it as long as `Prefer` says (5 s unless said)",
        body=requests.SpawnRequest,
        headers=(PREFER, IDEMPOTENCY_KEY, DURABILITY),
        is_command=True,
        responses=((200, "It runs", AgentRow), (202, "It is accepted and waits", AgentRow)),
        problems=(404, 409, 413, 415, 422, 429, 502, 507),
    ),
    Operation(
        method="post",
        path=f"{AGENTS}/terminate",
        tag="agents",
        summary="End an agent",
        body=requests.TerminateRequest,
        headers=(PREFER, DURABILITY),
        is_command=True,
        responses=((200, "It has ended", AgentRow), (202, "It is ending", AgentRow)),
        problems=(404, 409, 413, 415, 422),
    ),
    Operation(
        method="get",
        path=AGENTS,
        tag="agents",
        summary="The registry, page by page",
        query=requests.AgentQuery,
        responses=((200, "A page", AgentPage),),
        problems=(410, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/{{agent_id}}",
        tag="agents",
        summary="One agent",
        query=requests.AsOfQuery,
        responses=((200, "The agent", AgentRow),),
        problems=(404, 410, 422),
    ),
    Operation(
        method="delete",
        path=f"{AGENTS}/{{agent_id}}",
        tag="agents",
        summary="End an agent",
        query=requests.DeleteAgentQuery,
        headers=(PREFER, DURABILITY),
        is_command=True,
        responses=((200, "It has ended", AgentRow), (202, "It is ending", AgentRow)),
        problems=(404, 409, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/project/{{project_id}}",
        tag="agents",
        summary="The agents of a project",
        query=requests.ProjectQuery,
        responses=((200, "A page", AgentPage),),
        problems=(410, 422),
    ),
    Operation(
        method="post",
        path=f"{AGENTS}/pools",
        tag="pools",
        summary="Create a pool",
        body=requests.PoolRequest,
        headers=(PREFER, DURABILITY),
        is_command=True,
        responses=((201, "It was created", PoolRow), (202, LOWER_DURABILITY, PoolRow)),
        problems=(409, 413, 415, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/pools",
        tag="pools",
        summary="All pools and their capacity",
        query=requests.AsOfQuery,
        responses=((200, "The pools", PoolList),),
        problems=(410, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/pools/{{pool_name}}",
        tag="pools",
        summary="One pool and its capacity",
        query=requests.AsOfQuery,
        responses=((200, "The pool", PoolRow),),
        problems=(404, 410, 422),
    ),
    Operation(
        method="patch",
        path=f"{AGENTS}/pools/{{pool_name}}",
        tag="pools",
        summary="Change settings of a pool",
        body=requests.PoolPatch,
        headers=(PREFER, DURABILITY),
        is_command=True,
        responses=((200, "The pool as it is now", PoolRow), (202, LOWER_DURABILITY, PoolRow)),
        problems=(404, 413, 415, 422),
    ),
    Operation(
        method="delete",
        path=f"{AGENTS}/pools/{{pool_name}}",
        tag="pools",
        summary="Delete a pool",
        query=requests.DeletePoolQuery,
        headers=(PREFER, DURABILITY),
        is_command=True,
        responses=((200, "It is gone", PoolDeletion), (202, "Its agents are ending", PoolDeletion)),
        problems=(404, 409, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/workers",
        tag="pools",
        summary="The worker processes, page by page",
        query=requests.WorkerQuery,
        responses=((200, "A page", WorkerPage),),
        problems=(410, 422),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/monitor/system",
        tag="monitoring",
        summary="Figures of the whole system",
        responses=((200, "The figures", SystemFigures),),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/monitor/dashboard",
        tag="monitoring",
        summary="What the dashboard shows",
        responses=((200, "Pools, workers, hosts, decisions, alerts", Dashboard),),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/monitor/alerts",
        tag="monitoring",
        summary="What somebody should look at",
        responses=((200, "The alerts that stand", AlertList),),
    ),
    Operation(
        method="get",
        path=f"{AGENTS}/health",
        tag="monitoring",
        summary="Health of the agents, by pool",
        query=requests.HealthQuery,
        responses=((200, "The agents' health", HealthReport),),
    ),
    Operation(
        method="get",
        path=f"{API}/parked",
        tag="parked",
        summary="Agents that cannot be read, and why",
        query=requests.ParkedQuery,
        responses=((200, "What is parked, the oldest first", ParkedList),),
        problems=(404,),
    ),
    Operation(
        method="post",
        path=f"{API}/parked/{{parked_id}}/retry",
        tag="parked",
        summary="Put it back where it belongs",
        body=requests.RetryRequest,
        responses=((200, "It was put back", ParkedRow),),
        problems=(404, 409, 413, 415),
    ),
    Operation(
        method="delete",
        path=f"{API}/parked/{{parked_id}}",
        tag="parked",
        summary="End it for good",
        responses=((200, "It was ended", ParkedRow),),
        problems=(404, 409),
    ),
    Operation(
        method="get",
        path=f"{API}/events",
        tag="events",
        summary="Follow the log as server-sent events",
        query=requests.EventQuery,
        headers=(("Last-Event-ID", "Go on after the event with this id.", ""),),
        responses=((200, "One event a message; `id` is where to go on", FlatEvent),),
        problems=(429,),
        content_type="text/event-stream",
    ),
    Operation(
        method="get",
        path="/healthz",
        tag="probes",
        summary="The process answers",
        responses=((200, "Alive", Alive),),
        public=True,
    ),
    Operation(
        method="get",
        path="/readyz",
        tag="probes",
        summary="It makes progress",
        responses=((200, "Ready", Readiness), (503, "Not ready, and why", Readiness)),
        public=True,
    ),
    Operation(
        method="get",
        path="/metrics",
        tag="monitoring",
        summary="Figures for Prometheus",
        responses=((200, "The text format", str),),
        content_type="text/plain",
    ),
    Operation(
        method="get",
        path="/openapi.json",
        tag="pages",
        summary="This document",
        responses=((200, "OpenAPI 3.1", dict[str, object]),),
    ),
    Operation(
        method="get",
        path="/",
        tag="pages",
        summary="The dashboard",
        responses=((200, "A page", str),),
        content_type="text/html",
        public=True,
    ),
    Operation(
        method="get",
        path="/docs",
        tag="pages",
        summary="This document, for reading",
        responses=((200, "A page", str),),
        content_type="text/html",
        public=True,
    ),
    Operation(
        method="get",
        path="/static/{name}",
        tag="pages",
        summary="What the pages load",
        responses=((200, "A style sheet, script or picture", str),),
        problems=(404,),
        content_type="*/*",
        public=True,
    ),
)


async def document(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    options = request.app[BACKEND].options
    return json_response(build_document(options.version, bool(options.api_token)))


@cache
def build_document(version: str, token: bool) -> dict[str, Any]:
    """The whole document."""
    shapes = [shape for op in OPERATIONS for shape in _shapes(op)]
    schemas, components = msgspec.json.schema_components(
        [*shapes, ProblemBody], ref_template=REFERENCE, schema_hook=_any_schema
    )
    by_shape = dict(zip([*map(repr, shapes), repr(ProblemBody)], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method] = _operation(op, by_shape, components, token)
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": version,
            "description": "An auto-scaling pool of long-lived agents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if token:
        scheme = {"type": "http", "scheme": "bearer"}
        result["components"]["securitySchemes"] = {"token": scheme}
    return result


def _any_schema(type_: type) -> dict[str, Any]:
    """A value that may be anything; msgspec takes an empty schema for none."""
    if type_ is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(type_)


def _shapes(op: Operation) -> list[Any]:
    inputs = [shape for shape in (op.body, op.query) if shape is not None]
    return [*inputs, *(shape for _, _, shape in op.responses)]


def _operation(
    op: Operation, schemas: dict[str, Any], components: dict[str, Any], token: bool
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "summary": op.summary,
        "tags": [op.tag],
        "operationId": f"{op.method}{op.path}".replace("/", "_").translate(
            str.maketrans("", "", "{}")
        ),
        "parameters": _parameters(op, components),
        "responses": {
            str(status): {
                "description": meaning,
                "content": {op.content_type: {"schema": schemas[repr(shape)]}},
                **({"headers": _durability_headers()} if op.is_command else {}),
            }
            for status, meaning, shape in op.responses
        },
    }
    if op.body is not None:
        content = {JSON: {"schema": schemas[repr(op.body)]}}
        result["requestBody"] = {"required": True, "content": content}
    problem = {CONTENT_TYPE: {"schema": schemas[repr(ProblemBody)]}}
    problem_statuses = {*op.problems, *COMMON_STATUSES}
    if not op.public:
        problem_statuses |= {503, *((401,) if token else ())}
        if token:
            result["security"] = [{"token": []}]
    for status in sorted(problem_statuses - {int(s) for s in result["responses"]}):
        result["responses"][str(status)] = {"description": "A problem", "content": problem}
    return result


def _durability_headers() -> dict[str, Any]:
    """The headers of a command's answer."""
    return {
        name: {"description": about, "schema": {"type": "string"}}
        for name, about in DURABILITY_HEADERS.items()
    }


def _parameters(op: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    result = [
        {"name": name, "in": "path", "required": True, "schema": msgspec.json.schema(shape)}
        for name, shape in PATH_PARAMETERS.items()
        if f"{{{name}}}" in op.path
    ]
    if op.query is not None:
        shape = components[op.query.__name__]
        required = shape.get("required", ())
        result += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in shape["properties"].items()
        ]
    result += [
        {
            "name": name,
            "in": "header",
            "description": about,
            "schema": {"type": "string", **({"pattern": pattern} if pattern else {})},
        }
        for name, about, pattern in op.headers
    ]
    return result
