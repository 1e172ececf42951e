"""Processes killed while spawns come in, and stopped and continued ones."""

import asyncio
import functools
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from eventstore.ids import new_id
from tests.chaos.judge import judge
from tests.e2e.conftest import CONFIG
from tests.e2e.system import POOL, System
from tests.pools import raw_events
from tests.waiting import until

VICTIMS = ("worker", "supervisor", "projector", "gateway", "redis")
SPAWNS_BEFORE, SPAWNS_AFTER = 5, 5
THREE_LEASES_SECONDS = 6.0


async def insist(system: System) -> str:
    """Spawn with a key, again until it is answered: as a careful client does."""
    key = new_id()
    body = {"project_id": "demo", "role_type": "developer", "pool_name": POOL}
    headers = {"Idempotency-Key": key, "Prefer": "respond-async"}
    for _ in range(300):
        try:
            status, answer = await system.call(
                "POST", "/api/v1/agents/spawn", body, headers=headers
            )
        except (aiohttp.ClientError, TimeoutError):
            status, answer = 0, None
        if status in (200, 202):
            return str(answer["agent_id"])
        await asyncio.sleep(0.05)
    raise AssertionError("never answered")


async def insist_on(system: System, accepted: list[str], count: int) -> None:
    while len(accepted) < count:
        accepted.append(await insist(system))


def has(accepted: list[str], count: int) -> bool:
    return len(accepted) >= count


async def victim(system: System, name: str) -> psutil.Process:
    if name == "worker":
        [first, *_] = await until(system.workers)
        return first
    return system.server() if name == "redis" else system.role(name)


async def test_what_was_accepted_ends_right_whoever_is_killed(system: System) -> None:
    accepted: list[str] = []
    killed: list[psutil.Process] = []
    for name in VICTIMS:
        first, last = len(accepted) + SPAWNS_BEFORE, len(accepted) + SPAWNS_BEFORE + SPAWNS_AFTER
        spawning = asyncio.create_task(insist_on(system, accepted, last))
        await until(functools.partial(has, accepted, first))
        killed.append(await victim(system, name))
        killed[-1].kill()
        await spawning
    await system.running(len(accepted))
    assert {agent["agent_id"] for agent in await system.agents()} == set(accepted)
    system.verify()
    assert judge(system.redis_url, acknowledged=accepted, views=system.views()) == []
    again = [await victim(system, name) for name in VICTIMS]
    assert not set(again) & set(killed)


async def runs_again(system: System, agent_id: str) -> Any:
    """The agent, once it runs as its second incarnation."""
    agent = await system.agent(agent_id)
    return agent if (agent["status"], agent["incarnation"]) == ("running", 2) else None


async def test_a_stopped_worker_ends_itself_and_writes_nothing(system: System) -> None:
    """Stopped for three lease times; when it wakes its agent raises, which it may not record."""
    await system.spawn(input={"hold": "run", "folder": str(system.folder), "crash": True})
    [worker] = await system.workers()
    [held] = await system.agents()
    worker.suspend()
    stopped = time.monotonic()
    try:
        moved = await until(lambda: runs_again(system, held["agent_id"]), timeout=8)
        assert moved["process_id"] != held["process_id"]
        last = len(raw_events(system.redis_url))
        await until(lambda: time.monotonic() - stopped > THREE_LEASES_SECONDS)
        (system.folder / f"{held['agent_id']}.go").touch()
    finally:
        worker.resume()
    await asyncio.to_thread(psutil.wait_procs, [worker], 8)
    assert not worker.is_running()
    later = [e["worker_id"] for e in raw_events(system.redis_url)[last:]]
    assert held["process_id"] not in later
    assert judge(system.redis_url, views=system.views()) == []


async def test_after_kill_9_of_muster_up_all_ends_and_it_starts_again(project: Path) -> None:
    system = System(project, config=CONFIG)
    async with system:
        await asyncio.gather(*(system.spawn() for _ in range(5)))
        assert system.process is not None
        family = system.family()
        system.process.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, family, 4.0)  # two lease times
        assert left == []
        system.process.wait()
        (system.data / "running.json").unlink()
        await system.start()
        await system.running(5)
        system.verify()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_all_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async with System(tmp_path) as system:
        await system.spawn()
        assert await system.stop(number=number, timeout=15) == 0
        assert "stopped" in system.said()


async def test_a_second_ctrl_c_ends_at_once(project: Path) -> None:
    system = System(project, config=CONFIG)
    async with system:
        held = await system.spawn(input={"hold": "stop", "folder": str(project)})
        assert system.process is not None
        family: list[Any] = system.family()
        system.process.send_signal(signal.SIGINT)
        await until((project / f"{held['agent_id']}.stop").exists)
        system.process.send_signal(signal.SIGINT)
        _, left = await asyncio.to_thread(psutil.wait_procs, family, 2.0)
        assert [process for process in left if not _ended(process)] == []


def _ended(process: psutil.Process) -> bool:
    """Whether it runs no more; to take note of an orphan's end is up to the system's init."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
