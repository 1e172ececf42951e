"""Redis loses everything while work comes in: seen, refused, recovered with one command, named."""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.chaos.judge import judge
from tests.e2e.conftest import with_leases
from tests.e2e.system import POOL, System
from tests.waiting import until, until_sync

CONFIG = with_leases(2)
"""A recovery waits until every lease has lapsed."""
BEATING = '''\
"""Writes a line again and again while it runs."""

import asyncio
import time
from pathlib import Path

from muster import Agent


class Actor(Agent):
    async def run(self, context):
        path = Path("beats") / f"{context.agent_id}.{context.incarnation}"
        with path.open("a", buffering=1) as beats:
            while True:
                beats.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME)}\\n")
                await asyncio.sleep(0.02)
'''


class Load:
    """Spawns one after another, and what was answered."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self.ending = asyncio.Event()

    async def run(self) -> None:
        body = {"project_id": "load", "role_type": "developer", "pool_name": POOL}
        while not self.ending.is_set():
            status, said = await self.system.call(
                "POST", "/api/v1/agents/spawn", body, headers={"Prefer": "respond-async"}
            )
            if status in (200, 202):
                self.accepted.append(said["agent_id"])
            elif said["type"] == "outcome-unknown":
                self.unknown.append(said["agent_id"])
            else:
                self.refused.append(said["type"])
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def coming_in(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run())
            yield
            self.ending.set()  # not cancelled: what was asked for last would run unknown to all


def overlaps(folder: Path) -> list[str]:
    """Agents of which two incarnations ran at the same time."""
    spans: dict[str, list[tuple[float, float, int]]] = {}
    for path in folder.iterdir():
        agent_id, _, incarnation = path.name.partition(".")
        beats = [float(line) for line in path.read_text().splitlines() if line]
        if beats:
            spans.setdefault(agent_id, []).append((beats[0], beats[-1], int(incarnation)))
    return [
        f"{agent_id}: {earlier} and {later}"
        for agent_id, ran in spans.items()
        for earlier, later in zip(sorted(ran), sorted(ran)[1:], strict=False)
        if later[0] <= earlier[1]
    ]


def wipe(system: System) -> None:
    with redis.Redis.from_url(system.redis_url) as client:
        client.flushall()


def suspend_between_writes(system: System) -> psutil.Process:
    """The projector, stopped where it does not hold the lock that a recovery needs."""

    projector = system.role("projector")

    def stopped() -> bool:
        projector.suspend()
        try:
            with contextlib.closing(sqlite3.connect(system.data / "views.db", timeout=0)) as views:
                views.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            projector.resume()
            return False
        return True

    until_sync(stopped)
    return projector


async def refused(load: Load, *kinds: str) -> None:
    await until(lambda: any(kind in load.refused for kind in kinds), timeout=10)


@pytest.mark.long
async def test_redis_wiped_under_load_is_recovered_with_one_command(project: Path) -> None:
    (project / "acting.py").write_text(BEATING)
    (project / "beats").mkdir()
    async with System(project, config=CONFIG) as system:
        load = Load(system)
        async with load.coming_in():
            await until(lambda: len(load.accepted) >= 10)
            await until(lambda: known(system, load.accepted[:1]))
            projector = suspend_between_writes(system)  # what is acknowledged now is not archived
            archived = len(load.accepted)
            await until(lambda: len(load.accepted) >= archived + 5)
            wipe(system)
            await refused(load, "log-missing")
            await until(lambda: "commands are refused; run `muster recover" in system.said())
            accepted = list(load.accepted)
            said = await asyncio.to_thread(system.muster, "recover", "--json")
            projector.resume()
            await until(lambda: len(load.accepted) >= len(accepted) + 3, timeout=20)
        lost = unsaved(said.stdout)
        assert 0 < len(lost) < len(accepted)
        assert lost < set(accepted)
        remaining = (set(load.accepted) | await known(system, load.unknown)) - lost
        await system.running(len(remaining), timeout=40)
        assert {agent["agent_id"] for agent in await system.agents()} == remaining
        await system.verify()
        assert judge(system.redis_url, views=system.views(), acknowledged=remaining) == []
        assert overlaps(project / "beats") == []
        assert await ready(system)
        await until(lambda: "recovered\n" in system.said())
        await until(lambda: "could not be saved: " in system.said())


async def known(system: System, ids: list[str]) -> set[str]:
    """Those of them that are in the views."""
    return {i for i in ids if (await system.call("GET", f"/api/v1/agents/{i}"))[0] == 200}


def unsaved(said: str) -> set[str]:
    logs: list[Any] = json.loads(said)["logs"]
    return {u["agent_id"] for one in logs for u in one["unsaved"] if u["kind"] == "spawn"}


async def ready(system: System) -> bool:
    async def check() -> bool:
        return (await system.call("GET", "/readyz"))[0] == 200

    return bool(await until(check, timeout=15))


@pytest.mark.long
async def test_an_emptied_redis_gets_no_new_log_and_with_auto_recover_the_old_one(
    project: Path,
) -> None:
    """At its start, and once more while it runs."""
    (project / "acting.py").write_text(BEATING)
    (project / "beats").mkdir()
    async with System(project, config=CONFIG) as system:
        spawned = [await system.spawn() for _ in range(3)]
        await system.verify()
        before = await incarnations(system)
        assert before.keys() == {one["agent_id"] for one in spawned}
        assert await system.stop() == 0
        for path in (system.data / "redis").rglob("*appendonly*"):
            if path.is_file():
                path.unlink()
        await system.start()
        await no_new_log(system, spawned[0]["agent_id"])
        assert await system.stop() == 0

        system.arguments.append("--auto-recover")
        said = len(system.said())
        await system.start()
        await run_again(system, before)
        await until(
            lambda: {"the catalogue", f"pool {POOL}"} <= told_as_whole(system.said()[said:])
        )
        assert await ready(system)
        await system.verify()

        before = await incarnations(system)
        said = len(system.said())
        wipe(system)
        await until(lambda: "recovered\n" in system.said()[said:], timeout=30)
        await run_again(system, before)
        await system.verify()
        assert overlaps(project / "beats") == []
        for what in ("lost (missing", "it is recovered by itself"):
            assert what in system.said()[said:]
        assert system.said()[said:].count("recovering what is lost") == 1


async def no_new_log(system: System, agent_id: str) -> None:
    """Commands are refused, reads go on, and the way out is named."""
    body = {"project_id": "p", "role_type": "developer", "pool_name": POOL}
    status, said = await system.call("POST", "/api/v1/agents/spawn", body)
    assert (status, said["type"]) == (503, "log-missing")
    assert "muster recover" in system.said()
    assert (await system.call("GET", f"/api/v1/agents/{agent_id}"))[0] == 200


async def run_again(system: System, before: dict[str, int]) -> None:
    """Each of them, and no other, as a later incarnation."""

    async def again() -> bool:
        now = await incarnations(system)
        return now.keys() == before.keys() and all(now[one] > before[one] for one in now)

    await until(again, timeout=40)
    await system.running(len(before))


async def incarnations(system: System) -> dict[str, int]:
    return {agent["agent_id"]: agent["incarnation"] for agent in await system.agents()}


def told_as_whole(said: str) -> set[str]:
    """The logs that are said to go on: in one line, or each when it was seen to."""
    lines = re.findall(
        r"^the logs? of (.*) (?:goes on|go on|was recovered|were recovered)$", said, re.MULTILINE
    )
    return {name for line in lines for name in line.split(", ")}
