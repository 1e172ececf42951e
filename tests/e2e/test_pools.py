"""Pools that scale, seen from outside."""

import asyncio
from pathlib import Path

import redis

from tests.chaos.judge import judge
from tests.e2e.system import POOL, System, only

PATIENTLY = {"Prefer": "wait=30"}


async def test_fifteen_spawns_fill_two_workers_and_run_again_after_a_stop(tmp_path: Path) -> None:
    """As a user sees it who has just cloned the repository: no configuration at all."""
    async with System(tmp_path) as system:
        spawned = [await system.spawn() for _ in range(15)]
        assert {agent["status"] for agent in spawned} == {"running"}
        found = await system.pool()
        names = (
            "pool_name", "process_count", "total_capacity", "used_capacity",
            "available_capacity", "agent_count", "utilization", "active_worker_processes",
        )  # fmt: skip
        assert [found[name] for name in names] == [POOL, 2, 20, 15, 5, 15, 0.75, 2]
        workers = await system.workers()
        assert len(workers) == 2
        assert all(worker.is_running() for worker in workers)
        system.verify()
        redis_cli(system)
        assert judge(system.redis_url, views=system.views()) == []
        assert await system.stop() == 0
        await system.start()
        await system.running(15)
        after = await system.agents()
        assert {agent["agent_id"] for agent in after} == {a["agent_id"] for a in spawned}
        assert {agent["incarnation"] for agent in after} == {2}
        system.verify()


def redis_cli(system: System) -> None:
    """What operators look at."""
    with redis.Redis.from_url(system.redis_url, decode_responses=True) as client:
        assert len(client.keys("agent:*")) == 15
        assert len(client.keys("process:*")) == 2
        scores = client.zrevrange(f"pool:{{{POOL}}}:processes", 0, -1, withscores=True)
        assert sorted(score for _, score in scores) == [0.0, 5.0]


async def test_a_hundred_at_once_are_ten_workers_and_nobody_twice(tmp_path: Path) -> None:
    async with System(tmp_path) as system:
        spawned = await asyncio.gather(*(system.spawn(wait=30) for _ in range(100)))
        ids = [agent["agent_id"] for agent in spawned]
        assert len(set(ids)) == 100
        assert {agent["status"] for agent in spawned} == {"running"}
        found = await system.pool()
        assert (found["process_count"], found["used_capacity"]) == (10, 100)
        offences = judge(system.redis_url, acknowledged=ids, views=system.views())
        assert offences == []


async def test_views_that_were_dropped_come_back_from_the_streams(tmp_path: Path) -> None:
    system = System(tmp_path)
    async with system:
        for _ in range(3):
            await system.spawn()
        await system.stop()
        for path in system.data.glob("views.db*"):
            path.unlink()
        await system.start()
        await system.running(3)
        system.verify()
        before = await registry(system)
        system.muster("replay")
        assert await registry(system) == before
        system.verify()


async def registry(system: System) -> list[dict[str, object]]:
    """All agents as the log tells them: without what heartbeats say, which moves on."""
    live = {"activity", "last_heartbeat"}
    return [
        {name: value for name, value in agent.items() if name not in live}
        for agent in await system.agents("limit=1000&include_ended=true")
    ]


async def test_a_single_process_runs_ten_of_a_pool(tmp_path: Path) -> None:
    async with System(tmp_path, "--single-process") as system:
        agents = [await system.spawn(wait=10 if n < 10 else 0) for n in range(12)]
        assert [a["status"] for a in agents] == ["running"] * 10 + ["pending"] * 2
        assert agents[-1]["reason"]
        assert [p.name() for p in system.family()] == ["valkey-server"]
        found = await system.pool()
        assert (found["process_count"], found["used_capacity"]) == (1, 10)
        ended = agents[0]["agent_id"]
        status, _ = await system.call("DELETE", f"/api/v1/agents/{ended}", headers=PATIENTLY)
        assert status == 200
        await system.is_status(agents[10]["agent_id"], "running")
        system.verify()


async def test_an_agent_class_of_ones_own(system: System) -> None:
    """With a dependency of its own; its prints are found; crashed, restarted, failed, ended."""
    good = await system.spawn()
    bad = await system.spawn(input={"crash": True})
    failed = await system.is_status(bad["agent_id"], "failed")
    assert (failed["incarnation"], failed["last_error"]["type"]) == (3, "ValueError")
    assert "as asked" in failed["last_error"]["message"]
    assert "acting.py" in failed["last_error"]["traceback"]
    assert "as asked" in system.muster("ps", bad["agent_id"]).stdout
    assert "hello from a dependency demo" in system.muster("logs", good["agent_id"]).stdout
    status, ended = await system.call(
        "POST",
        "/api/v1/agents/terminate",
        {"pool_name": POOL, "agent_id": good["agent_id"]},
        headers=PATIENTLY,
    )
    assert (status, ended["status"], ended["reason"]) == (200, "terminated", "requested")
    tailed = system.muster("tail", "--agent", good["agent_id"], "--from", "0").stdout
    assert "agent.terminated" in only(tailed.splitlines()[-1:])
