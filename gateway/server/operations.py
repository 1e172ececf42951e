"""Every call of the HTTP API: what it reads, what it answers, and which problems it may have.

`/openapi.json` is made from this table, which has all routes and nothing else.
"""

from typing import Any, Final

from msgspec import Struct

from gateway.following.subscriptions import FlatEvent
from gateway.health.facts import Alive, Readiness
from gateway.health.monitor import AlertList, Dashboard, HealthReport, SystemFigures
from gateway.resources.parked import ParkedList, ParkedRow
from gateway.server.parameters import DURABILITY, IDEMPOTENCY_KEY, LAST_EVENT_ID, PREFER, Header
from gateway.wire import requests
from gateway.wire.responses import AGENTS, API, AgentPage, PoolDeletion, PoolList, WorkerPage
from projector.queries.views import AgentRow, PoolRow

JSON: Final = "application/json"
LOWER_DURABILITY: Final = "It is done, but not at the level of durability asked for"


class Operation(Struct, frozen=True, kw_only=True):
    """One call. `responses`: status, what it means, and the shape of its body."""

    path: str
    method: str = "get"
    summary: str
    tag: str
    responses: tuple[tuple[int, str, Any], ...]
    problems: tuple[int, ...] = ()
    body: Any = None
    query: Any = None
    headers: tuple[Header, ...] = ()
    content_type: str = JSON
    public: bool = False

    @property
    def is_command(self) -> bool:
        """It writes, so its answers say which level of durability was reached."""
        return DURABILITY in self.headers


OPERATIONS: Final = (
    Operation(
        method="post",
        path=f"{AGENTS}/spawn",
        tag="agents",
        summary="Ask for an agent, and wait for it as long as `Prefer` says (5 s unless said)",
        body=requests.SpawnRequest,
        headers=(PREFER, IDEMPOTENCY_KEY, DURABILITY),
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
        responses=((200, "It has ended", AgentRow), (202, "It is ending", AgentRow)),
        problems=(404, 409, 413, 415, 422),
    ),
    Operation(
        path=AGENTS,
        tag="agents",
        summary="The registry, page by page",
        query=requests.AgentQuery,
        responses=((200, "A page", AgentPage),),
        problems=(410, 422),
    ),
    Operation(
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
        responses=((200, "It has ended", AgentRow), (202, "It is ending", AgentRow)),
        problems=(404, 409, 422),
    ),
    Operation(
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
        responses=((201, "It was created", PoolRow), (202, LOWER_DURABILITY, PoolRow)),
        problems=(409, 413, 415, 422),
    ),
    Operation(
        path=f"{AGENTS}/pools",
        tag="pools",
        summary="All pools and their capacity",
        query=requests.AsOfQuery,
        responses=((200, "The pools", PoolList),),
        problems=(410, 422),
    ),
    Operation(
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
        responses=((200, "It is gone", PoolDeletion), (202, "Its agents are ending", PoolDeletion)),
        problems=(404, 409, 422),
    ),
    Operation(
        path=f"{AGENTS}/workers",
        tag="pools",
        summary="The worker processes, page by page",
        query=requests.WorkerQuery,
        responses=((200, "A page", WorkerPage),),
        problems=(410, 422),
    ),
    Operation(
        path=f"{AGENTS}/monitor/system",
        tag="monitoring",
        summary="Figures of the whole system",
        responses=((200, "The figures", SystemFigures),),
    ),
    Operation(
        path=f"{AGENTS}/monitor/dashboard",
        tag="monitoring",
        summary="What the dashboard shows",
        responses=((200, "Pools, workers, hosts, decisions, alerts", Dashboard),),
    ),
    Operation(
        path=f"{AGENTS}/monitor/alerts",
        tag="monitoring",
        summary="What needs attention",
        responses=((200, "The alerts that apply now", AlertList),),
    ),
    Operation(
        path=f"{AGENTS}/health",
        tag="monitoring",
        summary="Health of the agents, by pool",
        query=requests.HealthQuery,
        responses=((200, "The agents' health", HealthReport),),
    ),
    Operation(
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
        summary="Restore it",
        body=requests.RetryRequest,
        responses=((200, "It was restored", ParkedRow),),
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
        path=f"{API}/events",
        tag="events",
        summary="Follow the log as server-sent events",
        query=requests.EventQuery,
        headers=(LAST_EVENT_ID,),
        responses=(
            (200, "One event a message; its `id` is the `Last-Event-ID` to resume with", FlatEvent),
        ),
        problems=(429,),
        content_type="text/event-stream",
    ),
    Operation(
        path="/healthz",
        tag="probes",
        summary="The process answers",
        responses=((200, "Alive", Alive),),
        public=True,
    ),
    Operation(
        path="/readyz",
        tag="probes",
        summary="It makes progress",
        responses=((200, "Ready", Readiness), (503, "Not ready, and why", Readiness)),
        public=True,
    ),
    Operation(
        path="/metrics",
        tag="monitoring",
        summary="Figures for Prometheus",
        responses=((200, "The text format", str),),
        content_type="text/plain",
    ),
    Operation(
        path="/openapi.json",
        tag="pages",
        summary="This document",
        responses=((200, "OpenAPI 3.1", dict[str, object]),),
    ),
    Operation(
        path="/",
        tag="pages",
        summary="The dashboard",
        responses=((200, "A page", str),),
        content_type="text/html",
        public=True,
    ),
    Operation(
        path="/docs",
        tag="pages",
        summary="This document, for reading",
        responses=((200, "A page", str),),
        content_type="text/html",
        public=True,
    ),
    Operation(
        path="/static/{name}",
        tag="pages",
        summary="What the pages load",
        responses=((200, "A style sheet, script or picture", str),),
        problems=(404,),
        content_type="*/*",
        public=True,
    ),
)
