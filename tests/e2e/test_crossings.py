"""A termination that crosses with something else: the agent ends, and stays ended."""

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.chaos.judge import judge
from tests.e2e.conftest import CONFIG
from tests.e2e.system import POOL, System
from tests.waiting import until

LOOKS_SECONDS = 0.1
"""Longer than it takes an agent to look whether it may go on: awake, it does that first."""


async def hold(system: System, place: str, **more: Any) -> str:
    """An agent that stands still at a place of its life."""
    spawned = await system.spawn(
        wait=0, input={"hold": place, "folder": str(system.folder), **more}
    )
    name = str(spawned["agent_id"])
    if place != "stop":
        await until((system.folder / f"{name}.{place}").exists)
    return name


def let_go(system: System, name: str) -> None:
    (system.folder / f"{name}.go").touch()


async def ask_to_end(system: System, name: str, *, graceful: bool = True) -> int:
    status, _ = await system.call(
        "POST",
        "/api/v1/agents/terminate",
        {"pool_name": POOL, "agent_id": name, "graceful": graceful},
        headers={"Prefer": "respond-async"},
    )
    assert status in (200, 202)
    return status


async def stays_ended(system: System, name: str, *, restart: bool = False) -> None:
    ended = await system.is_status(name, "terminated")
    if restart:
        await system.stop()
        await system.start()
        ended = await system.is_status(name, "terminated")
    assert ended["reason"] == "requested"
    assert judge(system.redis_url, views=system.views()) == []
    system.verify()


async def test_with_a_claim(system: System) -> None:
    """Asked for as soon as it is accepted, many times over: before, at and after its claim."""
    spawned = [await system.spawn(wait=0) for _ in range(20)]
    names = [agent["agent_id"] for agent in spawned]
    more = asyncio.gather(*(system.spawn(wait=0) for _ in range(20)))
    await asyncio.gather(*(ask_to_end(system, name) for name in names))
    names += [agent["agent_id"] for agent in await more]
    await asyncio.gather(*(ask_to_end(system, name) for name in names))
    for name in names:
        await system.is_status(name, "terminated")
    assert judge(system.redis_url, views=system.views(), at_rest=True) == []


async def test_with_a_start(system: System) -> None:
    name = await hold(system, "start")
    await ask_to_end(system, name)
    let_go(system, name)
    await stays_ended(system, name, restart=True)


async def test_with_a_crash(system: System) -> None:
    """It raises when its end stands in the log and its worker, asleep meanwhile, does not know."""
    name = await hold(system, "run", crash=True)
    [worker] = await system.workers()
    worker.suspend()
    asleep = time.monotonic()
    try:
        await ask_to_end(system, name)
        let_go(system, name)
        await until(lambda: time.monotonic() - asleep > LOOKS_SECONDS)
    finally:
        worker.resume()
    await stays_ended(system, name, restart=True)
    ended = await system.agent(name)
    assert (ended["incarnation"], ended["last_error"]["type"]) == (1, "ValueError")


async def test_with_the_wait_for_a_restart(project: Path) -> None:
    slow = CONFIG.replace("backoff_max_seconds = 0.2", "backoff_max_seconds = 60")
    slow = slow.replace("backoff_min_seconds = 0.1", "backoff_min_seconds = 60")
    async with System(project, config=slow) as system:
        spawned = await system.spawn(input={"crash": True})
        await system.is_status(spawned["agent_id"], "restarting")
        assert await ask_to_end(system, spawned["agent_id"]) == 200
        await stays_ended(system, spawned["agent_id"])


async def test_with_the_death_of_its_worker(system: System) -> None:
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    await ask_to_end(system, name)
    await until((system.folder / f"{name}.stop").exists)
    [worker] = await system.workers()
    worker.kill()
    await stays_ended(system, name, restart=True)


async def test_with_a_drain(system: System) -> None:
    """Its worker gives it back, to run elsewhere, when its end is asked for."""
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    [worker] = await system.workers()
    worker.terminate()
    await until((system.folder / f"{name}.stop").exists)
    await ask_to_end(system, name)
    let_go(system, name)
    await stays_ended(system, name, restart=True)


async def test_with_a_shut_down(system: System) -> None:
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    stopping = asyncio.create_task(system.stop())
    await until((system.folder / f"{name}.stop").exists)
    let_go(system, name)
    await stopping
    await system.start()
    await system.is_status(name, "running")
    (system.folder / f"{name}.go").unlink()
    await ask_to_end(system, name)
    await system.stop()
    await system.start()
    await stays_ended(system, name)


async def test_now_does_not_wait_for_stop(system: System) -> None:
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    await ask_to_end(system, name, graceful=False)
    await stays_ended(system, name)
    assert not (system.folder / f"{name}.stop").exists()
