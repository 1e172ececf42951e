"""What the gateway reports about itself: the document, metrics, alerts, pages, probes."""

import re
import time
from typing import Any

import msgspec
import pytest
import redis
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from eventstore.language.agent_commands import Fail
from eventstore.language.events import Error
from eventstore.language.pool_config import RestartPolicy
from eventstore.retention import Retention
from gateway.fallback import HandoverFailure, HandoverFailures
from gateway.health.alerts import _redis
from gateway.health.facts import RedisFacts
from gateway.server.listener import Gateway
from gateway.server.routes import application
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, options
from tests.integration.projector.stage import POOL
from tests.waiting import until

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
"""Families; the parser takes `_total` off a counter's name."""


@pytest.fixture
async def stage(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as shown:
        yield shown


# ---- metrics ---------------------------------------------------------------------------------


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


# ---- alerts ----------------------------------------------------------------------------------


async def _alerts(stage) -> dict[str, Any]:
    found = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
    return {alert["name"]: alert for alert in found}


async def test_nothing_is_alarming_at_rest(stage):
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


async def test_an_entry_that_is_no_event_stops_no_reader(stage):
    """An entry that was added by hand to an empty stream."""
    await stage.stage.pool("empty")
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        client.xadd("pool:{empty}:events", {"hello": "world"})
    await until(lambda: "empty" in stage.backend.tail.stopped)
    for path in ("/metrics", f"{AGENTS}/monitor/dashboard", f"{AGENTS}/monitor/system"):
        assert (await stage.get(path)).status == 200
    found = await _alerts(stage)
    assert {"projection-stopped", "tail-stopped"} <= found.keys()
    assert "muster recover" not in found["projection-stopped"]["action"], "nothing was lost"


async def test_clients_do_not_wait_for_views_that_do_not_move(stage):
    await stage.stage.pool("empty")
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        client.xadd("pool:{empty}:events", {"hello": "world"})

    async def stopped() -> bool:
        found = (await stage.stage.views.positions()).get("empty")
        return found is not None and found.status != "ok"

    await until(stopped)
    await stage.pending(pool_name="empty")
    started = time.monotonic()
    answer = await stage.get(AGENTS)
    assert (answer.status, answer.headers["Muster-Stale"]) == (200, "true")
    assert time.monotonic() - started < QUICK.catch_up_seconds / 2


async def test_an_entry_that_is_no_event_blinds_no_gateway_that_starts_behind_it(stage):
    await stage.stage.pool("empty")
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        client.xadd("pool:{empty}:events", {"hello": "world"})
    other = Gateway(options(stage.stage.redis_url, stage.stage.database_url))
    await other.start()
    try:
        assert other._backend is not None
        tail = other._backend.tail
        assert (tail.following, tail.error, list(tail.stopped)) == (True, "", ["empty"])
        await stage.pending()
        await until(lambda: tail.heads[POOL].seq == 1)
    finally:
        await other.stop()


async def test_views_that_stay_behind_are_an_alert_and_not_ready(redis_url, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.health.alerts.LAG_SECONDS", 0.05)
    limits = type(QUICK)(catch_up_seconds=0.05, ready_lag_seconds=0.05)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        await stage.pending()

        async def behind() -> bool:
            return "projection-lag" in await _alerts(stage)

        await until(behind)
        ready = await stage.get("/readyz")
        assert ready.status == 503
        assert f"the views of {POOL} are" in ready.json["reasons"][0]


@pytest.mark.parametrize("too", ["many", "old"])
async def test_events_that_pile_up_in_redis_are_an_alert(redis_url, tmp_path, monkeypatch, too):
    """Nothing leaves that is not archived: without a projector Redis runs out of memory."""
    monkeypatch.setattr("gateway.health.alerts.UNTRIMMED_EVENTS_MARGIN", 2)
    monkeypatch.setattr("gateway.health.alerts.UNTRIMMED_AGE_MARGIN_MS", 0)
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
        metrics = (await stage.get("/metrics")).body.decode().splitlines()
        assert f'muster_stream_entries{{pool="{POOL}"}} 1' in metrics
        assert f'muster_stream_trimmed_total{{pool="{POOL}"}} 7' in metrics


async def test_a_redis_without_a_limit_is_compared_with_its_machine() -> None:
    facts = RedisFacts(reachable=True, memory_used=90, memory_system=100)
    [alert] = _redis(facts)
    assert (alert.name, "90% of the machine's memory" in alert.message) == ("redis-memory", True)
    assert not list(_redis(replace(facts, memory_used=70)))
    assert not list(_redis(replace(facts, memory_limit=1000)))


async def test_a_redis_near_its_memory_limit_is_an_alert(redis_server, tmp_path):
    server = redis_server()
    async with gateway_stage(server.url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        used = (await stage.get(f"{AGENTS}/monitor/system")).json["redis"]["memory_used"]
        assert "redis-memory" not in await _alerts(stage)
        with server.client() as client:
            client.config_set("maxmemory", int(used * 1.15))
        assert (await _alerts(stage))["redis-memory"]["severity"] == "critical"


# ---- the document ----------------------------------------------------------------------------


async def test_the_document_describes_every_route_and_nothing_else(stage):
    document = (await stage.get("/openapi.json")).json
    described = {(m.upper(), path) for path, ops in document["paths"].items() for m in ops}
    resources = application(stage.backend).router.resources()
    served = {(route.method, resource.canonical) for resource in resources for route in resource}
    assert described == {(method, path) for method, path in served if method != "HEAD"}


async def test_the_document_holds_together(stage):
    """Every reference leads somewhere, every part of a path is declared, no name comes twice."""
    document = (await stage.get("/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in _references(document)} <= schemas.keys()
    names = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert all("description" in answer for answer in operation["responses"].values())
            assert all(p["in"] in {"path", "query", "header"} for p in operation["parameters"])
    assert len(names) == len(set(names))


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


async def test_an_answer_has_the_shape_that_the_document_says(stage):
    agent_id = await stage.pending()
    document = (await stage.get("/openapi.json")).json
    schemas = document["components"]["schemas"]
    found = (await stage.get(f"{AGENTS}/{agent_id}")).json
    assert found.keys() == schemas["AgentRow"]["properties"].keys()
    pool = (await stage.get(f"{AGENTS}/pools/{POOL}")).json
    assert pool.keys() == schemas["PoolRow"]["properties"].keys()
    problem = await stage.ask("POST", f"{AGENTS}/spawn", json={})
    assert problem.json.keys() <= schemas["Body"]["properties"].keys()


# ---- pages and probes ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_runs_only_our_own_files(stage, path):
    """All that it loads comes from this server; nothing is inline, which the policy forbids."""
    page = await stage.get(path)
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    html = page.body.decode()
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
    assert loaded
    for name in loaded:
        assert (await stage.get(name)).status == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", html)


async def test_what_a_handover_left_is_an_alert_until_its_file_is_gone(redis_url, tmp_path):
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


MAKING_HTML = re.compile(
    rb"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser"
    rb"|createContextualFragment|javascript:"
)


async def test_what_the_pages_show_stays_text(stage):
    """Labels, errors and names of others are put in as text; no script makes HTML of a string."""
    for name in ("ask", "dashboard", "docs"):
        script = (await stage.get(f"/static/{name}.js")).body
        assert not MAKING_HTML.search(script)


async def test_every_answer_forbids_sniffing_and_framing_and_has_an_id(stage):
    for path in ("/", "/healthz", AGENTS, "/nowhere"):
        headers = (await stage.get(path, headers={"X-Request-Id": "mine-1"})).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Request-Id"] == "mine-1"


async def test_a_request_can_be_followed_into_the_log(stage):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-Id": "mine-2", "traceparent": trace, "Prefer": "wait=0"}
    body = {"project_id": "p", "role_type": "developer", "pool_name": POOL}
    await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=headers)
    await stage.stage.settle()
    [event] = await stage.stage.views.events(POOL)
    assert (event.correlation_id, event.traceparent) == ("mine-2", trace)
    assert event.actor == "http"


async def test_ready_and_alive(stage):
    alive = await stage.get("/healthz", headers={"Host": "10.0.0.1:8000"})
    assert (alive.status, alive.json) == (200, {"status": "alive"})
    await stage.stage.settle()
    ready = (await stage.get("/readyz")).json
    assert (ready["status"], ready["reasons"], ready["fallback"]) == ("ready", [], False)
