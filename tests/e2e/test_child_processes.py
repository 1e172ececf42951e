"""Processes that agents start, in a whole system."""

import json
from pathlib import Path

from tests.e2e.system import System
from tests.waiting import until

AGENT = """
import asyncio, json, os, subprocess
from pathlib import Path
from muster import Agent

class Waiting(Agent):
    async def run(self, context):
        first = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0 & exit 3")
        second = subprocess.Popen(["sh", "-c", "exit 4"])
        module = subprocess.Popen(["sleep", "900"])
        codes = [await first.wait(), await asyncio.to_thread(second.wait)]
        Path(__file__).with_name("codes.json").write_text(json.dumps(codes))
        await context.stopping.wait()
"""
CONFIG = """
[roles.waiting]
agent = "waiting:Waiting"
[pools.waiting]
role = "waiting"
"""


async def test_in_a_single_process_agents_get_their_childrens_exit_codes(tmp_path: Path) -> None:
    """And what they leave behind ends with it: `System.stop` asserts that."""
    (tmp_path / "waiting.py").write_text(AGENT)
    async with System(tmp_path, "--single-process", config=CONFIG) as system:
        await system.spawn("waiting", "waiting")
        codes = tmp_path / "codes.json"
        await until(codes.exists, what="the agent has waited for its children")
        assert json.loads(codes.read_text()) == [3, 4]
