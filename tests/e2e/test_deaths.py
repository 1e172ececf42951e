"""Processes killed while spawns come in, `muster up` itself, and an end at once."""

import asyncio
import functools
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest

from eventstore.ids import new_id
from tests.chaos.judge import judge
from tests.e2e.conftest import UNHURRIED
from tests.e2e.system import POOL, System
from tests.waiting import until

VICTIMS = ("worker", "supervisor", "projector", "gateway", "redis")
SPAWNS_BEFORE, SPAWNS_AFTER = 5, 5
TWO_LEASES_SECONDS, ORPHANED_LEASE_SECONDS = 8.0, 4
AT_ONCE_SECONDS = 8.0
"""A fraction of what is waited for an agent that does not stop, in `UNHURRIED`."""


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
    await system.verify()
    assert judge(system.redis_url, acknowledged=accepted, views=system.views()) == []
    again = [await victim(system, name) for name in VICTIMS]
    assert not set(again) & set(killed)


@pytest.mark.long
async def test_after_kill_9_of_muster_up_all_ends_and_it_starts_again(project: Path) -> None:
    """And a second Ctrl-C ends all at once: the first waits for an agent that takes its time."""
    leases = f"lease_seconds = {ORPHANED_LEASE_SECONDS}"
    system = System(project, config=UNHURRIED.replace("lease_seconds = 10", leases))
    async with system:
        await asyncio.gather(*(system.spawn() for _ in range(5)))
        assert system.process is not None
        family = system.family()
        system.process.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, family, TWO_LEASES_SECONDS)
        assert left == []
        system.process.wait()
        (system.data / "running.json").unlink()
        await system.start()
        await system.running(5)
        await system.verify()

        held = await system.spawn(input={"hold": "stop", "folder": str(project)})
        family = system.family()
        system.process.send_signal(signal.SIGINT)
        await until((project / f"{held['agent_id']}.stop").exists)
        system.process.send_signal(signal.SIGINT)
        _, left = await asyncio.to_thread(psutil.wait_procs, family, AT_ONCE_SECONDS)
        assert [process for process in left if not _ended(process)] == []


def _ended(process: psutil.Process) -> bool:
    """Whether it runs no more; to take note of an orphan's end is up to the system's init."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
