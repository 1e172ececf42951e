"""What raises an alert, and what ends it."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.language.agent_commands import Fail
from eventstore.language.events import Error
from eventstore.language.restart_policy import RestartPolicy
from eventstore.retention import Retention
from gateway.fallback import HandoverFailure, HandoverFailures
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage
from tests.integration.projector.stage import POOL
from tests.waiting import until


async def _alerts(stage) -> dict[str, Any]:
    """By name."""
    return {alert["name"]: alert for alert in await stage.alerts()}


async def test_an_idle_pool_has_no_alerts(stage):
    await stage.worker()
    await stage.stage.settle()
    assert await _alerts(stage) == {}


async def test_a_pool_at_its_maximum_is_an_alert(stage):
    body = {"config": {"max_workers": 1}}
    await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=body)
    fence = await stage.worker(slots=1)
    await stage.pending()
    await stage.pending()
    await stage.run(fence)
    alert = (await _alerts(stage))["pool-at-maximum"]
    assert (alert["subject"], alert["severity"]) == (POOL, "warning")
    assert "1 spawns wait" in alert["message"]


async def test_a_lost_worker_and_a_failed_agent_are_alerts(stage):
    fence = await stage.worker()
    await stage.pending()
    [agent_id] = await stage.run(fence)
    error = Error(type="ValueError", message="no", traceback="")
    policy = RestartPolicy(limit=0)
    now = stage.log.now_ms(POOL)
    crash = Fail(during="run", error=error, now_ms=now, policy=policy)
    await stage.act(agent_id, crash, fence)
    await stage.pool.fence("w1")
    await stage.stage.settle()
    found = await _alerts(stage)
    assert found.keys() == {"agent-failed", "worker-lost"}
    assert (found["agent-failed"]["subject"], found["worker-lost"]["subject"]) == (agent_id, "w1")
    assert all(alert["since"] and alert["action"] for alert in found.values())


async def test_views_that_stay_behind_are_an_alert_and_a_warning_of_a_ready_gateway(
    redis_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("gateway.alerts.conditions.LAG_SECONDS", 0.05)
    limits = type(QUICK)(catch_up_seconds=0.05, ready_lag_seconds=0.05)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        await stage.pending()

        async def behind() -> bool:
            return "projection-lag" in await _alerts(stage)

        await until(behind)
        ready = await stage.get("/readyz")
        assert (ready.status, ready.json["reasons"]) == (200, [])
        assert f"the views of {POOL} are" in ready.json["warnings"][0]


@pytest.mark.parametrize("too", ["many", "old"])
async def test_events_that_pile_up_in_redis_are_an_alert(redis_url, tmp_path, monkeypatch, too):
    """Nothing is trimmed that is not archived: without a projector Redis runs out of memory."""
    monkeypatch.setattr("gateway.alerts.conditions.UNTRIMMED_EVENTS_MARGIN", 2)
    monkeypatch.setattr("gateway.alerts.conditions.UNTRIMMED_AGE_MARGIN_MS", 0)
    retention = Retention(events=3, age_ms=10**14) if too == "many" else Retention(age_ms=1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, retention=retention) as stage:
        await stage.pending()
        assert "stream-not-trimmed" not in await _alerts(stage)
        for _ in range(6):
            await stage.pending()

        async def alert() -> Any:
            return (await _alerts(stage)).get("stream-not-trimmed")

        found = await until(alert)
        assert (found["subject"], found["severity"]) == (POOL, "warning")
        assert found["message"].startswith("7 events are in Redis")
        await stage.projector.stop()
        await stage.pending()
        brief = stage.stage.projecting(retention=replace(retention, events=1), trim_seconds=0.02)
        async with brief:

            async def over() -> bool:
                return "stream-not-trimmed" not in await _alerts(stage)

            await until(over)


async def test_a_redis_near_its_memory_limit_is_an_alert(redis_server, tmp_path):
    server = redis_server()
    async with gateway_stage(server.url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        used = (await stage.get(f"{AGENTS}/monitor/system")).json["redis"]["memory_used"]
        assert "redis-memory" not in await _alerts(stage)
        with server.client() as client:
            client.config_set("maxmemory", int(used * 1.15))

        async def alert() -> Any:
            return (await _alerts(stage)).get("redis-memory")

        assert (await until(alert))["severity"] == "critical"


async def test_failures_of_a_handover_are_an_alert_until_their_file_is_removed(redis_url, tmp_path):
    path = tmp_path / "fallback-leftovers.json"
    left = [
        HandoverFailure(reason="no such pool", pool_name="p", agent_id=f"a{n}") for n in range(5)
    ]
    path.write_bytes(msgspec.json.encode(HandoverFailures(since_ms=7, left=left, report="r")))
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, handover_failures_path=str(path)) as stage:
        found = (await _alerts(stage))["fallback-left-over"]
        assert (found["severity"], found["since"]) == ("critical", 7)
        assert "agent a0 of pool 'p': no such pool" in found["message"]
        assert "and 2 more" in found["message"]
        assert str(path) in found["action"]
        path.unlink()
        assert "fallback-left-over" not in await _alerts(stage)
