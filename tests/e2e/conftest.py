"""A folder of one's own with an agent class and its dependency, and a system that runs it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.system import System

CONFIG = """\
appendfsync = "always"
poll_seconds = 0.2
min_heartbeat_interval = 0.1
min_idle_time = 0.1

[roles.developer]
agent = "acting:Actor"

[pools.developer_pool]
role = "developer"
lease_seconds = 10
renew_seconds = 0.3
backoff_min_seconds = 0.1
backoff_max_seconds = 0.2
restart_limit = 2
stop_grace_seconds = 1
drain_seconds = 5
"""

UNHURRIED = CONFIG.replace("stop_grace_seconds = 1", "stop_grace_seconds = 30").replace(
    "drain_seconds = 5", "drain_seconds = 40"
)
"""An agent that waits in its stop does so until it may go on, or its worker dies."""


def with_leases(seconds: int) -> str:
    """The same with leases that a test waits for. A worker is lost that is held up for as long."""
    return CONFIG.replace("lease_seconds = 10", f"lease_seconds = {seconds}")


ACTING = '''\
"""Does what its input says, and waits where it says so."""

import asyncio
from pathlib import Path

import greeting
from muster import Agent


class Actor(Agent):
    async def start(self, context):
        print(greeting.TEXT, context.project_id)
        await hold(context, "start")

    async def run(self, context):
        await hold(context, "run")
        if context.input.get("crash"):
            raise ValueError("as asked")
        await asyncio.Event().wait()

    async def stop(self, context):
        await hold(context, "stop")


async def hold(context, place):
    """Report that the point is reached, and wait there until it may go on."""
    if context.input.get("hold") == place:
        folder = Path(context.input["folder"])
        (folder / f"{context.agent_id}.{place}").touch()
        while not (folder / f"{context.agent_id}.go").exists():
            await asyncio.sleep(0.01)
'''

GREETING = 'TEXT = "hello from a dependency"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder."""
    (tmp_path / "acting.py").write_text(ACTING)
    (tmp_path / "greeting.py").write_text(GREETING)
    return tmp_path


@pytest.fixture
async def system(project: Path) -> AsyncIterator[System]:
    """A running system with that folder's agents, and short intervals."""
    async with System(project, config=CONFIG) as running:
        yield running
