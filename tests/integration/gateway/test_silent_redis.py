"""A Redis that accepts and never answers: found out once, in the background, not by every call."""

import asyncio
import time

import pytest

from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, logged
from tests.integration.projector.stage import POOL
from tests.waiting import timed, until

AT_ONCE = 0.5
"""Seconds in which a gateway that knows Redis to be unreachable answers, on a busy machine too."""


@pytest.fixture
async def silenced(redis_server, tmp_path, monkeypatch, frequent_probes):
    """A gateway, an agent in its views, and the server that will be paused and resumed."""
    server = redis_server()
    limits = type(QUICK)(catch_up_seconds=2.0, wait_default=1.0)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(server.url, database, limits=limits) as stage:
        agent_id = await stage.pending()
        await stage.stage.settle()
        await until(lambda: stage.backend.tail.following)
        monkeypatch.setattr("gateway.backend.redis_health.PROBE_TIMEOUT_SECONDS", 0.5)
        try:
            yield stage, server, agent_id, lines
        finally:
            server.resume()


async def test_a_silent_redis_costs_one_wait_and_then_nothing(silenced):
    stage, server, agent_id, lines = silenced
    server.pause()
    paused = time.monotonic()
    seconds, unknown = await timed(stage.spawn(key="first"))
    assert (unknown.status, unknown.kind) == (503, "outcome-unknown")
    assert unknown.json["idempotency_key"] == "first"
    assert seconds < 5.0
    for asking, kind in (
        (stage.spawn(), "redis-unreachable"),
        (stage.ask("DELETE", f"{AGENTS}/{agent_id}"), "redis-unreachable"),
        (stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json={"config": {}}), "redis-unreachable"),
        (stage.spawn(pool_name="unheard-of"), "redis-unreachable"),
    ):
        seconds, refused = await timed(asking)
        assert (refused.status, refused.kind) == (503, kind)
        assert refused.headers["Retry-After"] == "2"
        assert "nothing was written" in refused.json["detail"]
        assert seconds < AT_ONCE
    for path in ("", f"/{agent_id}", "/pools", f"/pools/{POOL}", "/health", "/monitor/system",
                 "/monitor/dashboard", "/monitor/alerts"):  # fmt: skip
        seconds, read = await timed(stage.get(f"{AGENTS}{path}"))
        assert (read.status, read.headers["Muster-Stale"]) == (200, "true")
        age = int(read.headers["Muster-Age-Ms"])
        assert 0 < age <= (time.monotonic() - paused) * 1000 + 6_000  # the tail's last check
        assert seconds < AT_ONCE
    server.resume()
    await until(lambda: not stage.backend.redis_health.unreachable)
    again = await until(lambda: _accepted(stage))
    assert again["agent_id"] == unknown.json["agent_id"]
    await until(lambda: _fresh(stage, agent_id))
    said = [line["event"] for line in lines]
    assert (said.count("gateway.redis_unreachable"), said.count("gateway.redis_reachable")) == (
        1,
        1,
    )
    assert "gateway.request_failed" not in said


async def _accepted(stage):
    answer = await stage.spawn(key="first", prefer="wait=0")
    return answer.json if answer.status == 202 else None


async def _fresh(stage, agent_id: str) -> bool:
    read = await stage.get(f"{AGENTS}/{agent_id}")
    return read.status == 200 and not {"Muster-Stale", "Muster-Age-Ms"} & read.headers.keys()


async def test_a_silent_redis_does_not_delay_answers_about_the_past(silenced, monkeypatch):
    """Nor does a clock that is behind make it the future."""
    stage, server, _, _ = silenced
    at = stage.backend.log.now_ms(POOL)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600_000_000_000)
    server.pause()
    await until(lambda: stage.backend.redis_health.unreachable)
    seconds, read = await timed(stage.get(f"{AGENTS}?as_of={at}"))
    assert (read.status, read.headers["Muster-Stale"]) == (200, "true")
    assert len(read.json["agents"]) == 1
    assert seconds < AT_ONCE


async def test_a_client_that_waits_for_an_agent_when_redis_goes_silent_is_still_answered(silenced):
    """The spawn was accepted before; what is known of it comes from the views, and says so."""
    stage, server, _, _ = silenced
    log = stage.backend.log
    generation, seq = log.acknowledged(POOL)
    asking = asyncio.ensure_future(stage.spawn(prefer="wait=30"))
    await until(lambda: log.acknowledged(POOL) == (generation, seq + 1))
    server.pause()
    await until(lambda: stage.backend.redis_health.unreachable)
    stage.backend.waiters.release()  # as where its time to wait is over
    answer = await asking
    assert (answer.status, answer.json["status"]) == (202, "pending")
    assert answer.headers["Muster-Stale"] == "true"
