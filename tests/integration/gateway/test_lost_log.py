"""A gateway whose log is lost: it refuses commands, reads on, and says what to do."""

import time
from typing import Any

import redis

from tests.integration.gateway.event_client import following
from tests.integration.gateway.stage import AGENTS, GatewayStage, another_gateway
from tests.integration.projector.recovering import recovered, rolled_back, wipe
from tests.integration.projector.stage import POOL
from tests.waiting import until


async def test_commands_are_refused_and_reads_go_on(hasty: GatewayStage, redis_url: str) -> None:
    fence = await hasty.worker()
    await hasty.pending()
    (agent_id,) = await hasty.run(fence)
    wipe(redis_url)
    refused = await hasty.spawn()
    assert (refused.status, refused.kind) == (503, "log-missing")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await hasty.terminate(agent_id)).status == 503
    found = await hasty.get(f"{AGENTS}/{agent_id}")
    assert (found.status, found.json["status"]) == (200, "running")

    async def all_stale() -> bool:
        """Once the projector has noticed; since when they are wrong is not known."""
        paths = ("", f"/{agent_id}", "/pools", f"/pools/{POOL}", "/workers")
        answers = [await hasty.get(f"{AGENTS}{path}") for path in paths]
        assert all("Muster-Age-Ms" not in answer.headers for answer in answers)
        return all(answer.headers.get("Muster-Stale") == "true" for answer in answers)

    await until(all_stale, timeout=10)


async def test_a_gateway_that_starts_on_an_emptied_redis_has_its_high_water_mark_from_the_archive(
    hasty: GatewayStage, redis_url: str
) -> None:
    """It must not accept spawns into a log that is older than the archive."""
    with rolled_back(redis_url):
        await hasty.pending()
        await hasty.stage.settle(POOL)
    async with another_gateway(hasty) as second:
        refused = await second.spawn()
        assert (refused.status, refused.kind) == (503, "log-rolled-back")


async def test_the_alert_of_a_lost_log_and_readyz_say_how_to_repair_it(
    hasty: GatewayStage, redis_url: str
) -> None:
    await hasty.pending()
    await hasty.stage.settle(POOL)
    wipe(redis_url)

    async def stopped() -> dict[str, Any] | None:
        alerts = await hasty.alerts("projection-stopped")
        return {alert["subject"]: alert for alert in alerts}.get(POOL)

    alert: Any = await until(stopped, timeout=10)
    assert alert["action"].startswith("`muster recover` rebuilds the log")
    assert 0 <= time.time() * 1000 - alert["since"] < 10_000
    again: Any = await stopped()
    assert again["since"] == alert["since"]
    ready = await hasty.get("/readyz")
    assert ready.status == 503, "no pool is left that takes commands"
    (reason,) = ready.json["reasons"]
    (warning,) = [one for one in ready.json["warnings"] if one.startswith(f"the views of {POOL}")]
    for text in (reason, warning):
        assert "missing: the log is gone" in text
        assert "`muster recover`" in text


async def test_a_client_that_comes_back_to_a_lost_log_misses_nothing_of_it(
    hasty: GatewayStage, redis_url: str
) -> None:
    """An event that it did not receive is in neither stream nor feed until the log is recovered."""
    await hasty.stage.pool("intact")
    await until(lambda: "intact" in hasty.backend.tail.positions)  # its creation was read
    async with following(hasty) as client:
        await hasty.pending()
        assert (await client.next())["type"] == "agent.requested"
        last = client.last
    missed = await hasty.pending()
    await hasty.stage.settle(POOL)
    await until(lambda: hasty.backend.tail.heads[POOL].seq == 2)
    with redis.Redis.from_url(redis_url) as plain:
        plain.delete(*plain.keys(f"*{{{POOL}}}*"))
    async with following(hasty, last=last) as client:
        body = {"config": {"max_workers": 3}}
        changed = await hasty.ask("PATCH", f"{AGENTS}/pools/intact", json=body)
        assert changed.status == 200
        assert (await client.next())["type"] == "pool.changed", "it gets events of other logs"
        await recovered(hasty.stage)
        events = await client.read(2)
        assert [event["type"] for event in events] == ["agent.requested", "log.recovered"]
        assert events[0]["subject"] == missed
