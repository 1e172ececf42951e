"""Redis is unreachable when `muster up` starts, returns, and a later start hands over to it."""

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from eventstore.ids import new_id
from tests.chaos.judge import judge
from tests.conftest import MakeServer
from tests.e2e.conftest import ACTING, CONFIG
from tests.e2e.system import MUSTER, POOL, System
from tests.forked import Forked
from tests.killed import STEPS, die_after
from tests.pools import raw_events
from tests.servers import RedisLikeServer
from tests.waiting import until

AGENTS = "/api/v1/agents"
MODE = "single-process"
KILLED_SECONDS = 30
PROBE_SECONDS = 20
PRINTING = """async def start(self, context):
        print("token", context.fencing_token)"""


def falling_back(project: Path, server: RedisLikeServer, **env: str) -> System:
    wanted = {"MUSTER_REDIS_URL": server.url, "MUSTER_FALLBACK": MODE, **env}
    return System(project, config=CONFIG, env=wanted)


async def asked(system: System, key: str, **more: Any) -> tuple[int, Any]:
    """Ask for an agent under a key."""
    body = {"project_id": "demo", "role_type": "developer", "pool_name": POOL, **more}
    headers = {"Prefer": "wait=10", "Idempotency-Key": key}
    return await system.call("POST", f"{AGENTS}/spawn", body, headers=headers)


async def alerts_are(system: System, *names: str) -> None:
    """All open alerts, once those of short delays are closed."""
    found: set[str] = set()

    async def they_are() -> bool:
        answer = await system.get(f"{AGENTS}/monitor/alerts")
        found.clear()
        found.update(alert["name"] for alert in answer["alerts"])
        return found == set(names)

    try:
        await until(they_are)
    except AssertionError:
        assert found == set(names)
        raise


def killed(system: System, step: str) -> None:
    """A start that is killed right after a step of its handover."""
    arguments = ["up", "--data-dir", str(system.data), *system.arguments]
    output = system.folder / "killed.out"
    with Forked(die_after, step, arguments, system.env, output) as process:
        code = process.wait(KILLED_SECONDS)
    assert code == -signal.SIGKILL, (step, output.read_text())


@pytest.mark.long
async def test_what_a_fallback_took_on_runs_once_in_the_real_log_wherever_a_start_is_killed(
    project: Path, redis_server: MakeServer
) -> None:
    """Each step of the handover is the last one of a start; then one goes through."""
    printing = ACTING.replace("async def start(self, context):", PRINTING)
    (project / "acting.py").write_text(printing)
    server = redis_server()
    server.stop()
    async with falling_back(project, server) as system:
        alive = {}
        for number in range(5):
            status, agent = await asked(system, f"key-{number}", input={"n": number})
            assert (status, agent["status"]) == (200, "running")
            alive[f"key-{number}"] = agent["agent_id"]
        _, ended = await asked(system, "key-ended")
        await system.call(
            "POST", f"{AGENTS}/terminate", {"pool_name": POOL, "agent_id": ended["agent_id"]}
        )
        await system.is_status(ended["agent_id"], "terminated")
        assert tokens(system.data) == {"0"}, "below every token of the real log"
        await says_so(system)
        server.start()
        await until(lambda: can_end(system), timeout=PROBE_SECONDS)
        await alerts_are(system, "fallback-active", "fallback-can-end")
        assert await system.stop() == 0

        for step in STEPS:
            await asyncio.to_thread(killed, system, step)
        await system.start()
        await system.running(5)
        assert tokens(system.data) == {"0", "1"}
        assert "Muster-Fallback" not in await headers_of(system, "/healthz")
        for key, agent_id in alive.items():
            status, agent = await asked(system, key, input={"n": int(key[-1])})
            assert (status, agent["agent_id"]) == (200, agent_id)
        status, problem = await asked(system, "key-ended")
        assert (status, problem["agent_id"]) == (409, ended["agent_id"])
        assert problem["type"] == "agent-withdrawn"
        await alerts_are(system)
        await system.verify()
        every = [*alive.values(), ended["agent_id"]]
        requested = [e for e in raw_events(server.url) if e["type"] == "agent.requested"]
        assert sorted(event["subject"] for event in requested) == sorted(every)
        assert {event["actor"] for event in requested} == {"fallback"}
        offences = judge(server.url, acknowledged=every, views=system.views())
        assert offences == []
        put_aside(system.data, every)


def tokens(data: Path) -> set[str]:
    """The generations of the fencing tokens that agents got so far, as they printed them."""
    lines = [path.read_text() for path in data.glob(f"logs/{POOL}/*.jsonl")]
    return set(re.findall(r"token (\d+):\d+", "".join(lines)))


async def says_so(system: System) -> None:
    """Every kind of answer carries the header; the probes and commands say why."""
    for path in (
        "/",
        "/static/0/css/base.css",
        "/nowhere",
        AGENTS,
        f"{AGENTS}/{new_id()}",
        "/metrics",
    ):
        assert (await headers_of(system, path))["Muster-Fallback"] == MODE
    assert (await headers_of(system, "/api/v1/events"))["Muster-Fallback"] == MODE
    ready = await system.get("/readyz")
    assert (ready["status"], ready["fallback"], ready["fallback_can_end"]) == ("ready", True, False)
    health = await system.get(f"{AGENTS}/health")
    assert health["fallback"]
    assert system.env["MUSTER_REDIS_URL"] in health["fallback_reason"]
    await alerts_are(system, "fallback-active")
    assert "this is a fallback" in system.muster("ps").stderr
    assert "WARN" in line_of(system.muster("doctor", check=False).stdout, "muster up")
    assert "WARNING: fallback" in system.said()


async def headers_of(system: System, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(system.url + path) as answer:
        return answer.headers


async def can_end(system: System) -> bool:
    return bool((await system.get("/readyz"))["fallback_can_end"])


def line_of(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


def put_aside(data: Path, agents: Any) -> None:
    """The fallback is put aside; its archive has every agent that was asked for there."""
    assert not (data / "fallback").exists()
    assert list(data.glob("handover-*")) == []
    [folder] = data.glob("fallback-2*")
    report = json.loads((folder / "report.json").read_text())
    results = sorted(entry["result"] for entry in report["entries"])
    assert results == ["handed-over"] * 5 + ["recorded"]
    with sqlite3.connect(f"file:{folder / 'views.db'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT subject FROM events WHERE type = 'agent.requested'"
        ).fetchall()
    assert sorted(row[0] for row in rows) == sorted(agents)
    assert not (data / "fallback-leftovers.json").exists()


def test_a_role_alone_has_no_fallback(project: Path) -> None:
    done = subprocess.run(
        [*MUSTER, "gateway", "--redis-url", "redis://127.0.0.1:1"],
        cwd=project,
        env={**System(project).env, "MUSTER_FALLBACK": MODE},
        capture_output=True,
        text=True,
        timeout=KILLED_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "MUSTER_FALLBACK: only `muster up` has a fallback" in done.stderr
