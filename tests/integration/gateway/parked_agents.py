"""Agents that tests damage, and how operators decide on them."""

from typing import Any
from urllib.parse import quote

import redis

from projector.verify.verification import verify
from tests.integration.gateway.stage import Answer, GatewayStage
from tests.integration.projector.stage import POOL

PARKED = "/api/v1/parked"
BASE = f"pool:{{{POOL}}}:"


def damage(client: redis.Redis, agent_id: str, how: str) -> None:
    key = f"agent:{{{POOL}}}:{agent_id}"
    match how:
        case "field":
            client.hset(key, "incarnation", "x")
        case "status":
            client.hset(key, "status", "hibernating")
        case "gone":
            client.delete(key)
        case _:
            client.delete(key)
            client.set(key, "not a hash")


async def parked(stage: GatewayStage) -> list[dict[str, Any]]:
    """All that is listed as parked."""
    answer = await stage.get(PARKED)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["parked"]
    return found


async def decide(stage: GatewayStage, method: str, one: dict[str, Any]) -> Answer:
    """Put a parked agent back (POST), or end it (DELETE)."""
    path = f"{PARKED}/{quote(one['id'], safe='')}"
    if method == "POST":
        return await stage.ask("POST", f"{path}/retry", json={})
    return await stage.ask("DELETE", path)


async def assert_consistent(stage: GatewayStage) -> None:
    """Log, Redis and views agree."""
    await stage.stage.settle(POOL)
    report = await verify(stage.stage.redis_url, "", stage.stage.database_url)
    assert report.differences == []
