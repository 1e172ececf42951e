"""Alerts as events: who writes them, when they open and close, and what an outage leaves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from eventstore.language.agent_commands import RequestRestart
from eventstore.language.alerts import AlertClosed, AlertEvent, AlertOpened
from eventstore.language.events import ENTRY_FIELDS
from eventstore.log.alerts import AlertLog, Lead, readable
from eventstore.steps import clauses
from gateway.server.listener import Gateway
from tests.conftest import MakeServer
from tests.integration.gateway.stage import (
    AGENTS,
    QUICK,
    GatewayStage,
    gateway_stage,
    logged,
    options,
)
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until

AT_ONCE = {"Prefer": "respond-async"}
OFTEN = replace(QUICK, alert_seconds=0.05, catch_up_seconds=0.5)

pytestmark = pytest.mark.usefixtures("frequent_probes")


@pytest.fixture
async def often(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway that decides often which alerts apply."""
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=OFTEN) as stage:
        yield stage


async def written(stage: GatewayStage, name: str) -> list[AlertEvent]:
    """What the stream has of one rule."""
    events = readable(await AlertLog(stage.log.client, stage.log.keys).after("0", count=1000))
    return [one for one in events if one.body.name == name]


async def opened(stage: GatewayStage, name: str) -> tuple[AlertEvent, AlertOpened]:
    """The event that opened it, once it was, and its body."""
    found: list[AlertEvent] = await until(lambda: written(stage, name))
    assert isinstance(found[0].body, AlertOpened)
    return found[0], found[0].body


async def closed(stage: GatewayStage, name: str) -> AlertClosed:
    """The event that closed it, once it was."""

    async def ends() -> list[AlertClosed]:
        bodies = [one.body for one in await written(stage, name)]
        return [body for body in bodies if isinstance(body, AlertClosed)]

    found: list[AlertClosed] = await until(ends)
    return found[0]


async def failed_agent(stage: GatewayStage) -> str:
    agent_id = await stage.pending()
    await stage.fail(await stage.worker())
    return agent_id


@asynccontextmanager
async def second_gateway(stage: GatewayStage) -> AsyncIterator[Gateway]:
    gateway = Gateway(options(stage.stage.redis_url, stage.stage.database_url, limits=OFTEN))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


async def test_an_alert_is_opened_and_closed_as_events(often: GatewayStage) -> None:
    agent_id = await failed_agent(often)
    event, body = await opened(often, "agent-failed")
    assert (body.subject, body.pool_name, body.severity) == (agent_id, POOL, "critical")
    assert (body.runbook, body.count) == ("docs/operations.md#agent-failed", 1)
    assert [case.subject for case in body.newest] == [agent_id]
    [shown] = await often.alerts("agent-failed")
    assert shown["alert_id"] == event.alert_id
    await often.ask("POST", f"{AGENTS}/{agent_id}/restart", headers=AT_ONCE)
    end = await closed(often, "agent-failed")
    assert (end.subject, end.opened_at) == (agent_id, body.opened_at)
    assert end.closed_at >= end.opened_at
    events = await written(often, "agent-failed")
    assert [(one.alert_id, one.body.type) for one in events] == [
        (event.alert_id, "alert.opened"),
        (event.alert_id, "alert.closed"),
    ]


async def test_an_entry_has_the_fields_of_all_events(
    often: GatewayStage, plain_redis: redis.Redis
) -> None:
    await failed_agent(often)
    await opened(often, "agent-failed")
    entries: Any = plain_redis.xrange("muster:alerts")
    _, fields = entries[0]
    assert [name.decode() for name in fields] == list(ENTRY_FIELDS)
    assert (fields[b"seq"], fields[b"version"]) == (b"1", b"1")


async def test_an_alert_that_is_over_is_listed_on_request(often: GatewayStage) -> None:
    agent_id = await failed_agent(often)
    event, body = await opened(often, "agent-failed")
    await often.ask("POST", f"{AGENTS}/{agent_id}/restart", headers=AT_ONCE)
    await closed(often, "agent-failed")

    await often.projector.stop()

    async def listed() -> list[dict[str, object]]:
        path = f"{AGENTS}/monitor/alerts?include_closed=true&pool_name={POOL}"
        found = (await often.get(path)).json["alerts"]
        return [one for one in found if one["closed_at"]]

    async with often.stage.projecting(alert_seconds=0.05):
        [alert] = await until(listed)
    assert (alert["alert_id"], alert["name"]) == (event.alert_id, "agent-failed")
    assert alert["message"] == body.message
    assert await often.alerts("agent-failed") == []


async def test_of_two_gateways_one_writes_and_the_other_goes_on(often: GatewayStage) -> None:
    """Also with what is open."""
    agent_id = await failed_agent(often)
    first, _ = await opened(often, "agent-failed")
    async with second_gateway(often) as other:
        backend = other._backend
        assert backend is not None
        await until(lambda: backend.ledger.open)
        [known] = backend.ledger.open.values()
        assert known.alert_id == first.alert_id
        await often.gateway.stop()
        await often.log.act(POOL, agent_id, RequestRestart(reason="r"), ORIGIN)
        await closed(often, "agent-failed")
        events = await written(often, "agent-failed")
        assert [one.alert_id for one in events] == [first.alert_id] * 2
        assert events[0].actor != events[1].actor


