"""Creating, changing and deleting pools over HTTP."""

import asyncio
from typing import Any

from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.replies import Outcome
from tests.integration.gateway.stage import AGENTS, gateway_stage, playing
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until

POOLS = f"{AGENTS}/pools"


async def test_a_pool_says_how_full_it_is(redis_url, database_url):
    """Fifteen agents in two workers of ten."""
    async with gateway_stage(redis_url, database_url) as stage:
        first, second = await stage.worker("w1"), await stage.worker("w2")
        for _ in range(15):
            await stage.pending()
        await stage.run(first, 10)
        await stage.run(second, 5)
        pool = (await stage.get(f"{POOLS}/{POOL}")).json
        assert {name: pool[name] for name in CAPACITY} == CAPACITY
        assert (await stage.get(POOLS)).json["pools"] == [pool]


CAPACITY = {
    "pool_name": POOL,
    "process_count": 2,
    "total_capacity": 20,
    "used_capacity": 15,
    "available_capacity": 5,
    "agent_count": 15,
    "utilization": 0.75,
    "active_worker_processes": 2,
}


async def test_a_pool_is_created_and_its_agents_are_followed_from_the_first(stage):
    body = {"pool_name": "tester_pool", "role_type": "tester", "config": {"max_workers": 3}}
    made = await stage.ask("POST", POOLS, json=body)
    assert made.status == 201, made.body
    assert made.headers["Location"] == f"{POOLS}/tester_pool"
    assert made.json["config"]["max_workers"] == 3
    assert made.json["config"]["agents_per_worker"] == 10
    assert (await stage.get(f"{POOLS}/tester_pool")).json == made.json
    spawn = stage.spawn(pool_name="tester_pool", role_type="tester")
    waiting = asyncio.ensure_future(spawn)
    await until(lambda: stage.events("tester_pool"))
    [agent_id] = await stage.log.live("tester_pool")
    await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (await waiting).kind == "agent-withdrawn"


async def test_a_pool_is_not_created_twice(stage):
    body = {"pool_name": POOL, "role_type": "developer"}
    answer = await stage.ask("POST", POOLS, json=body)
    assert (answer.status, answer.kind, answer.fields) == (409, "pool-exists", ["pool_name"])


async def test_only_the_settings_of_the_request_change(stage):
    path = f"{POOLS}/{POOL}"
    first = await stage.ask("PATCH", path, json={"config": {"max_workers": 7}})
    assert (first.status, first.json["config"]["max_workers"]) == (200, 7)
    changes = [{"config": {"min_workers": 1}}, {"config": {"drain_seconds": 3}}]
    merge = {"headers": {"Content-Type": "application/merge-patch+json"}}
    answers = await asyncio.gather(
        *(stage.ask("PATCH", path, json=change, **merge) for change in changes)
    )
    assert [answer.status for answer in answers] == [200, 200]
    config = (await stage.get(path)).json["config"]
    assert (config["max_workers"], config["min_workers"], config["drain_seconds"]) == (7, 1, 3.0)
    back = await stage.ask("PATCH", path, json={"config": {"max_workers": None}})
    assert back.json["config"]["max_workers"] == 100


async def test_what_needs_a_placer_is_refused_without_one(stage):
    path = f"{POOLS}/{POOL}"

    async def patch(**config):
        return await stage.ask("PATCH", path, json={"config": config})

    for name, value in (
        ("project_caps", {"demo": 3}),
        ("label_caps", {"tier=free": 3}),
        ("project_weights", {"*": 1}),
        ("anti_affinity", ["service"]),
        ("label_seconds", {"kind=chat": 60}),
    ):
        refused = await patch(**{name: value})
        assert (refused.status, refused.fields) == (400, ["config"])
        assert f"{name} need a placer" in refused.json["detail"]
    placed = await patch(placement="pack", project_caps={"demo": 3, "*": 0.0})
    assert (placed.status, placed.fields) == (400, ["config.project_caps[...]"])
    placed = await patch(placement="pack", project_caps={"demo": 3, "*": 1})
    assert placed.json["config"]["project_caps"] == {"demo": 3, "*": 1}
    assert (await patch(placement="pull")).status == 400, "the caps are still there"
    back = await patch(placement=None, project_caps=None)
    assert (back.status, back.json["config"]["placement"]) == (200, None)


async def test_a_pool_is_paused_with_a_reason_and_resumed(stage):
    path = f"{POOLS}/{POOL}"
    paused = await stage.ask("POST", f"{path}/pause", json={"reason": "the database moves"})
    assert (paused.status, paused.json["config"]["paused"]) == (200, "the database moves")
    resumed = await stage.ask("POST", f"{path}/resume")
    assert (resumed.status, resumed.json["config"]["paused"]) == (200, None)
    refused = await stage.ask("POST", f"{path}/pause", json={"reason": ""})
    assert (refused.status, refused.fields) == (400, ["reason"])
    refused = await stage.ask("POST", f"{path}/pause", json={})
    assert (refused.status, refused.fields) == (400, ["reason"])
    assert (await stage.ask("POST", f"{POOLS}/none/resume")).status == 404


