"""Callers with tokens of their own, and a service with something of theirs and of others."""

import json
from typing import Any
from urllib.parse import quote

import redis
from msgspec import Struct

from eventstore.language.agent_commands import Started
from eventstore.steps.step import Fence
from tests.integration.gateway.parked_agents import PARKED
from tests.integration.gateway.stage import AGENTS, TOKEN, Answer, GatewayStage
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN, TestPool

TOKENS = "/api/v1/tokens"
OTHER_POOL = "hidden_pool"
OWN_PROJECT, OTHER_PROJECT = "apollo", "hidden-project"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
"""The service's own token."""


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def new_token(stage: GatewayStage, name: str, *scopes: str, **fields: Any) -> dict[str, str]:
    """Create a token; the header of its holder."""
    body = {"name": name, "scopes": scopes, **fields}
    answer = await stage.ask("POST", TOKENS, json=body, headers=ADMIN)
    assert answer.status == 201, answer.body
    return bearer(answer.json["token"])


class World(Struct, frozen=True):
    """One pool, project, agent, worker and parked agent."""

    pool: str
    project: str
    agent: str
    worker: str
    parked: str
    token: str = "none"


UNKNOWN = World(
    pool="no_such_pool",
    project="no-such-project",
    agent="01900000-0000-7000-8000-00000000dead",
    worker="w-unknown",
    parked="no_such_pool:agent:01900000-0000-7000-8000-00000000dead",
)


async def populate(stage: GatewayStage, pool: str, project: str, worker: str) -> World:
    """A running agent on a worker, and another that is parked."""
    played = stage.pool if pool == POOL else TestPool(stage.log, pool)
    fence: Fence | None = None
    if pool != POOL:
        await stage.stage.catalogue.refresh()
        played = await stage.stage.pool(pool)
    fence = await played.worker(worker)
    submitted = await played.spawn(project=project)
    await played.claim(fence, 1)
    started = Started(now_ms=stage.log.now_ms(pool))
    await stage.log.act(pool, submitted.agent_id, started, ORIGIN, fence=fence)
    parked = await played.spawn(project=project)
    key = f"agent:{{{pool}}}:{parked.agent_id}"
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        client.hset(key, "incarnation", "x")
    body = {"pool_name": pool, "agent_id": parked.agent_id}
    answer = await stage.ask("POST", f"{AGENTS}/terminate", json=body, headers=ADMIN)
    assert answer.kind == "cannot-be-read", answer.body
    await stage.stage.settle(pool)
    listed = await stage.get(PARKED, headers=ADMIN)
    found = next(one for one in listed.json["parked"] if one["subject"] == parked.agent_id)
    return World(pool, project, submitted.agent_id, worker, found["id"])


def path_of(template: str, world: World) -> str:
    return template.format(
        agent_id=world.agent,
        pool_name=world.pool,
        worker_id=world.worker,
        project_id=world.project,
        parked_id=quote(world.parked, safe=""),
        token_name=world.token,
        name="ops",
        version="0",
        file="x.css",
        dead_id=quote(f"ops:{world.agent}", safe=""),
    )


def body_of(method: str, template: str, world: World) -> dict[str, Any] | None:
    """What a call sends, about these things; None: it has no body."""
    match template.removeprefix("/api/v1/"):
        case "agents/spawn":
            return {
                "pool_name": world.pool, "project_id": world.project, "role_type": "developer",
            }  # fmt: skip
        case "agents/terminate":
            return {"pool_name": world.pool, "agent_id": world.agent}
        case "agents/pools" if method == "POST":
            return {"pool_name": world.pool, "role_type": "developer"}
        case "agents/pools/{pool_name}" if method == "PATCH":
            return {"config": {"max_workers": 7}}
        case "agents/pools/{pool_name}/pause":
            return {"reason": "test"}
        case "agents/pools/{pool_name}/resume":
            return None
        case "tokens":
            return {"name": "made", "scopes": ["read"]} if method == "POST" else None
        case _:
            return {} if method == "POST" else None


async def call(
    stage: GatewayStage, route: str, world: World, headers: dict[str, str], query: str = ""
) -> Answer:
    """Call a route about these things, without waiting for their agents."""
    method, template = route.split(" ")
    body, sent = body_of(method, template, world), {**headers, "Prefer": "respond-async"}
    options: dict[str, Any] = {} if body is None else {"json": body}
    return await stage.ask(method, path_of(template, world) + query, headers=sent, **options)


def all_of(answer: Answer) -> str:
    """Everything that an answer says, in its headers, too."""
    return json.dumps(dict(answer.headers)) + answer.body.decode(errors="replace")
