"""What the documents show is run as written: the README, and the example project."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import redis

from tests.chaos.judge import judge
from tests.e2e.system import POOL, System
from tests.waiting import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SCRIBE = ROOT / "docs/examples/scribe"


def block(language: str) -> str:
    """The README's one block in a language."""
    [text] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(text)


async def test_the_fifteen_agents_of_the_readme_run_again_after_a_stop(tmp_path: Path) -> None:
    """As a user sees it who has just cloned the repository: no configuration at all.

    Its request, fifteen times, gives its answer. The views are lost meanwhile, and come back.
    """
    [loop] = re.findall(r"^for .*/spawn .*$", block("bash"), re.MULTILINE)
    [body] = re.findall(r"-d '(\{.*?\})'", loop)
    async with System(tmp_path) as system:
        spawned = [await answered(system, json.loads(body)) for _ in range(15)]
        assert {agent["status"] for agent in spawned} == {"running"}
        expected = json.loads(block("json"))
        found = await system.pool()
        assert {name: found[name] for name in expected} == expected
        workers = await system.workers()
        assert len(workers) == expected["active_worker_processes"]
        assert all(worker.is_running() for worker in workers)
        await metrics_are_documented(system)
        assert system.muster("verify").stdout.startswith("equal: ")
        redis_cli(system)
        assert judge(system.redis_url, views=system.views()) == []
        assert await system.stop() == 0
        assert "stopped" in system.said()
        for path in system.data.glob("views.db*"):
            path.unlink()
        await system.start()
        await system.running(15)
        after = await system.agents()
        assert {agent["agent_id"] for agent in after} == {a["agent_id"] for a in spawned}
        assert {agent["incarnation"] for agent in after} == {2}
        await system.verify()


async def answered(system: System, body: Any) -> Any:
    """What a request for an agent returns: exactly this body is sent."""
    headers = {"Prefer": "wait=30"}
    status, agent = await system.call("POST", "/api/v1/agents/spawn", body, headers=headers)
    assert status == 200
    return agent


def redis_cli(system: System) -> None:
    """What operators look at."""
    with redis.Redis.from_url(system.redis_url, decode_responses=True) as client:
        assert len(client.keys("agent:*")) == 15
        assert len(client.keys("process:*")) == 2
        scores = client.zrevrange(f"pool:{{{POOL}}}:processes", 0, -1, withscores=True)
        assert sorted(score for _, score in scores) == [0.0, 5.0]


async def metrics_are_documented(system: System) -> None:
    async with aiohttp.request("GET", f"{system.url}/metrics") as response:
        text = await response.text()
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    page = (ROOT / "docs/events.md").read_text()
    listed = dict(re.findall(r"^\| `(muster_\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert served == listed


async def test_the_agent_of_the_readme(tmp_path: Path) -> None:
    """Its class and its file, in a folder of one's own."""
    code = block("python")
    path = tmp_path / code.splitlines()[0].removeprefix("# ")
    path.parent.mkdir()
    path.write_text(code)
    async with System(tmp_path, config=block("toml")) as system:
        agent = await system.spawn(input={"task": 1})
        assert agent["status"] == "running"
        said = system.muster("logs", agent["agent_id"]).stdout
        assert "hello demo {'task': 1}" in said


async def test_the_scribes_write_each_line_once(tmp_path: Path) -> None:
    """The example of docs/writing-agents.md: runs, crashes, goes on where it was, fails, ends."""
    folder = tmp_path / "scribe"
    shutil.copytree(SCRIBE, folder, ignore=shutil.ignore_patterns("__pycache__", ".muster"))
    async with System(folder, "--config", str(folder / "muster.toml")) as system:
        good = await spawn(system, ["one", "two"])
        name = good["agent_id"]
        await until(lambda: wrote(system, name) == ["one", "two"], interval=0.5)  # a process each
        bad = await spawn(system, ["one", "spill", "two"])
        failed = await system.is_status(bad["agent_id"], "failed")
        assert (failed["reason"], failed["incarnation"]) == ("restart-budget-spent", 3)
        assert failed["last_error"]["message"] == "the ink is spilt"
        assert wrote(system, bad["agent_id"]) == ["one"]
        system.muster("terminate", good["agent_id"])
        ended = await system.is_status(good["agent_id"], "terminated")
        assert (ended["reason"], ended["last_error"]) == ("requested", None)
        assert "scribe.done" in system.muster("logs", good["agent_id"]).stdout


async def spawn(system: System, lines: list[str]) -> Any:
    return await system.spawn("scribes", "scribe", input={"lines": lines})


def wrote(system: System, agent_id: str) -> list[str]:
    """The lines that an agent says it wrote, over all its incarnations."""
    said = system.muster("logs", agent_id, "--json", "-n", "all").stdout
    texts = [json.loads(line).get("message", "") for line in said.splitlines()]
    return [text.removeprefix("wrote ") for text in texts if text.startswith("wrote ")]
