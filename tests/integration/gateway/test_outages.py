"""What the gateway says when Redis or the database is unreachable, and when a reply is lost."""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

import aiohttp
import pytest

from eventstore.ids import new_id
from eventstore.language.agent_commands import Terminate
from eventstore.log.script_runner import script
from gateway.server.listener import Gateway
from gateway.wire.limiter import stop_accepting
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, logged, options
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until


async def _readiness(stage) -> int:
    return (await stage.get("/readyz")).status


async def _is_ready(stage) -> bool:
    return await _readiness(stage) == 200


async def _is_unready(stage) -> bool:
    return await _readiness(stage) == 503


async def test_without_redis_reads_go_on_and_writes_say_so(redis_server, tmp_path):
    """And all is well again, by itself, once Redis is back; each outage is one line."""
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
        alerts = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        assert "redis-unreachable" in [alert["name"] for alert in alerts]
        for path in ("monitor/system", "monitor/dashboard", "health", "pools"):
            assert (await stage.get(f"{AGENTS}/{path}")).status == 200
        assert 'muster_up{part="redis"} 0' in (await stage.get("/metrics")).body.decode()
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
            [alert] = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
            assert alert["name"] == "redis-unreachable"
            assert "MISCONF" in alert["message"]
        await until(lambda: _is_ready(stage))
        assert (await stage.spawn(prefer="respond-async")).status == 202


