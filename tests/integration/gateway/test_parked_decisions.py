"""How operators see what is parked, and decide on it: HTTP, alerts, the command line."""

import asyncio
import json
from urllib.parse import quote

from muster.__main__ import main
from tests.integration.gateway.parked_agents import BASE, PARKED, damage, decide, parked
from tests.integration.gateway.stage import AGENTS, logged
from tests.integration.projector.stage import POOL
from tests.metrics import scrape

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


async def test_what_the_previous_version_parked_is_listed_and_forgotten(stage, plain_redis):
    for method in ("POST", "DELETE"):
        for key, record in OLD.items():
            plain_redis.hset(f"{BASE}parked", key, json.dumps(record))
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
        assert plain_redis.xlen(f"{BASE}commands") == 0, "none is put back"
        assert (await decide(stage, method, found[0])).kind == "parked-not-found"


async def test_an_agent_that_the_previous_version_parked_is_put_back(stage, plain_redis):
    agent_id = await stage.pending()
    damage(plain_redis, agent_id, "field")
    assert await stage.pool.claim(await stage.worker()) == []
    key = f"agent:{agent_id}"
    record = json.loads(plain_redis.hget(f"{BASE}parked", key)) | {"content": ["incarnation", "x"]}
    plain_redis.hset(f"{BASE}parked", key, json.dumps(record))
    [one] = await parked(stage)
    assert (one["subject"], one["content"]["incarnation"]) == (agent_id, "x")
    assert (await decide(stage, "POST", one)).status == 200
    [claimed] = await stage.pool.claim(await stage.worker("w2"))
    assert claimed.agent.agent_id == agent_id


async def test_operators_get_an_alert(stage, plain_redis):
    damage(plain_redis, await stage.pending(), "field")
    await stage.pool.claim(await stage.worker())
    assert [(a["name"], a["pool_name"], a["severity"]) for a in await stage.alerts()] == [
        ("parked", POOL, "critical")
    ]
    assert (await stage.get(f"{AGENTS}/monitor/system")).json["parked"] == {POOL: 1}
    assert (await scrape(stage.projector.metrics))["muster_parked"] == {(POOL,): 1}
    assert (await stage.get(PARKED, params={"pool_name": "no_such"})).status == 404


async def test_a_name_of_nothing_parked_is_refused(stage, subtests):
    for name in ("x", f"{POOL}:agent:", f"{POOL}:what:ever", "a:agent:b"):
        with subtests.test(name):
            answer = await stage.ask("POST", f"{PARKED}/{quote(name, safe='')}/retry", json={})
            assert answer.status in (400, 404)


async def test_the_command_line_lists_retries_and_drops(stage, plain_redis, capsys):
    def run(*words: str) -> tuple[int, str]:
        code = main(["parked", *words, "--url", stage.gateway.url])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    async def muster(*words: str) -> tuple[int, str]:
        return await asyncio.to_thread(run, *words)

    capsys.readouterr()
    assert "nothing is parked" in (await muster())[1]
    agent_id, other = await stage.pending(), await stage.pending()
    damage(plain_redis, agent_id, "field")
    damage(plain_redis, other, "gone")
    fence = await stage.worker()
    assert await stage.pool.claim(fence) == []
    unreadable, missing = f"{POOL}:agent:{agent_id}", f"{POOL}:agent:{other}"
    code, out = await muster("list", "--pool", POOL)
    assert (code, unreadable in out, "there is no such agent" in out) == (0, True, True)
    async with logged():
        _, out = await muster("list", "--json")
    assert {one["id"] for one in json.loads(out)} == {unreadable, missing}
    code, out = await muster("retry", unreadable)
    assert (code, f"{unreadable} was restored" in out) == (0, True)
    [claimed] = await stage.pool.claim(fence)
    assert claimed.agent.agent_id == agent_id
    code, out = await muster("drop", missing, unreadable)
    assert (code, f"{missing} was ended" in out, "is not parked" in out) == (1, True, True)
    assert await parked(stage) == []