async def test_a_gateway_that_ended_without_a_word_is_followed_by_another(
    often: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await failed_agent(often)
    first, _ = await opened(often, "agent-failed")
    lead = AlertLog.lead

    async def without_release(self: AlertLog, term: int, **how: Any) -> Lead | None:
        return None if how.get("ends") else await lead(self, term, **how)

    monkeypatch.setattr(AlertLog, "lead", without_release)
    await often.gateway.stop()
    async with second_gateway(often):
        await often.pool.fence("w1")
        lost, _ = await opened(often, "worker-lost")
    assert lost.actor != first.actor
    assert len(await written(often, "agent-failed")) == 1


async def test_what_only_another_gateway_knows_is_an_alert_too(often: GatewayStage) -> None:
    async with second_gateway(often) as other:
        assert other._backend is not None
        other._backend.tail.stopped["some_pool"] = "entry 1-0: of a newer version"
        event, body = await opened(often, "tail-stopped")
        assert body.subject == "some_pool"
        [shown] = await often.alerts("tail-stopped")
        assert shown["alert_id"] == event.alert_id
        other._backend.tail.stopped.clear()
        await closed(often, "tail-stopped")


async def test_what_happened_while_redis_was_away_is_written_afterwards(
    redis_server: MakeServer, tmp_path: Path
) -> None:
    """With the times at which it was."""
    server = redis_server(appendfsync="always")
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(server.url, database, limits=OFTEN) as stage:
        await failed_agent(stage)
        before, _ = await opened(stage, "agent-failed")
        server.stop()
        await until(lambda: stage.alerts("redis-unreachable"))
        [still] = await stage.alerts("agent-failed")
        assert still["alert_id"] == before.alert_id
        await until(lambda: stage.backend.ledger.unwritten)
        server.start()
        end = await closed(stage, "redis-unreachable")
        [start, _] = await written(stage, "redis-unreachable")
        assert isinstance(start.body, AlertOpened)
        assert start.body.opened_at <= end.closed_at <= start.ts
        assert start.body.opened_at < start.ts
        assert len(await written(stage, "agent-failed")) == 1


async def test_without_a_database_alerts_are_answered_and_written(often: GatewayStage) -> None:
    agent_id = await failed_agent(often)
    await often.projector.stop()
    often.backend.views_error = "connection refused"
    _, body = await opened(often, "database-unreachable")
    assert "connection refused" in body.message
    [shown] = await often.alerts("agent-failed")
    assert shown["subject"] == agent_id
    answer = await often.get(f"{AGENTS}/monitor/alerts?include_closed=true")
    assert (answer.status, answer.kind) == (503, "views-unavailable")
    often.backend.views_error = ""
    await closed(often, "database-unreachable")


async def test_alerts_of_an_emptied_redis_are_written_again(
    often: GatewayStage, plain_redis: redis.Redis
) -> None:
    await failed_agent(often)
    first, _ = await opened(often, "agent-failed")
    plain_redis.flushall()
    again, _ = await opened(often, "agent-failed")
    assert again.alert_id == first.alert_id
    assert again.stream_id != first.stream_id


async def test_a_gateway_remembers_what_failed_before_it_started(often: GatewayStage) -> None:
    agent_id = await failed_agent(often)
    await often.stage.settle(POOL)
    async with second_gateway(often) as other:
        backend = other._backend
        assert backend is not None
        await until(lambda: backend.incidents.of(POOL, often.log.now_ms(POOL)).failed)
        found = backend.incidents.of(POOL, often.log.now_ms(POOL))
        assert list(found.failed) == [agent_id]


async def test_where_there_are_many_pools_only_those_with_news_are_asked_about(
    often: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of them now and then."""
    monkeypatch.setattr("gateway.health.alert_watch.POOLS_MAX", 0)
    await often.ask("PATCH", f"{AGENTS}/pools/{POOL}", json={"config": {"max_workers": 1}})
    fence = await often.worker(slots=1)
    await often.pending()
    await often.run(fence)
    waiting = await often.pending()
    await opened(often, "pool-at-maximum")
    await often.terminate(waiting)
    await closed(often, "pool-at-maximum")
    step = often.log.step(POOL, ORIGIN)  # of which no event says anything
    step.write(clauses.SetMeta("blocked", "role-not-declared: x"))
    await often.log.commit(step)
    assert not await written(often, "role-unavailable")
    monkeypatch.setattr("gateway.health.alert_watch.SWEEP_SECONDS", 0.0)
    await opened(often, "role-unavailable")


async def test_a_login_that_may_not_use_their_keys_answers_alerts_and_says_so_once(
    redis_server: MakeServer, tmp_path: Path
) -> None:
    """As with the access list of an earlier version: all else goes on."""
    server = redis_server()
    keys = ("pool", "agent", "state", "process", "muster:catalogue", "{muster:catalogue}")
    allowed = [f"~{one}{end}" for one in keys for end in ("", ":*")]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "old", "on", ">p", "+@all", *allowed)
    url = f"redis://old:p@127.0.0.1:{server.port}/0"
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(url, database, limits=OFTEN) as stage:
        agent_id = await failed_agent(stage)
        await stage.stage.settle(POOL)
        [alert] = await stage.alerts("agent-failed")
        assert alert["subject"] == agent_id
        await until(lambda: stage.backend.ledger.open)
        names = [line["event"] for line in lines]
        assert names.count("gateway.alerts_not_written") == 1
        assert names.count("alert.not_stored") == 1
    [refused] = [line for line in lines if line["event"] == "gateway.alerts_not_written"]
    assert "muster:alerts" in refused["reason"]
