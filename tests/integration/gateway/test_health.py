"""What the gateway reports about itself: metrics, probes, and the ids of requests."""

import asyncio

from msgspec.structs import replace

from eventstore.ids import new_id
from eventstore.log import notices
from eventstore.log.notices import NAMES, _key
from tests.integration.gateway.stage import AGENTS, GatewayStage, another_gateway
from tests.integration.projector.stage import POOL
from tests.metrics import Samples, read, scrape, total
from tests.waiting import timed


async def scraped(stage: GatewayStage) -> Samples:
    answer = await stage.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(answer.body.decode())


async def test_a_gateway_reports_what_happened_to_it_and_no_state_of_the_system(stage):
    fence = await stage.worker()
    await stage.pending()
    [first] = await stage.run(fence)
    await stage.get(f"{AGENTS}/{first}")
    assert (await stage.spawn(pool_name="nowhere")).kind == "pool-not-found"
    samples = await scraped(stage)
    assert set(samples) == {
        "muster_up",
        "muster_fallback",
        "muster_fallback_can_end",
        "muster_commands_total",
        "muster_commands_refused_total",
        "muster_http_requests_total",
        "muster_http_request_seconds_count",
        "muster_http_request_seconds_sum",
        "muster_append_seconds_count",
        "muster_append_seconds_sum",
        "muster_loop_lag_seconds_count",
        "muster_loop_lag_seconds_sum",
    }
    assert samples["muster_up"] == {("redis",): 1, ("views",): 1}
    spawn, agent = f"{AGENTS}/spawn", f"{AGENTS}/{{agent_id}}"
    assert samples["muster_http_requests_total"]["POST", spawn, "202"] == 1
    assert samples["muster_http_request_seconds_count"]["GET", agent, "2xx"] == 1
    assert samples["muster_http_request_seconds_count"]["POST", spawn, "4xx"] == 1
    assert samples["muster_commands_refused_total"] == {("pool-not-found", spawn): 1}
    assert first not in (await stage.get("/metrics")).body.decode()


async def test_a_read_that_fails_is_no_refused_command(stage):
    assert (await stage.get(f"{AGENTS}/{new_id()}")).status == 404
    assert "muster_commands_refused_total" not in await scraped(stage)


async def test_of_two_gateways_sums_are_right(stage):
    """What used to be said by each gateway is said once, by the projector."""
    async with another_gateway(stage) as other:
        fence = await stage.worker()
        for one in (stage, stage, other):
            await one.pending()
        await stage.run(fence, 2)
        everything = [await scraped(stage), await scraped(other)]
        everything.append(await scrape(stage.projector.metrics))
    assert total("muster_agents", *everything) == 3
    assert total("muster_spawns_total", *everything) == 3
    assert total("muster_spawn_schedule_to_start_seconds_count", *everything) == 2
    assert total("muster_worker_slots_used", *everything) == 2
    assert total("muster_commands_total", *everything) == 3
    spawned = [
        value
        for samples in everything
        for labels, value in samples.get("muster_http_requests_total", {}).items()
        if f"{AGENTS}/spawn" in labels
    ]
    assert sorted(spawned) == [1, 2]


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