async def test_a_redis_that_hangs_does_not_hang_the_dashboard(redis_server, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.health.facts.REDIS_TIMEOUT_SECONDS", 0.5)
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
    """It was accepted, and Redis has dropped it since: its outcome is reported later."""
    limits = type(QUICK)(catch_up_seconds=0.1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        stage.backend.views_open = stopped != "database"
        first = await stage.spawn(key="k", prefer="respond-async")
        agent_id = first.json["agent_id"]
        await stage.log.act(POOL, agent_id, Terminate(), ORIGIN)
        await stage.log.client.delete(stage.log.keys.agent(POOL, agent_id))
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
        alerts = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        assert [alert["name"] for alert in alerts] == ["worker-lost"]
        dashboard = (await stage.get(f"{AGENTS}/monitor/dashboard")).json
        assert dashboard["alerts"] == alerts
        assert "worker.lost" in [event["type"] for event in dashboard["events"]]


async def test_a_clock_that_was_stepped_does_not_make_the_views_late(
    redis_url, tmp_path, monkeypatch
):
    """The time that an event waits for is log time, which is Redis' own."""
    monkeypatch.setattr("gateway.health.alerts.LAG_SECONDS", 60.0)
    limits = type(QUICK)(catch_up_seconds=0.1, ready_lag_seconds=60.0)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        await stage.projector.stop()
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 1)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert (await stage.get("/readyz")).json["reasons"] == []
        alerts = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        assert "projection-lag" not in [alert["name"] for alert in alerts]


async def test_without_a_database_agents_are_spawned_and_reads_say_so(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        stage.backend.views_open = False
        answer = await stage.spawn(prefer="wait=1")
        assert answer.status == 202
        assert answer.headers["Muster-Stale"] == "true"
        ended = await stage.ask("DELETE", f"{AGENTS}/{answer.json['agent_id']}")
        assert (ended.status, ended.json["status"]) == (200, "terminated")
        for path in (AGENTS, f"{AGENTS}/pools", f"{AGENTS}/monitor/dashboard"):
            refused = await stage.get(path)
            assert (refused.status, refused.kind) == (503, "views-unavailable")
        metrics = (await stage.get("/metrics")).body.decode()
        assert 'muster_up{part="views"} 0' in metrics


async def test_without_a_database_an_agent_that_only_it_may_know_is_not_denied(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        agent_id = await stage.pending()
        await stage.log.act(POOL, agent_id, Terminate(), ORIGIN)
        await stage.stage.settle(POOL)
        await stage.log.client.delete(stage.log.keys.agent(POOL, agent_id))
        stage.backend.views_open = False
        refused = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert (refused.status, refused.kind) == (503, "views-unavailable")
        stage.backend.views_open = True
        ended = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert (ended.status, ended.json["status"]) == (200, "terminated")


async def test_a_gateway_that_has_reached_nothing_yet_denies_nothing(redis_server, monkeypatch):
    """It knows no pool, so it has nowhere to look."""
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


STEPS = [script(name).digest.encode() for name in ("admit", "commit")]


class Proxy:
    """Is between the gateway and Redis, and can lose what Redis says to a step."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self.losing = 0
        self.ending = False
        """With the first reply that is lost all is over: nothing can be reached any more."""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_accepting(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        upstream, downstream = await asyncio.open_connection(*self._target)
        self._writers.append(downstream)
        written = asyncio.Event()
        for way in (
            self._there(reader, downstream, written),
            self._back(upstream, writer, written),
        ):
            self._tasks.add(asyncio.ensure_future(way))

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, written: asyncio.Event
    ) -> None:
        """Pass requests on, taking note of steps; whoever trims or renews is not meant."""
        while request := await reader.read(65_536):
            if any(step in request for step in STEPS):
                written.set()
            writer.write(request)
            await writer.drain()
        writer.close()

    async def _back(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, written: asyncio.Event
    ) -> None:
        """Pass replies on; one that is to be lost breaks the connection instead."""
        while reply := await upstream.read(65_536):
            if written.is_set() and self.losing:
                self.losing -= 1
                if self.ending:
                    self._server.close()
                    for each in self._writers:
                        each.close()
                writer.close()
                return
            written.clear()
            writer.write(reply)
            await writer.drain()
        writer.close()


@pytest.fixture
async def behind_proxy(redis_server, tmp_path):
    """A gateway that reaches Redis through a proxy; the rest of the stage does likewise."""
    server = redis_server()
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with Proxy(server.url) as proxy, gateway_stage(proxy.url, database) as stage:
        stage.stage.redis_url = server.url  # what happened is read past the proxy
        await stage.pending()  # the scripts are known to Redis from here on
        yield proxy, stage


async def test_a_spawn_whose_reply_was_lost_once_is_one_agent_and_no_repetition(behind_proxy):
    proxy, stage = behind_proxy
    proxy.losing = 1
    answer = await stage.spawn(prefer="wait=0")
    assert (answer.status, proxy.losing) == (202, 0)
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.json["agent_id"] in await stage.log.live(POOL)
    assert await stage.events() == ["agent.requested"] * 2


@pytest.mark.parametrize("key", ["", "mine"])
async def test_an_unknown_outcome_names_the_key_to_repeat(behind_proxy, key):
    """Asking again with that key answers what the first did."""
    proxy, stage = behind_proxy
    proxy.losing = 2
    unknown = await stage.spawn(prefer="wait=0", key=key)
    assert (unknown.status, unknown.kind) == (503, "outcome-unknown")
    named = unknown.json["idempotency_key"]
    assert named == key or not key
    again = await stage.spawn(prefer="wait=0", key=named)
    assert again.status == 202
    assert again.json["agent_id"] == unknown.json["agent_id"]
    assert await stage.events() == ["agent.requested"] * 2


async def test_an_end_whose_reply_was_lost_is_one_end(behind_proxy):
    proxy, stage = behind_proxy
    agent_id = await stage.pending()
    proxy.losing = 1
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.json["status"], proxy.losing) == (200, "terminated", 0)
    assert (await stage.events()).count("agent.terminated") == 1


async def test_an_end_whose_reply_was_lost_with_redis_itself_is_unknown(
    behind_proxy,
):
    """That nothing can be read afterwards does not mean that nothing was written."""
    proxy, stage = behind_proxy
    agent_id = await stage.pending()
    proxy.losing, proxy.ending = 1, True
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind, proxy.losing) == (503, "outcome-unknown", 0)
    assert (await stage.events()).count("agent.terminated") == 1