async def test_an_empty_pool_is_deleted_and_accepts_no_more_spawns(stage):
    answer = await stage.ask("DELETE", f"{POOLS}/{POOL}")
    assert answer.json == {"pool_name": POOL, "status": "deleted", "agent_count": 0}
    assert (await stage.get(f"{POOLS}/{POOL}")).status == 404
    assert (await stage.get(POOLS)).json["pools"] == []
    spawned = await stage.spawn()
    assert (spawned.status, spawned.kind) == (404, "pool-not-found")
    assert (await stage.ask("DELETE", f"{POOLS}/{POOL}")).status == 404


async def test_a_pool_deleted_by_another_gateway_is_noticed_by_a_spawn(stage):
    """Its script reads what this gateway does not know yet."""
    await stage.stage.catalogue.close_pool(stage.pool.pool, ORIGIN, vacant=True)
    answer = await stage.spawn()
    assert (answer.status, answer.kind) == (409, "pool-closed")
    assert await stage.events() == []


async def test_a_pool_with_agents_is_deleted_only_by_force(stage):
    fence = await stage.worker()
    agent_id = await stage.pending()
    await stage.run(fence)
    await stage.pending()
    refused = await stage.ask("DELETE", f"{POOLS}/{POOL}")
    assert (refused.status, refused.kind) == (409, "pool-not-empty")
    assert "2 live agents" in refused.json["detail"]

    async def obey():
        await until(lambda: _stopping(stage))
        await stage.end(agent_id, fence)

    async with playing(obey):
        forced = await stage.ask("DELETE", f"{POOLS}/{POOL}?force=true")
    assert (forced.status, forced.json["agent_count"]) == (200, 0)
    assert await stage.log.live(POOL) == []
    listed = (await stage.get(f"{AGENTS}?include_ended=true")).json["agents"]
    assert {row["status"] for row in listed} == {"terminated"}


async def test_a_deletion_does_not_wait_for_ever(stage):
    fence = await stage.worker()
    agent_id = await stage.pending()
    await stage.run(fence)
    path, headers = f"{POOLS}/{POOL}?force=true", {"Prefer": "wait=0"}
    answer = await stage.ask("DELETE", path, headers=headers)
    assert answer.status == 202
    assert answer.json == {"pool_name": POOL, "status": "deleting", "agent_count": 1}
    again = await stage.terminate(agent_id, prefer="wait=0")
    assert (again.status, again.json["status"]) == (202, "stopping")


async def _stopping(stage) -> bool:
    return "agent.termination_requested" in await stage.events()


async def test_the_outcome_of_a_deletion_that_is_interrupted_is_unknown(stage, monkeypatch):
    """The pool is closed by then, and its leader deletes it."""
    close = CatalogueLog.close_pool

    async def close_and_disconnect(*args: Any, **options: Any) -> bool:
        closed = await close(*args, **options)
        stage.backend.redis_health.unreachable = True
        return closed

    monkeypatch.setattr(CatalogueLog, "close_pool", close_and_disconnect)
    interrupted = await stage.ask("DELETE", f"{POOLS}/{POOL}")
    assert (interrupted.status, interrupted.kind) == (503, "outcome-unknown")
    await until(lambda: not stage.backend.redis_health.unreachable)
    assert (await stage.spawn()).kind == "pool-closed"
    monkeypatch.undo()
    assert (await stage.ask("DELETE", f"{POOLS}/{POOL}")).status == 200


async def test_a_pool_created_again_accepts_spawns_again(stage):
    await stage.ask("DELETE", f"{POOLS}/{POOL}")
    body = {"pool_name": POOL, "role_type": "developer"}
    assert (await stage.ask("POST", POOLS, json=body)).status == 201
    assert await stage.pending()


async def _recreate(stage, role: str) -> None:
    """As another gateway: delete the pool and create it again, unknown to this one."""
    await stage.backend.tail.stop()
    catalogue = stage.stage.catalogue
    pool = (await catalogue.refresh()).live_pools()[POOL]
    assert await catalogue.close_pool(pool, ORIGIN, vacant=True)
    await catalogue.delete_pool(pool, ORIGIN, reason="requested")
    created = await catalogue.create_pool(POOL, role, PoolConfig(), ORIGIN)
    assert created.outcome is Outcome.DONE


async def test_a_pool_created_again_elsewhere_accepts_spawns_of_its_role_only(stage):
    await _recreate(stage, "tester")
    answer = await stage.spawn(prefer="respond-async")
    assert (answer.status, answer.kind) == (422, "role-mismatch")
    assert await stage.events() == []


async def test_an_agent_of_a_pool_created_elsewhere_is_found_before_its_creation_is_read(stage):
    """Also where the views do not know."""
    stage.backend.views_error = "it is gone"
    await stage.backend.tail.stop()
    elsewhere = await stage.stage.pool("elsewhere")
    agent_id = (await elsewhere.spawn()).agent_id
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.json["status"]) == (200, "terminated")
    assert answer.json["pool_name"] == "elsewhere"


async def test_a_pool_created_again_elsewhere_is_the_one_that_is_deleted(stage):
    await _recreate(stage, "developer")
    answer = await stage.ask("DELETE", f"{POOLS}/{POOL}")
    assert (answer.status, answer.json["status"]) == (200, "deleted")
    await stage.stage.catalogue.refresh()
    assert POOL not in stage.stage.catalogue.state.live_pools()
