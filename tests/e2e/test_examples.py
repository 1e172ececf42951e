"""What the pages show is done as written: commands are pasted into a shell, agents are run.

Blocks marked `sh`, `bash` or `console` are meant to be pasted; what needs other hosts is `text`.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import redis

from tests.chaos.judge import judge
from tests.e2e.system import POOL, System
from tests.waiting import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUILT_IN, _, OWN = README.partition("## An agent of your own")
"""The README's commands for the built-in agent, and for one's own."""
SCRIBE = ROOT / "docs/examples/scribe"
COMMANDS = runpy.run_path(str(ROOT / ".ci/readme.py"))["commands"]
STARTS = ("python3 -m venv", ". .venv", ". ../", "muster up", "pip install")
"""Commands that set up or start what the test has set up and started."""


def block(language: str) -> str:
    """The README's one block in a language."""
    [text] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(text)


def paste(system: System, text: str) -> int:
    """Run every command of a text, in one shell, and stop at the first that fails; their number."""
    commands = [one for one in COMMANDS(text) if not one.startswith(STARTS)]
    script = "\n".join(["set -e", *commands]).replace("http://127.0.0.1:8000", system.url)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**system.env, "PATH": path, "MUSTER_DATA_DIR": str(system.data)}
    done = subprocess.run(
        ["bash", "-xc", script], check=False, cwd=system.folder, env=environment,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for heading in re.findall(r"^\$ muster \w+\n([A-Z]+ .*)$", text, re.MULTILINE):
        assert heading.split() in [line.split() for line in done.stdout.splitlines()]
    return len(commands)


async def test_the_fifteen_agents_of_the_readme_run_again_after_a_stop(tmp_path: Path) -> None:
    """As a user sees it who has just cloned the repository: no configuration at all.

    The views are lost meanwhile, and come back.
    """
    async with System(tmp_path) as system:
        assert paste(system, BUILT_IN) >= 4
        expected = json.loads(block("json"))
        found = await system.pool()
        assert {name: found[name] for name in expected} == expected
        workers = await system.workers()
        assert len(workers) == expected["active_worker_processes"]
        assert all(worker.is_running() for worker in workers)
        before = {agent["agent_id"] for agent in await system.agents()}
        await metrics_are_documented(system)
        await system.verify()
        redis_cli(system)
        assert judge(system.redis_url, views=system.views()) == []
        assert await system.stop() == 0
        assert "stopped" in system.said()
        for path in system.data.glob("views.db*"):
            path.unlink()
        await system.start()
        await system.running(15)
        after = await system.agents()
        assert {agent["agent_id"] for agent in after} == before
        assert {agent["incarnation"] for agent in after} == {2}
        await system.verify()


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
    served = dict(re.findall(r"^# TYPE (muster_\S+) (\S+)$", text, re.MULTILINE))
    page = (ROOT / "docs/events.md").read_text()
    listed = dict(re.findall(r"^\| `(muster_\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert "muster_http_requests_total" in served
    assert served.items() <= listed.items()


async def test_the_agents_of_the_readme_and_of_the_example_do_what_the_pages_say(
    tmp_path: Path,
) -> None:
    """The README's agent is saved under the name in its first line, next to the scribes.

    A scribe writes each line once: it runs, crashes, goes on where it was, fails, ends.
    """
    code, ignored = block("python"), shutil.ignore_patterns("__pycache__", ".muster")
    path = tmp_path / code.splitlines()[0].removeprefix("# ")
    path.parent.mkdir()
    path.write_text(code)
    shutil.copytree(SCRIBE, tmp_path, ignore=ignored, dirs_exist_ok=True)
    config = block("toml") + (SCRIBE / "muster.toml").read_text()
    async with System(tmp_path, config=config) as system:
        assert paste(system, OWN) >= 3
        assert "hello demo {'task': 1}" in system.muster("logs").stdout
        assert paste(system, (SCRIBE / "README.md").read_text()) == 2
        assert paste(system, (ROOT / "docs/writing-agents.md").read_text()) >= 3
        await scribes_wrote(system)
        assert paste(system, (ROOT / "docs/operations.md").read_text()) >= 9


async def scribes_wrote(system: System) -> None:
    """What the pages' three scribes did; one of them meets a line that it cannot write."""
    scribes = await system.agents("pool_name=scribes&include_ended=true&include=input")
    [bad] = [one["agent_id"] for one in scribes if "spill" in one["input"]["lines"]]
    good, other = (one["agent_id"] for one in scribes if one["agent_id"] != bad)
    await until(lambda: wrote(system, good) == wrote(system, other) == ["one", "two"])
    failed = await system.is_status(bad, "failed")
    assert (failed["reason"], failed["incarnation"]) == ("restart-budget-spent", 3)
    assert failed["last_error"]["message"] == "the ink is spilt"
    assert wrote(system, bad) == ["one"]
    system.muster("terminate", good)
    ended = await system.is_status(good, "terminated")
    assert (ended["reason"], ended["last_error"]) == ("requested", None)
    assert "scribe.done" in system.muster("logs", good).stdout


def wrote(system: System, agent_id: str) -> list[str]:
    """The lines that an agent says it wrote, over all its incarnations."""
    lines: list[dict[str, Any]] = []
    for path in (system.data / "logs/scribes").glob("*.jsonl"):
        lines += [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]
    texts = [str(one.get("message", "")) for one in lines if one.get("agent_id") == agent_id]
    return [text.removeprefix("wrote ") for text in texts if text.startswith("wrote ")]
