"""An agent that cannot be read is parked, blocks no other, and is put back or ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from msgspec.structs import replace

from eventstore.language.agent_commands import Started
from eventstore.log import parked as parking
from muster.__main__ import main
from projector.verify.verification import verify
from tests.integration.gateway.stage import AGENTS, GatewayStage, gateway_stage, logged
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until

PARKED = "/api/v1/parked"
BASE = f"pool:{{{POOL}}}:"
UNKNOWN = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        yield stage


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def parked(stage: GatewayStage) -> list[dict[str, Any]]:
    answer = await stage.get(PARKED)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["parked"]
    return found


async def decide(stage: GatewayStage, method: str, one: dict[str, Any]) -> Any:
    path = f"{PARKED}/{quote(one['id'], safe='')}"
    if method == "POST":
        return await stage.ask("POST", f"{path}/retry", json={})
    return await stage.ask("DELETE", path)


async def all_agree(stage: GatewayStage) -> None:
    await stage.stage.settle(POOL)
    report = await verify(stage.stage.redis_url, "", stage.stage.database_url)
    assert report.differences == []


# ---- commands --------------------------------------------------------------------------------

JUNK: list[dict[Any, Any]] = [
    {"nonsense": "x"},
    {"type": "agent.spawn", "agent_id": UNKNOWN, "incarnation": "1", "reason": ""},
    {b"agent_id": b"\xff\xfe", b"incarnation": b"1", "type": "agent.spawn"},
]


async def test_foreign_commands_are_deleted_logged_and_counted(stage, server):
    """They hold up no spawn, and what was in them is in the log."""
    for fields in JUNK:
        server.xadd(f"{BASE}commands", fields)
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
    assert server.hmget(f"{BASE}meta", "overlooked", "waiting") == [b"3", b"0"]
    assert server.xlen(f"{BASE}commands") == 1, "only the spawn that is not settled"
    assert await parked(stage) == []


async def test_an_entry_for_an_agent_that_waits_no_more_is_no_poison(stage, server):
    fence = await stage.worker()
    agent_id = await stage.pending()
    await stage.run(fence)
    entry = {"type": "agent.spawn", "agent_id": agent_id, "incarnation": "1", "reason": ""}
    server.xadd(f"{BASE}commands", entry)
    assert await stage.pool.claim(fence, 1) == []
    assert await parked(stage) == []
    await all_agree(stage)


async def test_many_foreign_commands_are_counted_and_few_are_logged(stage, server):
    for _ in range(1010):
        server.xadd(f"{BASE}commands", JUNK[0])
    wanted = await stage.pending()
    fence = await stage.worker(slots=10)
    async with logged() as lines:
        claimed = await until(lambda: stage.pool.claim(fence, 10))
    assert [one.agent.agent_id for one in claimed] == [wanted]
    assert server.hget(f"{BASE}meta", "overlooked") == b"1010"
    assert [line["event"] for line in lines].count("command.foreign") == 10


# ---- what the previous version parked --------------------------------------------------------

OLD = {
    "command:1-0": {
        "source": "command",
        "subject": "1-0",
        "reason": "it is not a spawn command",
        "at_ms": 1,
        "content": ["nonsense", "\u00ff"],
    },
    "heartbeat:w": {
        "source": "heartbeat",
        "subject": "w",
        "reason": "a heartbeat at 2-0: it is none",
        "at_ms": 2,
        "content": ["not json"],
    },
    "worker:w": {
        "source": "worker",
        "subject": "w",
        "reason": "its hash has no field 'reason'",
        "at_ms": 3,
        "content": ["status", "active"],
    },
}


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_what_the_previous_version_parked_is_listed_and_forgotten(stage, server, method):
    for key, record in OLD.items():
        server.hset(f"{BASE}parked", key, json.dumps(record))
    found = await parked(stage)
    assert [one["id"] for one in found] == [f"{POOL}:{key}" for key in OLD]
    assert [one["content"] for one in found] == [
        {"nonsense": "\u00ff"},
        {"data": "not json"},
        {"status": "active"},
    ]
    for one in found:
        assert (await decide(stage, method, one)).status == 200
    assert await parked(stage) == []
    assert server.xlen(f"{BASE}commands") == 0, "none is put back"
    assert (await decide(stage, method, found[0])).kind == "parked-not-found"


async def test_an_agent_that_the_previous_version_parked_is_put_back(stage, server):
    agent_id = await stage.pending()
    damage(server, agent_id, "field")
    assert await stage.pool.claim(await stage.worker()) == []
    key = f"agent:{agent_id}"
    record = json.loads(server.hget(f"{BASE}parked", key)) | {"content": ["incarnation", "x"]}
    server.hset(f"{BASE}parked", key, json.dumps(record))
    [one] = await parked(stage)
    assert (one["subject"], one["content"]["incarnation"]) == (agent_id, "x")
    assert (await decide(stage, "POST", one)).status == 200
    [claimed] = await stage.pool.claim(await stage.worker("w2"))
    assert claimed.agent.agent_id == agent_id


# ---- agents ----------------------------------------------------------------------------------


def damage(server: Any, agent_id: str, how: str) -> None:
    key = f"agent:{{{POOL}}}:{agent_id}"
    match how:
        case "field":
            server.hset(key, "incarnation", "x")
        case "status":
            server.hset(key, "status", "hibernating")
        case "gone":
            server.delete(key)
        case _:
            server.delete(key)
            server.set(key, "no hash")


HOW = ("field", "status", "gone", "type")


@pytest.mark.parametrize("how", HOW)
async def test_a_damaged_agent_is_parked_and_rebuilt_from_its_events(stage, server, how):
    damaged = await stage.pending(labels={"team": "core"}, input={"task": 1}, pending_timeout=600)
    sound = await stage.pending()
    damage(server, damaged, how)
    fence = await stage.worker()
    assert [claimed.agent.agent_id for claimed in await stage.claim(fence, 10)] == [sound]
    [one] = await parked(stage)
    assert (one["source"], one["subject"]) == ("agent", damaged)
    shown = {"field": "x", "status": "1"}.get(how)
    assert one["content"].get("incarnation") == shown, "what its hash holds now"
    assert (await decide(stage, "POST", one)).status == 200
    [claimed] = await stage.claim(fence, 10)
    assert claimed.agent.agent_id == damaged
    assert b'"task":1' in claimed.spec
    await stage.act(damaged, Started(), fence)
    await stage.act(sound, Started(), fence)
    assert await parked(stage) == []
    await all_agree(stage)


async def test_of_two_concurrent_decisions_one_is_written(stage, server):
    agent_id = await stage.pending()
    damage(server, agent_id, "field")
    assert await stage.pool.claim(await stage.worker()) == []
    [one] = await parking.read(stage.log, POOL)
    from_views = await stage.stage.views.agent_state(POOL, agent_id)
    decided = await asyncio.gather(
        parking.repair(stage.log, one, from_views, ORIGIN, drop=False),
        parking.repair(stage.log, one, from_views, ORIGIN, drop=True),
    )
    assert sorted(decided) == [False, True]


@pytest.mark.parametrize("how", ["field", "gone"])
async def test_a_dropped_agent_ends_with_its_reason(stage, server, how):
    agent_id = await stage.pending()
    damage(server, agent_id, how)
    fence = await stage.worker()
    assert await stage.pool.claim(fence) == []
    [one] = await parked(stage)
    assert (await decide(stage, "DELETE", one)).status == 200
    row = (await stage.get(f"{AGENTS}/{agent_id}")).json
    assert (row["status"], row["reason"]) == ("terminated", "dropped")
    assert await stage.log.live(POOL) == []
    await all_agree(stage)


@pytest.mark.parametrize("how", HOW)
async def test_a_running_agent_that_cannot_be_ended_is_parked_and_dropped(stage, server, how):
    """Its code runs: it is asked to end at once, and only then has ended."""
    agent_id = await stage.pending()
    fence = await stage.worker()
    await stage.run(fence)
    damage(server, agent_id, how)
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    [one] = await parked(stage)
    assert f"`muster parked retry {one['id']}`" in answer.json["detail"]
    assert f"agent {agent_id} is damaged" in answer.json["detail"]
    assert (await decide(stage, "DELETE", one)).status == 200
    state = await stage.log.agent(POOL, agent_id)
    assert (state.status, state.stop) == ("stopping", "now")
    await stage.end(agent_id, fence)
    await stage.stage.settle(POOL)
    row = (await stage.get(f"{AGENTS}/{agent_id}")).json
    assert (row["status"], row["reason"]) == ("terminated", "dropped")
    await all_agree(stage)


@pytest.mark.parametrize("stale", [False, True])
async def test_an_agent_whose_end_the_views_lack_is_not_reported_as_damaged(stage, server, stale):
    """Redis lets go of what has ended by itself, however late the views are."""
    agent_id = await stage.pending()
    fence = await stage.worker()
    await stage.run(fence)
    await _leave_behind(stage, stale)
    await stage.end(agent_id, fence)
    damage(server, agent_id, "gone")
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind) == (404, "agent-not-found")
    assert await parked(stage) == []


async def test_a_damaged_agent_is_parked_also_while_the_views_are_behind(stage, server):
    agent_id = await stage.pending()
    await stage.stage.settle(POOL)
    await _leave_behind(stage, stale=True)
    damage(server, agent_id, "gone")
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    assert [one["subject"] for one in await parked(stage)] == [agent_id]


async def _leave_behind(stage: GatewayStage, stale: bool) -> None:
    """Let the views stand still. `stale`: below what this gateway has acknowledged."""
    await stage.projector.stop()
    stage.backend.limits = replace(stage.backend.limits, catch_up_seconds=0.2)  # waited in vain
    if stale:
        await stage.pending()


# ---- heartbeats, and what operators see ------------------------------------------------------


async def test_heartbeats_that_cannot_be_read_are_logged_and_counted(stage, server):
    """One of a pool in a minute; those that can be read go on."""
    fence = await stage.worker()

    async def read() -> bool:
        return [row.loop_lag_ms for row in await stage.stage.views.workers(POOL)] == [7.0]

    async with logged() as lines:
        server.xadd(f"{BASE}heartbeats", {"hello": "world"})
        for data in (b"{]", b"{}}", b'{"agents":{},"loop_lag_ms":7.0,"agent_count":0}'):
            await stage.log._run_guarded(
                "renew", POOL, fence.worker_id, fence.epoch, "e", data, 60_000
            )
        await until(read)
    [line] = [line for line in lines if line["event"] == "heartbeat.unreadable"]
    assert (line["pool"], line["worker_id"], line["count"]) == (POOL, "", 1)
    assert line["reason"].startswith("event 'entry with other fields' version 0: ")
    assert await parked(stage) == []


async def test_operators_get_an_alert(stage, server):
    damage(server, await stage.pending(), "field")
    await stage.pool.claim(await stage.worker())
    alerts = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
    assert [(a["name"], a["pool_name"], a["severity"]) for a in alerts] == [
        ("parked", POOL, "critical")
    ]
    assert (await stage.get(f"{AGENTS}/monitor/system")).json["parked"] == {POOL: 1}
    assert f'muster_parked{{pool="{POOL}"}} 1' in (await stage.get("/metrics")).body.decode()
    assert (await stage.get(PARKED, params={"pool_name": "no_such"})).status == 404


async def test_what_is_waited_for_in_vain_is_parked_when_it_is_to_end(stage, server):
    """And can be terminated once it was put back."""
    agent_id = await stage.pending()
    damage(server, agent_id, "status")
    ending = {"pool_name": POOL, "agent_id": agent_id}
    answer = await stage.ask("POST", f"{AGENTS}/terminate", json=ending)
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    assert "'hibernating'" in answer.json["detail"]
    [one] = await parked(stage)
    assert (await decide(stage, "POST", one)).status == 200
    answer = await stage.ask("POST", f"{AGENTS}/terminate", json=ending)
    assert (answer.status, answer.json["status"]) == (200, "terminated")
    await all_agree(stage)


@pytest.mark.parametrize(
    ("path", "method"), [(f"{AGENTS}/terminate", "post"), (f"{AGENTS}/{{agent_id}}", "delete")]
)
async def test_the_document_says_that_an_agent_may_not_be_ended(stage, path, method):
    document = (await stage.get("/openapi.json")).json
    assert "409" in document["paths"][path][method]["responses"]


async def test_a_pool_with_a_damaged_agent_says_why_it_is_not_deleted(stage, server):
    agent_id = await stage.pending()
    damage(server, agent_id, "field")
    answer = await stage.ask("DELETE", f"{AGENTS}/pools/{POOL}?force=true")
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    [one] = await parked(stage)
    assert one["id"] in answer.json["detail"]


@pytest.mark.parametrize("name", ["x", f"{POOL}:agent:", f"{POOL}:what:ever", "a:agent:b"])
async def test_a_name_of_nothing_is_refused(stage, name):
    answer = await stage.ask("POST", f"{PARKED}/{quote(name, safe='')}/retry", json={})
    assert answer.status in (400, 404)


async def test_the_command_line_lists_retries_and_drops(stage, server, capsys):
    def run(*words: str) -> tuple[int, str]:
        code = main(["parked", *words, "--url", stage.gateway.url])
        said = capsys.readouterr()
        return code, said.out + said.err

    async def muster(*words: str) -> tuple[int, str]:
        return await asyncio.to_thread(run, *words)

    capsys.readouterr()
    assert "nothing is parked" in (await muster())[1]
    agent_id, other = await stage.pending(), await stage.pending()
    damage(server, agent_id, "field")
    damage(server, other, "gone")
    fence = await stage.worker()
    assert await stage.pool.claim(fence) == []
    agent, gone = f"{POOL}:agent:{agent_id}", f"{POOL}:agent:{other}"
    code, said = await muster("list", "--pool", POOL)
    assert (code, agent in said, "there is no such agent" in said) == (0, True, True)
    async with logged():
        _, said = await muster("list", "--json")
    assert {one["id"] for one in json.loads(said)} == {agent, gone}
    code, said = await muster("retry", agent)
    assert (code, f"{agent} was restored" in said) == (0, True)
    [claimed] = await stage.pool.claim(fence)
    assert claimed.agent.agent_id == agent_id
    code, said = await muster("drop", gone, agent)
    assert (code, f"{gone} was ended" in said, "is not parked" in said) == (1, True, True)
    assert await parked(stage) == []
