"""Commands, heartbeats and events that Muster did not write: reported, and no obstacle."""

import time
from typing import Any

import redis

from tests.integration.gateway.parked_agents import BASE, assert_consistent, parked
from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage, another_gateway, logged
from tests.integration.projector.stage import POOL
from tests.waiting import until

UNKNOWN = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
FOREIGN: list[dict[Any, Any]] = [
    {"nonsense": "x"},
    {"type": "agent.spawn", "agent_id": UNKNOWN, "incarnation": "1", "reason": ""},
    {b"agent_id": b"\xff\xfe", b"incarnation": b"1", "type": "agent.spawn"},
]


async def test_foreign_commands_are_deleted_logged_and_counted(stage, plain_redis):
    """They delay no spawn, and their content is logged."""
    for fields in FOREIGN:
        plain_redis.xadd(f"{BASE}commands", fields)
    wanted = await stage.pending()
    fence = await stage.worker()
    async with logged() as lines:
        claimed = await stage.claim(fence, 1)
    assert [one.agent.agent_id for one in claimed] == [wanted]
    found = [line for line in lines if line["event"] == "command.foreign"]
    assert [(line["pool"], line["reason"]) for line in found] == [
        (POOL, "it is not a spawn command"),
        (POOL, "there is no such agent"),
        (POOL, "it is not a spawn command"),
    ]
    assert found[0]["content"] == {"nonsense": "x"}
    assert found[1]["content"]["agent_id"] == UNKNOWN
    assert plain_redis.hmget(f"{BASE}meta", "overlooked", "waiting") == [b"3", b"0"]
    assert plain_redis.xlen(f"{BASE}commands") == 1, "only the spawn that is not settled"
    assert await parked(stage) == []


async def test_a_command_for_an_agent_that_waits_no_longer_is_ignored(stage, plain_redis):
    fence = await stage.worker()
    agent_id = await stage.pending()
    await stage.run(fence)
    entry = {"type": "agent.spawn", "agent_id": agent_id, "incarnation": "1", "reason": ""}
    plain_redis.xadd(f"{BASE}commands", entry)
    assert await stage.pool.claim(fence, 1) == []
    assert await parked(stage) == []
    await assert_consistent(stage)


async def test_many_foreign_commands_are_counted_and_few_are_logged(stage, plain_redis):
    for _ in range(1010):
        plain_redis.xadd(f"{BASE}commands", FOREIGN[0])
    wanted = await stage.pending()
    fence = await stage.worker(slots=10)
    async with logged() as lines:
        claimed = await until(lambda: stage.pool.claim(fence, 10))
    assert [one.agent.agent_id for one in claimed] == [wanted]
    assert plain_redis.hget(f"{BASE}meta", "overlooked") == b"1010"
    assert [line["event"] for line in lines].count("command.foreign") == 10


async def test_heartbeats_that_cannot_be_read_are_logged_and_counted(stage, plain_redis):
    """One line per pool and minute; those that can be read are still read."""
    fence = await stage.worker()

    async def read() -> bool:
        return [row.loop_lag_ms for row in await stage.stage.views.workers(POOL)] == [7.0]

    async with logged() as lines:
        plain_redis.xadd(f"{BASE}heartbeats", {"hello": "world"})
        for data in (b"{]", b"{}}", b'{"agents":{},"loop_lag_ms":7.0,"agent_count":0}'):
            await stage.log._run_guarded(
                "renew", POOL, fence.worker_id, fence.epoch, "e", data, 60_000, "", 10, 0
            )
        await until(read)
    [line] = [line for line in lines if line["event"] == "heartbeat.unreadable"]
    assert (line["pool"], line["worker_id"], line["count"]) == (POOL, "", 1)
    assert line["reason"].startswith("event 'entry with other fields' version 0: ")
    assert await parked(stage) == []


async def _spoil(stage: GatewayStage, client: redis.Redis) -> None:
    """Add an entry that is no event to the empty stream of another pool."""
    await stage.stage.pool("empty")
    client.xadd("pool:{empty}:events", {"hello": "world"})


async def test_an_entry_that_is_no_event_stops_no_reader(stage, plain_redis):
    await _spoil(stage, plain_redis)
    await until(lambda: "empty" in stage.backend.tail.stopped)
    for path in ("/metrics", f"{AGENTS}/monitor/dashboard", f"{AGENTS}/monitor/system"):
        assert (await stage.get(path)).status == 200
    assert len(await stage.alerts("tail-stopped")) == 1
    [stopped] = await stage.alerts("projection-stopped")
    assert "muster recover" not in stopped["action"], "nothing was lost"


async def test_clients_do_not_wait_for_views_that_do_not_move(stage, plain_redis):
    await _spoil(stage, plain_redis)

    async def stopped() -> bool:
        found = (await stage.stage.views.positions()).get("empty")
        return found is not None and found.status != "ok"

    await until(stopped)
    await stage.pending(pool_name="empty")
    started = time.monotonic()
    answer = await stage.get(AGENTS)
    assert (answer.status, answer.headers["Muster-Stale"]) == (200, "true")
    assert time.monotonic() - started < QUICK.catch_up_seconds / 2


async def test_a_gateway_that_starts_behind_an_entry_that_is_no_event_follows_other_pools(
    stage, plain_redis
):
    await _spoil(stage, plain_redis)
    async with another_gateway(stage) as other:
        tail = other.backend.tail
        assert (tail.following, tail.error, list(tail.stopped)) == (True, "", ["empty"])
        await stage.pending()
        await until(lambda: tail.heads[POOL].seq == 1)
