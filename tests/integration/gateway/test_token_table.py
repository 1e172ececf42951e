"""Every route for every scope, and about what is foreign to a token: one table, made here.

A route that is added must be added here, too, with what it needs.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.server.routes import OPERATIONS
from tests.integration.gateway.stage import TOKEN, Answer, GatewayStage, gateway_stage
from tests.integration.gateway.token_callers import (
    OTHER_POOL,
    OTHER_PROJECT,
    OWN_PROJECT,
    UNKNOWN,
    World,
    all_of,
    call,
    new_token,
    populate,
)
from tests.integration.projector.stage import POOL

SCOPES = ("read", "spawn", "operate", "admin")
TABLE = {
    "POST /api/v1/agents/spawn": ("spawn", "agent"),
    "POST /api/v1/agents/terminate": ("spawn", "agent"),
    "GET /api/v1/agents": ("read", "agents"),
    "GET /api/v1/agents/{agent_id}": ("read", "agent"),
    "DELETE /api/v1/agents/{agent_id}": ("spawn", "agent"),
    "POST /api/v1/agents/{agent_id}/restart": ("operate", "agent"),
    "GET /api/v1/agents/{agent_id}/explain": ("read", "agent"),
    "GET /api/v1/agents/project/{project_id}": ("read", "project"),
    "POST /api/v1/agents/pools": ("admin", "pool"),
    "GET /api/v1/agents/pools": ("read", "pools"),
    "GET /api/v1/agents/pools/{pool_name}": ("read", "pool"),
    "PATCH /api/v1/agents/pools/{pool_name}": ("admin", "pool"),
    "DELETE /api/v1/agents/pools/{pool_name}": ("admin", "pool"),
    "POST /api/v1/agents/pools/{pool_name}/pause": ("operate", "pool"),
    "POST /api/v1/agents/pools/{pool_name}/resume": ("operate", "pool"),
    "POST /api/v1/agents/pools/{pool_name}/replace": ("operate", "pool"),
    "POST /api/v1/agents/pools/{pool_name}/replace/cancel": ("operate", "pool"),
    "GET /api/v1/agents/pools/{pool_name}/explain": ("read", "pool"),
    "GET /api/v1/agents/pools/{pool_name}/history": ("read", "pool"),
    "GET /api/v1/agents/pools/{pool_name}/plan": ("read", "pool"),
    "POST /api/v1/agents/pools/{pool_name}/consolidate": ("operate", "pool"),
    "GET /api/v1/agents/workers": ("read", "pools"),
    "GET /api/v1/agents/workers/{worker_id}": ("read", "worker"),
    "GET /api/v1/agents/workers/{worker_id}/explain": ("read", "worker"),
    "POST /api/v1/agents/workers/{worker_id}/cordon": ("operate", "worker"),
    "POST /api/v1/agents/workers/{worker_id}/uncordon": ("operate", "worker"),
    "POST /api/v1/agents/workers/{worker_id}/drain": ("operate", "worker"),
    "GET /api/v1/agents/monitor/system": ("read", "service"),
    "GET /api/v1/agents/monitor/dashboard": ("read", "pools"),
    "GET /api/v1/agents/monitor/live": ("read", "pools"),
    "GET /api/v1/agents/monitor/alerts": ("read", "pools"),
    "GET /api/v1/agents/usage": ("read", "usage"),
    "GET /api/v1/agents/health": ("read", "agents"),
    "GET /api/v1/parked": ("read", "pools"),
    "POST /api/v1/parked/{parked_id}/retry": ("operate", "pool"),
    "DELETE /api/v1/parked/{parked_id}": ("operate", "pool"),
    "GET /api/v1/tokens": ("admin", "service"),
    "POST /api/v1/tokens": ("admin", "service"),
    "POST /api/v1/tokens/{token_name}/rotate": ("admin", "service"),
    "DELETE /api/v1/tokens/{token_name}": ("admin", "service"),
    **dict.fromkeys(
        (
            "GET /api/v1/webhooks",
            "POST /api/v1/webhooks",
            "PATCH /api/v1/webhooks/{name}",
            "DELETE /api/v1/webhooks/{name}",
            "POST /api/v1/webhooks/{name}/test",
            "GET /api/v1/webhooks/dead",
            "POST /api/v1/webhooks/dead/{dead_id}/retry",
            "DELETE /api/v1/webhooks/dead/{dead_id}",
        ),
        ("admin", "service"),
    ),
    "GET /api/v1/lookup": ("read", "agents"),
    "GET /api/v1/events": ("read", "agents"),
    "GET /metrics": ("read", "service"),
    "GET /openapi.json": ("read", "any"),
    **dict.fromkeys(
        (
            "GET /healthz",
            "GET /readyz",
            "GET /",
            "GET /docs",
            "GET /static/{version}/{file}",
            "GET /session",
            "POST /session",
            "DELETE /session",
        ),
        ("", "any"),
    ),
}
"""Scope, and what it is about. (A project is named; its agents may be in any pool.)"""
NEEDING = {route: needs for route, needs in TABLE.items() if needs[0]}
STREAM = "GET /api/v1/events"
STREAMS = (STREAM, "GET /api/v1/agents/monitor/live")
"""What does not end. (What the live feed shows to whom: `test_live.py`.)"""
QUERIES = {
    "pools": {
        "GET /api/v1/lookup": "?name={agent}",
        "GET /api/v1/agents": "?include_ended=true&pool_name={pool}",
        "GET /api/v1/agents/workers": "?include_ended=true&pool_name={pool}",
        "GET /api/v1/agents/health": "?pool_name={pool}",
        "GET /api/v1/parked": "?pool_name={pool}",
        "GET /api/v1/agents/monitor/alerts": "?pool_name={pool}&include_closed=true",
        "GET /api/v1/agents/usage": "?pool_name={pool}",
        STREAM: "?pool={pool}",
    },
    "projects": {
        "GET /api/v1/lookup": "?name={agent}",
        "GET /api/v1/agents": "?include_ended=true&project_id={project}",
        "GET /api/v1/agents/usage": "?project_id={project}",
    },
}
"""By limit: with which a list is asked about one thing."""


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, api_token=TOKEN) as opened:
        yield opened


def test_the_table_has_every_route_and_no_other() -> None:
    assert sorted(TABLE) == sorted(f"{op.method} {op.path}" for op in OPERATIONS)
    declared = {f"{op.method} {op.path}": op.needs.scope or "" for op in OPERATIONS}
    assert {route: scope for route, (scope, _) in TABLE.items()} == declared


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_scope_allows_its_routes_and_no_other(stage: GatewayStage, scope: str) -> None:
    """About what does not exist: what is allowed gets as far as that."""
    headers, found = await new_token(stage, "ci", scope), {}
    for route in NEEDING:
        if route in STREAMS and scope in ("read", "admin"):
            continue
        found[route] = (await call(stage, route, UNKNOWN, headers)).status != 403
    expected = {route: scope in (needs[0], "admin") for route, needs in NEEDING.items()}
    assert found == {route: expected[route] for route in found}


async def test_without_a_token_every_route_but_the_public_ones_is_refused(
    stage: GatewayStage,
) -> None:
    for headers in ({}, {"Authorization": "Bearer muster_wrong"}):
        for route, (scope, _) in TABLE.items():
            answer = await call(stage, route, UNKNOWN, headers)
            assert (answer.status == 401) is bool(scope), route


@pytest.fixture
async def worlds(stage: GatewayStage) -> tuple[World, World, World]:
    """Own things; those of a foreign pool; in the own pool those of a foreign project."""
    return (
        await populate(stage, POOL, OWN_PROJECT, "w-own"),
        await populate(stage, OTHER_POOL, OTHER_PROJECT, "w-hidden"),
        await populate(stage, POOL, OTHER_PROJECT, "w-shared"),
    )


FOREIGN = {
    "pools": {"agent", "pool", "worker"},
    "projects": {"agent", "pool", "worker", "project"},
}
"""By limit: about what a foreign call is answered as one about nothing."""


@pytest.mark.parametrize("limit", ["pools", "projects"])
async def test_what_is_foreign_is_answered_as_what_does_not_exist(
    stage: GatewayStage, worlds: tuple[World, World, World], limit: str
) -> None:
    """Word for word, by every route; and nothing changes."""
    own, of_pool, of_project = worlds
    foreign = of_pool if limit == "pools" else of_project
    own_names = {"pools": [POOL]} if limit == "pools" else {"projects": [OWN_PROJECT]}
    headers = await new_token(stage, "ci", "admin", **own_names)
    before = await stage.heads()
    for route, (_, about) in NEEDING.items():
        if route not in STREAMS:
            answer = await call(stage, route, foreign, headers)
        if about in FOREIGN[limit]:
            unknown = await call(stage, route, UNKNOWN, headers)
            assert (answer.status, route) == (404, route), answer.body
            assert nameless(answer, foreign) == nameless(unknown, UNKNOWN), route
        elif about == "service" or (about == "pools" and limit == "projects"):
            assert (answer.status, answer.kind) == (403, "forbidden"), route
        if query := QUERIES[limit].get(route):
            answer, unknown = [
                await call(stage, route, it, headers, named(query, it)) for it in (foreign, UNKNOWN)
            ]
            assert (answer.status, nameless(answer, foreign, named(query, foreign))) == (
                unknown.status, nameless(unknown, UNKNOWN, named(query, UNKNOWN)),
            ), route  # fmt: skip
    assert await stage.heads() == before
    assert own.agent != foreign.agent


def named(query: str, world: World) -> str:
    return query.format(agent=world.agent, pool=world.pool, project=world.project)


def nameless(answer: Answer, world: World, asked: str = "") -> str:
    """An answer without the names that were asked about (unless said, all of them)."""
    text = answer.body.decode()
    for name in (world.parked, world.agent, world.worker, world.pool, world.project):
        text = text.replace(name, "…") if name in (asked or name) else text
    return text


@pytest.mark.parametrize("limit", ["pools", "projects", "both"])
async def test_no_answer_shows_anything_foreign(
    stage: GatewayStage, worlds: tuple[World, World, World], limit: str
) -> None:
    """No list, no figure, no header, as of now and as of then; what is its own is there."""
    own, of_pool, of_project = worlds
    limits = {"pools": [POOL]} if limit != "projects" else {}
    limits |= {"projects": [OWN_PROJECT]} if limit != "pools" else {}
    headers = await new_token(stage, "ci", "read", **limits)
    hidden = [of_pool.agent, of_pool.worker]
    hidden += [OTHER_POOL] if limit != "projects" else []
    hidden += [of_project.agent, OTHER_PROJECT] if limit != "pools" else []
    then = f"?as_of={stage.log.now_ms(POOL) - 1}"
    names = (f"{OTHER_POOL[:-1]}x", of_pool.agent[-8:], of_project.agent[-8:])
    queries = [
        "",
        "?include_ended=true",
        "?by=pool&by=project&per=hour",
        then,
        *(f"?name={name}" for name in names),
    ]
    for route, (scope, about) in NEEDING.items():
        if scope != "read" or route in STREAMS:
            continue
        for query in queries:
            answer = await call(stage, route, own, headers, query)
            for name in hidden:
                assert name not in all_of(answer), (route, query, name)
            if answer.status == 200 and about == "agents" and not query:
                assert own.agent in answer.body.decode(), route


@pytest.mark.parametrize("limit", ["pools", "projects"])
async def test_the_event_stream_has_what_is_its_own_from_the_first_event_on(
    stage: GatewayStage, worlds: tuple[World, World, World], limit: str
) -> None:
    own, of_pool, of_project = worlds
    limits = {"pools": [POOL]} if limit == "pools" else {"projects": [OWN_PROJECT]}
    headers = await new_token(stage, "ci", "read", **limits)
    text = await stream(stage, headers, until=own.agent.encode())
    assert own.agent in text
    assert "agent.started" in text
    assert "token.created" not in text
    for name in [of_pool.agent, of_pool.worker]:
        assert name not in text
    if limit == "pools":
        assert OTHER_POOL not in text
        assert of_project.agent in text
        ids = {line[4:] for line in text.splitlines() if line.startswith("id: ")}
        assert not any(OTHER_POOL in decoded(cursor) for cursor in ids)
    else:
        assert of_project.agent not in text
        assert "worker." not in text
        assert OTHER_PROJECT not in text


def decoded(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode(errors="replace")


async def stream(stage: GatewayStage, headers: dict[str, str], *, until: bytes) -> str:
    """All that a client is sent of the past, and what it was sent of the present so far."""
    received = b""
    async with stage.session.get("/api/v1/events?after=0", headers=headers) as response:
        assert response.status == 200
        async with asyncio.timeout(10):
            while until not in received or b": waiting" not in received:
                received += await response.content.readany()
    return received.decode()
