"""Pools that scale, seen from outside."""

import asyncio
import json
import signal
from pathlib import Path

from tests.chaos.judge import judge
from tests.e2e.refused import left_on, one_line
from tests.e2e.system import POOL, System, name_of, only
from tests.pools import raw_events
from tests.waiting import until

PATIENTLY = {"Prefer": "wait=30"}
PARENT = """
import asyncio, json, subprocess
from pathlib import Path
from muster import Agent

class Parent(Agent):
    async def run(self, context):
        first = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0 & exit 3")
        second = subprocess.Popen(["sh", "-c", "exit 4"])
        left = subprocess.Popen(["sleep", "900"])
        codes = [await first.wait(), await asyncio.to_thread(second.wait)]
        Path(__file__).with_name("codes.json").write_text(json.dumps(codes))
        await context.stopping.wait()
"""
TWO_POOLS = """
[roles.developer]
agent = "workers.builtin:Placeholder"
[roles.parent]
agent = "parent:Parent"
[pools.developer_pool]
role = "developer"
[pools.parents]
role = "parent"
"""


async def test_a_hundred_at_once_are_ten_workers_and_none_twice(tmp_path: Path) -> None:
    """Not one worker more is ordered. A hang-up of the terminal ends them all in good order."""
    async with System(tmp_path) as system:
        spawned = await asyncio.gather(*(system.spawn(wait=30) for _ in range(100)))
        ids = [agent["agent_id"] for agent in spawned]
        assert len(set(ids)) == 100
        assert {agent["status"] for agent in spawned} == {"running"}
        found = await system.pool()
        assert (found["process_count"], found["used_capacity"]) == (10, 100)
        listed = (await system.get("/api/v1/agents/workers"))["workers"]
        assert [worker["agent_count"] for worker in listed] == [10] * 10
        offences = judge(system.redis_url, acknowledged=ids, views=system.views())
        assert offences == []
        ordered = [e for e in raw_events(system.redis_url) if e["type"] == "worker.requested"]
        assert len(ordered) == 10
        assert await system.stop(number=signal.SIGHUP) == 0
        assert "stopped" in system.said()


async def test_a_single_process_runs_ten_of_a_pool(tmp_path: Path) -> None:
    """Agents get the exit codes of their children; what they leave `System.stop` would find."""
    (tmp_path / "parent.py").write_text(PARENT)
    async with System(tmp_path, "--single-process", config=TWO_POOLS) as system:
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
        await system.spawn("parents", "parent")
        codes = tmp_path / "codes.json"
        text = await until(lambda: codes.read_text() if codes.exists() else "", what="exit codes")
        assert json.loads(text) == [3, 4]
        await system.verify()


async def test_an_agent_class_of_ones_own(system: System) -> None:
    """With a dependency of its own; its prints are found; crashed, restarted, failed, ended.

    A second `muster up` on its folder is refused meanwhile; Ctrl-C ends all in good order.
    """
    good = await system.spawn()
    bad = await system.spawn(input={"crash": True})
    failed = await system.is_status(bad["agent_id"], "failed")
    assert (failed["incarnation"], failed["last_error"]["type"]) == (3, "ValueError")
    assert "as asked" in failed["last_error"]["message"]
    assert "acting.py" in failed["last_error"]["traceback"]
    shown, printed = await asyncio.gather(
        asyncio.to_thread(system.muster, "ps", bad["agent_id"]),
        asyncio.to_thread(system.muster, "logs", good["agent_id"]),
    )
    assert "as asked" in shown.stdout
    assert "hello from a dependency demo" in printed.stdout
    status, ended = await system.call(
        "POST",
        "/api/v1/agents/terminate",
        {"pool_name": POOL, "agent_id": good["agent_id"]},
        headers=PATIENTLY,
    )
    assert (status, ended["status"], ended["reason"]) == (200, "terminated", "requested")
    tailed = system.muster("tail", "--agent", good["agent_id"], "--from", "0").stdout
    assert "agent.terminated" in only(tailed.splitlines()[-1:])
    refuses_another(system)
    assert (await system.spawn())["status"] == "running"
    assert await system.stop(number=signal.SIGINT) == 0
    assert "stopped" in system.said()


def refuses_another(system: System) -> None:
    """The one that runs is named and goes on."""
    assert system.process is not None
    running = lasting(system)
    done = system.muster("up", "--data-dir", str(system.data), check=False)
    assert done.returncode == 1
    assert f"in use by `muster up` with pid {system.process.pid}" in one_line(done.stderr)
    assert lasting(system) == running


def lasting(system: System) -> set[int]:
    """Without workers, of which spare ones come and go."""
    return {one.pid for one in left_on(system.data) if name_of(one) != "muster-worker"}
