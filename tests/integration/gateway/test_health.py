"""What the gateway reports about itself: metrics, probes, and the ids of requests."""

import asyncio

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from eventstore.log import notices
from eventstore.log.notices import NAMES, _key
from tests.integration.gateway.stage import AGENTS
from tests.integration.projector.stage import POOL
from tests.waiting import timed, until

PROMISED = {
    "muster_agents",
    "muster_worker_slots_used",
    "muster_worker_slots_available",
    "muster_spawn_schedule_to_start_seconds",
    "muster_autoscaler_current_workers",
    "muster_autoscaler_desired_workers",
    "muster_stream_lag",
    "muster_stream_pending",
    "muster_stream_entries",
    "muster_stream_trimmed",
    "muster_projection_lag_seconds",
    "muster_loop_lag_seconds",
    "muster_restarts",
    "muster_fallback",
    "muster_fallback_can_end",
}
"""Families; the parser removes `_total` from a counter's name."""


async def test_metrics_are_readable_and_complete(stage):
    fence = await stage.worker()
    for _ in range(3):
        await stage.pending()
    [first, _] = await stage.run(fence, 2)
    await stage.get(f"{AGENTS}/{first}")
    answer = await stage.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(answer.body.decode())}
    assert families.keys() >= PROMISED

    def samples(name: str) -> dict[tuple[str, ...], float]:
        return {tuple(s.labels.values()): s.value for s in families[name].samples}

    assert samples("muster_agents") == {
        (POOL, "developer", "running"): 2,
        (POOL, "developer", "pending"): 1,
    }
    assert samples("muster_worker_slots_used") == {(POOL,): 2}
    assert samples("muster_worker_slots_available") == {(POOL,): 8}
    assert (samples("muster_stream_lag"), samples("muster_stream_pending")) == (
        {(POOL,): 1},
        {(POOL,): 0},
    )
    counts = families["muster_spawn_schedule_to_start_seconds"].samples
    assert [s.value for s in counts if s.name.endswith("_count")] == [2]
    labels = {label for f in families.values() for s in f.samples for label in s.labels}
    assert not labels & {"agent_id", "worker_id", "agent", "worker", "process_id"}
    assert first not in answer.body.decode()


async def test_a_pool_whose_keys_are_damaged_hides_no_figures_of_others(
    stage, plain_redis, monkeypatch
):
    monkeypatch.setattr("gateway.health.facts.POOLS_BATCH", 2)
    for name in ("damaged", "sound"):
        await stage.stage.pool(name)
    await until(lambda: "sound" in stage.backend.pools())
    for part in ("commands", "events", "parked"):
        plain_redis.delete(f"pool:{{damaged}}:{part}")
        plain_redis.set(f"pool:{{damaged}}:{part}", "neither stream nor hash")
    answer = (await stage.get("/metrics")).body.decode()
    for family in ("stream_lag", "stream_pending", "stream_entries", "parked"):
        for pool in (POOL, "sound"):
            assert f'muster_{family}{{pool="{pool}"}} 0' in answer
        assert f'muster_{family}{{pool="damaged"}}' not in answer


async def test_ready_and_alive(stage):
    alive = await stage.get("/healthz", headers={"Host": "10.0.0.1:8000"})
    assert (alive.status, alive.json) == (200, {"status": "alive"})
    await stage.stage.settle()
    ready = (await stage.get("/readyz")).json
    assert (ready["status"], ready["reasons"], ready["fallback"]) == ("ready", [], False)


async def test_readiness_is_answered_although_nothing_else_answers_or_can_be_read(
    stage, plain_redis, monkeypatch
):
    """A probe waits for a second, say, and takes a gateway that is late out of service."""
    for name in NAMES:
        plain_redis.set(_key(stage.log.keys, name), "what no projector writes")
    assert (await stage.get("/readyz")).json["warnings"] == []
    assert (await stage.get(f"{AGENTS}/monitor/alerts")).status == 200

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(stage.backend.views, "positions", silent)
    monkeypatch.setattr(notices, "read", silent)
    stage.backend.limits = replace(stage.backend.limits, probe_seconds=0.05)
    seconds, ready = await timed(stage.get("/readyz"))
    assert (ready.status, ready.json["reasons"], seconds < 1.0) == (200, [], True)
    [warning] = ready.json["warnings"]
    assert warning.startswith("reads are refused: ")


async def test_a_request_can_be_followed_into_the_log(stage):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-Id": "mine-2", "traceparent": trace, "Prefer": "wait=0"}
    body = {"project_id": "p", "role_type": "developer", "pool_name": POOL}
    await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=headers)
    await stage.stage.settle()
    [event] = await stage.stage.views.events(POOL)
    assert (event.correlation_id, event.traceparent) == ("mine-2", trace)
    assert event.actor == "http"
