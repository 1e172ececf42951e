"""A termination that crosses with something else: the agent ends, and stays ended.

The crossings share one system: a start of all of Muster for each is what would take the time.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.judge import judge
from tests.e2e.conftest import UNHURRIED
from tests.e2e.system import POOL, System, only
from tests.waiting import until

LOOKS_SECONDS = 0.1
"""Longer than it takes an agent to check whether it may go on: awake, it does that first."""

POOLS = """
[pools.slow_pool]
role = "developer"
backoff_min_seconds = 60
backoff_max_seconds = 60

[pools.brief_pool]
role = "developer"
stop_grace_seconds = 1
drain_seconds = 5
"""


async def hold(system: System, place: str, *, pool: str = POOL, **more: Any) -> str:
    """An agent that waits at a point of its life."""
    spawned = await system.spawn(
        pool, wait=0, input={"hold": place, "folder": str(system.folder), **more}
    )
    name = str(spawned["agent_id"])
    if place != "stop":
        await until((system.folder / f"{name}.{place}").exists)
    return name


def let_go(system: System, name: str) -> None:
    (system.folder / f"{name}.go").touch()


async def ask_to_end(system: System, name: str, *, pool: str = POOL, graceful: bool = True) -> int:
    status, _ = await system.call(
        "POST",
        "/api/v1/agents/terminate",
        {"pool_name": pool, "agent_id": name, "graceful": graceful},
        headers={"Prefer": "respond-async"},
    )
    assert status in (200, 202)
    return status


async def worker_of(system: System, name: str) -> psutil.Process:
    """The process in which an agent runs, once the views show it: the agent itself is faster."""

    async def pids() -> list[int]:
        agent = await system.agent(name)
        listed = (await system.get("/api/v1/agents/monitor/dashboard"))["workers"]
        return [w["pid"] for w in listed if w["worker_id"] == agent["process_id"]]

    return psutil.Process(only(await until(pids)))


async def with_its_claim(system: System) -> list[str]:
    """Asked for as soon as it is accepted, many times over: before, at and after its claim."""
    spawned = [await system.spawn(wait=0) for _ in range(20)]
    names = [str(agent["agent_id"]) for agent in spawned]
    more = asyncio.gather(*(system.spawn(wait=0) for _ in range(20)))
    await asyncio.gather(*(ask_to_end(system, name) for name in names))
    names += [str(agent["agent_id"]) for agent in await more]
    await asyncio.gather(*(ask_to_end(system, name) for name in names))
    for name in names:
        await system.is_status(name, "terminated")
    await comes_to_rest(system)
    return names


async def comes_to_rest(system: System) -> None:
    """Workers that were ordered may still be starting; what is wrong stays so."""
    offences: list[Any] = []

    def nothing_is_wrong() -> bool:
        offences[:] = judge(system.redis_url, views=system.views(), at_rest=True)
        return not offences

    try:
        await until(nothing_is_wrong, interval=0.1)
    except AssertionError:
        raise AssertionError("\n".join(map(str, offences))) from None


async def with_its_start(system: System) -> list[str]:
    name = await hold(system, "start")
    await ask_to_end(system, name)
    let_go(system, name)
    return [name]


async def with_its_crash(system: System) -> list[str]:
    """It raises when its end is in the log and its worker, stopped meanwhile, does not know."""
    name = await hold(system, "run", crash=True)
    worker = await worker_of(system, name)
    worker.suspend()
    asleep = time.monotonic()
    try:
        await ask_to_end(system, name)
        let_go(system, name)
        await until(lambda: time.monotonic() - asleep > LOOKS_SECONDS)
    finally:
        worker.resume()
    ended = await system.is_status(name, "terminated")
    assert (ended["incarnation"], ended["last_error"]["type"]) == (1, "ValueError")
    return [name]


async def with_the_wait_for_its_restart(system: System) -> list[str]:
    spawned = await system.spawn("slow_pool", input={"crash": True})
    name = str(spawned["agent_id"])
    await system.is_status(name, "restarting")
    assert await ask_to_end(system, name, pool="slow_pool") == 200
    return [name]


async def with_the_death_of_its_worker(system: System) -> list[str]:
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    worker = await worker_of(system, name)
    await ask_to_end(system, name)
    await until((system.folder / f"{name}.stop").exists)
    worker.kill()
    return [name]


async def with_a_drain(system: System) -> list[str]:
    """Its worker releases it, to run elsewhere, when its end is requested."""
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    (await worker_of(system, name)).terminate()
    await until((system.folder / f"{name}.stop").exists)
    await ask_to_end(system, name)
    let_go(system, name)
    return [name]


async def with_its_stop_when_it_is_not_to_wait(system: System) -> list[str]:
    name = await hold(system, "stop")
    await system.is_status(name, "running")
    await ask_to_end(system, name, graceful=False)
    await system.is_status(name, "terminated")
    assert not (system.folder / f"{name}.stop").exists()
    return [name]


CROSSINGS = (
    with_its_claim,
    with_its_start,
    with_its_crash,
    with_the_wait_for_its_restart,
    with_the_death_of_its_worker,
    with_a_drain,
    with_its_stop_when_it_is_not_to_wait,
)


async def are_ended(system: System, names: list[str]) -> None:
    for name in names:
        ended = await system.is_status(name, "terminated")
        assert ended["reason"] == "requested"
    assert judge(system.redis_url, views=system.views()) == []


@pytest.mark.long
async def test_whatever_an_end_crosses_with_the_agent_stays_ended(
    project: Path, subtests: pytest.Subtests
) -> None:
    ended: list[str] = []
    async with System(project, config=UNHURRIED + POOLS) as system:
        for crossing in CROSSINGS:
            with subtests.test(crossing.__name__):
                names = await crossing(system)
                await are_ended(system, names)
                ended += names
        released = await runs_on_after_a_shut_down(system)
        await ask_to_end(system, released, pool="brief_pool")
        await are_ended(system, [*ended, released])
        await system.verify()


async def runs_on_after_a_shut_down(system: System) -> str:
    """An agent that its worker released in the middle of its stop, and that runs again."""
    name = await hold(system, "stop", pool="brief_pool")
    await system.is_status(name, "running")
    stopping = asyncio.create_task(system.stop())
    await until((system.folder / f"{name}.stop").exists)
    let_go(system, name)
    await stopping
    await system.start()
    await system.is_status(name, "running")
    (system.folder / f"{name}.go").unlink()
    return name
