"""What the gateway says when Redis or the database is unreachable."""

import asyncio
import time

import aiohttp
import pytest

from eventstore.ids import new_id
from eventstore.language.agent_commands import Terminate
from gateway.server.listener import Gateway
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, logged, options
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("frequent_probes")


async def _is_ready(stage) -> bool:
    return (await stage.get("/readyz")).status == 200


async def _is_unready(stage) -> bool:
    return (await stage.get("/readyz")).status == 503


async def test_without_redis_reads_go_on_and_writes_say_so(redis_server, tmp_path):
    """It works again by itself once Redis is back; each outage is one line."""
    server = redis_server(appendfsync="always")
    limits = type(QUICK)(catch_up_seconds=0.1, wait_default=1.0)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(server.url, database, limits=limits) as stage:
        agent_id = await stage.pending()
        await stage.stage.settle()
        await until(lambda: _is_ready(stage))
        server.stop()
        await until(lambda: _is_unready(stage))
        reasons = (await stage.get("/readyz")).json["reasons"]
        assert reasons == ["the log is not being followed: Redis does not answer"]
        assert (await stage.get("/healthz")).status == 200
        read = await stage.get(f"{AGENTS}/{agent_id}")
        assert (read.status, read.json["status"]) == (200, "pending")
        refused = await stage.spawn()
        assert (refused.status, refused.kind) == (503, "redis-unreachable")
        assert refused.headers["Retry-After"] == "2"
        assert await stage.alerts("redis-unreachable")
        for path in ("monitor/system", "monitor/dashboard", "health", "pools"):
            assert (await stage.get(f"{AGENTS}/{path}")).status == 200
        assert 'muster_up{part="redis"} 0.0' in (await stage.get("/metrics")).body.decode()
        server.start()
        await until(lambda: _is_ready(stage))
        assert (await stage.spawn(prefer="respond-async")).status == 202
        assert sorted(await stage.events()) == ["agent.requested"] * 2
    assert [line["event"] for line in lines].count("gateway.tail_lost") == 1


async def test_a_redis_that_cannot_write_to_its_disk_says_why(redis_server, tmp_path):
    """As with a full disk: it answers, and refuses everything."""
    server = redis_server()
    async with gateway_stage(server.url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        await until(lambda: _is_ready(stage))
        with server.unwritable():
            await until(lambda: stage.backend.redis_health.unreachable)
            refused = await stage.spawn()
            assert (refused.status, refused.kind) == (503, "redis-unreachable")
            assert refused.headers["Retry-After"] == "2"
            assert "MISCONF" in refused.json["detail"]
            [alert] = await stage.alerts("redis-unreachable")
            assert "MISCONF" in alert["message"]
        await until(lambda: _is_ready(stage))
        assert (await stage.spawn(prefer="respond-async")).status == 202


async def test_a_redis_that_hangs_does_not_hang_the_dashboard(redis_server, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.health.facts.REDIS_TIMEOUT_SECONDS", 0.1)
    server = redis_server()
    async with gateway_stage(server.url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        server.pause()
        try:
            answer = await asyncio.wait_for(stage.get(f"{AGENTS}/monitor/dashboard"), 10)
        finally:
            server.resume()
        assert answer.status == 200
        assert "redis-unreachable" in [alert["name"] for alert in answer.json["alerts"]]


@pytest.mark.parametrize("stopped", ["projector", "database"])
async def test_a_repeated_spawn_is_not_denied_by_views_that_do_not_know_it(
    redis_url, tmp_path, stopped
):
    """It was accepted, and Redis has forgotten it since: its outcome is reported later."""
    limits = type(QUICK)(catch_up_seconds=0.1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        stage.backend.views_error = "it is gone" if stopped == "database" else ""
        first = await stage.spawn(key="k", prefer="respond-async")
        agent_id = first.json["agent_id"]
        await stage.log.act(POOL, agent_id, Terminate(), ORIGIN)
        await stage.log.client.execute_command("DEL", stage.log.keys.agent(POOL, agent_id))
        again = await stage.spawn(key="k")
        assert (again.status, again.kind) == (503, "outcome-unknown")
        assert again.json["agent_id"] == agent_id


async def test_a_clock_that_was_stepped_hides_no_alert(redis_url, tmp_path, monkeypatch):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        await stage.worker()
        await stage.pool.fence("w1")
        await stage.stage.settle(POOL)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 7200)
        alerts = await stage.alerts()
        assert {alert["name"] for alert in alerts} == {"worker-lost", "clock-differs"}
        dashboard = (await stage.get(f"{AGENTS}/monitor/dashboard")).json
        assert dashboard["alerts"] == alerts
        assert "worker.lost" in [event["type"] for event in dashboard["events"]]


async def test_a_clock_that_was_stepped_does_not_make_the_views_late(
    redis_url, tmp_path, monkeypatch
):
    """The time that an event waits for is log time, which is Redis' own."""
    monkeypatch.setattr("gateway.alerts.conditions.LAG_SECONDS", 60.0)
    limits = type(QUICK)(catch_up_seconds=0.1, ready_lag_seconds=60.0)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 1)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert (await stage.get("/readyz")).json["reasons"] == []
        assert not await stage.alerts("projection-lag")


async def test_without_a_database_agents_are_spawned_and_reads_say_so(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        stage.backend.views_error = "it is gone"
        answer = await stage.spawn(prefer="wait=1")
        assert answer.status == 202
        assert answer.headers["Muster-Stale"] == "true"
        ended = await stage.ask("DELETE", f"{AGENTS}/{answer.json['agent_id']}")
        assert (ended.status, ended.json["status"]) == (200, "terminated")
        for path in (AGENTS, f"{AGENTS}/pools", f"{AGENTS}/monitor/dashboard"):
            refused = await stage.get(path)
            assert (refused.status, refused.kind) == (503, "views-unavailable")
        metrics = (await stage.get("/metrics")).body.decode()
        assert 'muster_up{part="views"} 0.0' in metrics


async def test_without_a_database_an_agent_that_only_it_may_know_is_not_denied(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        agent_id = await stage.pending()
        await stage.log.act(POOL, agent_id, Terminate(), ORIGIN)
        await stage.stage.settle(POOL)
        await stage.log.client.execute_command("DEL", stage.log.keys.agent(POOL, agent_id))
        stage.backend.views_error = "it is gone"
        refused = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert (refused.status, refused.kind) == (503, "views-unavailable")
        stage.backend.views_error = ""
        ended = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert (ended.status, ended.json["status"]) == (200, "terminated")


async def test_a_gateway_that_has_reached_nothing_yet_denies_nothing(redis_server, monkeypatch):
    """It knows no pool, so it cannot say that something does not exist."""
    monkeypatch.setattr("gateway.server.listener.TAIL_SECONDS", 0.0)
    monkeypatch.setattr("gateway.server.listener.VIEWS_SECONDS", 0.0)
    server = redis_server()
    server.stop()
    gateway = Gateway(options(server.url, "postgresql://user@127.0.0.1:1/nothing"))
    await gateway.start()
    try:
        async with aiohttp.ClientSession(gateway.url) as session:
            for method, path in (("DELETE", f"{AGENTS}/{new_id()}"), ("GET", "/api/v1/parked")):
                async with session.request(method, path) as answer:
                    problem = await answer.json(content_type=None)
                assert (answer.status, problem["type"]) == (503, "redis-unreachable")
    finally:
        await gateway.stop()
