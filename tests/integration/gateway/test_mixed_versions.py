"""Old and new code at work at once: what is unknown is retained, or stops its reader."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
import redis

from eventstore.errors import LayoutTooNew
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Started
from eventstore.language.events import ENTRY_FIELDS
from eventstore.language.pool_config import PoolConfig, write_config
from gateway.server.listener import Gateway
from tests.integration.gateway.stage import AGENTS, logged, options
from tests.integration.projector.stage import POOL, open_stage
from tests.pools import open_pool, raw_events
from tests.waiting import until

BASE = f"pool:{{{POOL}}}:"


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def write(server: Any, stream: str, meta: str, **changes: str) -> int:
    """Append an entry as a newer version may; its seq."""
    seq = int(server.hincrby(meta, "seq", 1))
    fields = {
        **dict.fromkeys(ENTRY_FIELDS, ""),
        "version": "1",
        "seq": str(seq),
        "event_id": f"newer-{seq}",
        "ts": "1",
        "data": "{}",
        **changes,
    }
    server.xadd(stream, fields)
    return seq


# ---- what is retained ------------------------------------------------------------------------


async def test_fields_that_a_newer_version_put_into_hashes_stay(stage, server):
    agent_id = await stage.pending()
    agent, process = f"agent:{{{POOL}}}:{agent_id}", f"process:{{{POOL}}}:w1"
    server.hset(agent, "mood", "good")
    fence = await stage.worker()
    server.hset(process, "zone", "b")
    await stage.run(fence)
    assert (server.hget(agent, "mood"), server.hget(agent, "status")) == ("good", "running")
    await stage.end(agent_id, fence)
    assert (server.hget(agent, "mood"), server.hget(agent, "status")) == ("good", "terminated")
    assert server.hget(process, "zone") == "b"


async def test_fields_that_a_newer_version_put_into_an_event_stay_in_the_archive(stage, server):
    """The event is folded without them, and stored unchanged."""
    agent_id = await stage.pending()
    data = '{"reason":"requested","mood":"good"}'
    write(
        server,
        f"{BASE}events",
        f"{BASE}meta",
        type="agent.terminated",
        subject=agent_id,
        incarnation="1",
        data=data,
    )
    await stage.stage.settle(POOL)
    found = await stage.stage.views.events(POOL, subject=agent_id)
    assert found[-1].data == data
    row = await stage.stage.views.agent(agent_id)
    assert row is not None
    assert row.status == "terminated"


async def test_settings_of_a_pool_that_are_unknown_here_survive_a_change(redis_url, tmp_path):
    newer = {"colour": "red", "tiers": [1, 2]}
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        await stage.pool()
        with redis.Redis.from_url(redis_url, decode_responses=True) as server:
            write(
                server,
                "muster:catalogue",
                "{muster:catalogue}:meta",
                type="pool.changed",
                subject=POOL,
                data=msgspec.json.encode({"config": write_config(PoolConfig(), newer)}).decode(),
            )
            server.hincrby("{muster:catalogue}:meta", f"version:{POOL}", 1)
        changed = {"config": {"max_workers": 7}}
        database = f"sqlite:///{tmp_path / 'v.db'}"
        async with (
            stage.projecting(),
            gateway_beside(redis_url, database) as client,
            client.patch(f"{AGENTS}/pools/{POOL}", json=changed) as answer,
        ):
            assert answer.status == 200, await answer.text()
        config = msgspec.json.decode(catalogue(redis_url)[-1]["data"])["config"]
        assert {name: config[name] for name in (*newer, "max_workers")} == {
            **newer,
            "max_workers": 7,
        }
        row = await stage.views.pool(POOL)
        assert row is not None
        assert row.config["colour"] == "red"


def catalogue(url: str) -> list[dict[str, str]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return [fields for _, fields in client.xrange("muster:catalogue")]


@asynccontextmanager
async def gateway_beside(redis_url: str, database: str) -> AsyncIterator[aiohttp.ClientSession]:
    gateway = Gateway(options(redis_url, database))
    await gateway.start()
    try:
        async with aiohttp.ClientSession(gateway.url) as session:
            yield session
    finally:
        await gateway.stop()


# ---- what stops ------------------------------------------------------------------------------


async def test_a_newer_event_stops_the_gateways_tail_and_the_views_and_says_so(stage, server):
    """Nothing is skipped: what comes after it is not shown; other pools go on."""
    other = await stage.stage.pool("other")
    await stage.pending()
    async with logged() as lines:
        seq = write(server, f"{BASE}events", f"{BASE}meta", type="agent.started", version="2")
        await until(lambda: POOL in stage.backend.tail.stopped)
    why = stage.backend.tail.stopped[POOL]
    assert "'agent.started' version 2" in why
    assert "reads up to version 1; upgrade this gateway and restart it" in why
    assert [line["reason"] for line in lines if line["event"] == "gateway.tail_stopped"] == [why]

    async def halted() -> str:
        position = (await stage.stage.views.positions()).get(POOL)
        return position.status if position and position.status != "ok" else ""

    status = await until(halted)
    assert f"seq {seq} " in status
    assert "'agent.started' version 2" in status
    assert "run a projector of the version that wrote it, or newer" in status
    ready = await stage.get("/readyz")
    assert (ready.status, why in ready.json["warnings"]) == (200, True)
    found = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
    assert {alert["name"] for alert in found} == {"projection-stopped", "tail-stopped"}
    assert all(alert["severity"] == "critical" and alert["action"] for alert in found)
    head = stage.backend.tail.heads[POOL].seq
    await stage.pending()
    spawned = await other.spawn()
    await stage.stage.settle("other")
    assert await stage.stage.views.agent(spawned.agent_id) is not None
    assert stage.backend.tail.heads[POOL].seq == head == seq - 1
    assert raw_events(stage.stage.redis_url)[-1]["type"] == "agent.requested"


async def test_a_client_that_waits_for_an_agent_is_answered_when_the_tail_stops(stage, server):
    started = time.monotonic()
    spawning = asyncio.ensure_future(stage.spawn(prefer="wait=30"))
    await until(lambda: "agent.requested" in [e["type"] for e in raw_events(stage.stage.redis_url)])
    write(server, f"{BASE}events", f"{BASE}meta", type="agent.dreamt")
    answer = await spawning
    assert (answer.status, time.monotonic() - started < 20) == (202, True)


async def test_settings_out_of_their_range_stop_the_catalogues_views_only(stage, server):
    """A newer version may allow what this one does not."""
    server.hincrby("{muster:catalogue}:meta", f"version:{POOL}", 1)
    data = '{"config":{"max_workers":99999}}'
    keys = ("muster:catalogue", "{muster:catalogue}:meta")
    write(server, *keys, type="pool.changed", subject=POOL, data=data)

    async def halted() -> bool:
        status = (await stage.stage.views.positions())[CATALOGUE].status
        return status.startswith("contradiction") and "max_workers" in status

    await until(halted)
    why = stage.backend.tail.stopped[CATALOGUE]
    assert "'pool.changed' version 1: of developer_pool at seq" in why
    fence = await stage.worker()
    await stage.pool.spawn()
    [claimed] = await stage.claim(fence)
    await stage.act(claimed.agent.agent_id, Started(now_ms=stage.log.now_ms(POOL)), fence)
    assert await stage.stage.views.wait_for(POOL, await stage.stage.head(POOL), timeout_seconds=5)


async def test_keys_of_a_newer_layout_are_refused_by_every_script(redis_url, server):
    async with open_pool(redis_url) as pool:
        fence = await pool.worker("w")
        server.hset(f"{BASE}meta", "layout", "2")
        steps = (
            pool.spawn(),
            pool.claim(fence),
            pool.log.survey(POOL),
            pool.log.allocate_epoch(POOL),
            pool.log.lead(POOL, "h", 0),
        )
        for step in steps:
            with pytest.raises(
                LayoutTooNew, match="layout 2, this version of Muster knows up to 1"
            ):
                await step
        server.hset(f"{BASE}meta", "layout", "strange")
        with pytest.raises(LayoutTooNew):
            await pool.spawn()
