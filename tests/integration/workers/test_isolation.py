"""An agent that kills its process each time: its neighbours are hurt twice, then it dies alone."""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from eventstore.language.agent_commands import MarkLost, Terminate
from eventstore.language.agents import Status
from tests.integration.workers.test_supervisor import POOL, Site
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until
from workers.supervisor.worker_monitor import WorkerMonitor

WINDOW_SECONDS = 10.0
POISON = """
import asyncio, os, signal
from muster import Agent

class Mixed(Agent):
    async def run(self, context):
        if context.input.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.Event().wait()
"""


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "mixed.py").write_text(POISON)
    site = Site(redis_url, tmp_path)
    yield site
    await site.close()


async def test_poison_hurts_its_neighbours_twice_and_then_only_itself(site: Site) -> None:
    """Nine innocents share a worker with it: lost twice with it, run alone, cleared; it fails."""
    pool = await site.pool(restart_limit=2, suspicion_window_seconds=WINDOW_SECONDS)
    spawned = [await pool.spawn() for _ in range(9)]
    poison = await pool.spawn(input=msgspec.Raw(b'{"poison":true}'))
    await site.host(agent="mixed:Mixed")

    async def failed() -> bool:
        agent = await site.log.agent(POOL, poison.agent_id)
        return agent is not None and agent.status is Status.FAILED

    await until(failed, timeout=20)
    await site.until_running(9)
    await until(lambda: types(site.url).count("agent.cleared") == 9, timeout=WINDOW_SECONDS + 8)
    assert reasons(site.url) <= {"behaved", "turn-over"}, "all were tried"
    losses = Counter(e["subject"] for e in raw_events(site.url) if e["type"] == "agent.lost")
    assert losses.pop(poison.agent_id) == 2 + 3, "twice in company, then its budget and one more"
    assert losses.keys() <= {s.agent_id for s in spawned}
    assert max(losses.values()) <= 2
    assert company_of(site.url, poison.agent_id)[2:] == [1, 1, 1]
    site.check(acknowledged=[s.agent_id for s in (*spawned, poison)])


def reasons(url: str) -> set[str]:
    """Why agents need not be alone any more."""
    cleared = (e for e in raw_events(url) if e["type"] == "agent.cleared")
    return {msgspec.json.decode(e["data"])["reason"] for e in cleared}


def company_of(url: str, agent_id: str) -> list[int]:
    """How many agents its worker held, each time that it was lost."""
    holds: Counter[str] = Counter()
    told, dead = [], ""
    for event in raw_events(url):
        worker = event["worker_id"]
        if event["type"] == "agent.claimed":
            holds[worker] += 1
        elif event["type"] == "agent.lost" and event["subject"] == agent_id:
            told.append(holds[worker])
            dead = worker
    assert dead
    return told


async def test_at_the_maximum_room_is_made_for_one_that_must_be_alone(site: Site) -> None:
    """Two workers, all agents stay: one is kept free of newcomers, and emptied when that can be."""
    pool = await site.pool(
        suspicion_window_seconds=WINDOW_SECONDS, max_workers=2, agents_per_worker=3
    )
    await site.host()
    for count in range(1, 6):  # three fill the first worker, two are in the second
        await pool.spawn()
        await site.until_running(count)
    for _ in range(2):
        lost = types(site.url).count("agent.lost") + 2
        os.kill(await smaller(site), signal.SIGKILL)
        await until(partial(has_lost, site, lost))
        await until(lambda: smaller(site), timeout=10)
    first = await until(lambda: alone(site), timeout=10)
    assert await waiting(site), "the other waits: half of the workers may be taken"
    await until(lambda: reserved(site), timeout=WINDOW_SECONDS + 5)
    full = max((await site.survey()).workers, key=lambda o: o.agent_count).worker
    ended = (await site.log.held(POOL, full.worker_id))[0]
    await site.log.act(POOL, ended, Terminate(), ORIGIN)
    second = await until(lambda: alone(site), timeout=10)
    assert second != first
    await site.until_running(4)
    assert (await site.survey()).reserved == ""
    await until(lambda: types(site.url).count("agent.cleared") == 2, timeout=WINDOW_SECONDS + 5)
    site.check()


def has_lost(site: Site, count: int) -> bool:
    return types(site.url).count("agent.lost") == count


async def smaller(site: Site) -> int:
    """The pid of the active worker with the fewest agents, once it has some."""
    found = [o for o in (await site.survey()).workers if o.worker.status == "active"]
    least = min(found, key=lambda o: o.agent_count)
    return least.worker.pid if len(found) == 2 and 0 < least.agent_count < 3 else 0


async def alone(site: Site) -> str:
    """The agent that has a worker for itself."""
    return "".join(o.isolated_agent for o in (await site.survey()).workers)


async def waiting(site: Site) -> list[str]:
    """Those that wait for a worker of their own, in their order."""
    return [agent_id for agent_id, _ in await site.log.waiting_isolated(POOL, 100)]


async def reserved(site: Site) -> str:
    return (await site.survey()).reserved


async def test_where_suspicion_is_off_those_set_apart_come_back(site: Site) -> None:
    """As with a single process, which has no second worker to give."""
    pool = await site.pool(suspicion_window_seconds=0.0, agents_per_worker=3)
    suspect = (await pool.spawn()).agent_id
    for name in "xy":
        await pool.claim(await pool.worker(name, slots=3), 2)
        lose = MarkLost(
            worker_id=name, reason="t", now_ms=site.log.now_ms(POOL), suspicion_ms=600_000
        )
        await site.log.act(POOL, suspect, lose, ORIGIN, fence=await pool.fence(name))
    assert await waiting(site) == [suspect]
    await pool.spawn()
    await site.host()
    await site.until_running(2)
    [observed] = (await site.survey()).workers
    assert (observed.agent_count, observed.isolated_agent) == (2, "")
    site.check()


async def suspects(pool: TestPool, count: int) -> list[str]:
    """Agents that were lost twice, each with those beside it; as they wait.

    Those of one millisecond wait in the order of their ids, which need not be that of their spawns.
    """
    spawned = [(await pool.spawn()).agent_id for _ in range(count)]
    slots = pool.pool.config.agents_per_worker
    for turn in "xy":
        names = [f"{turn}{first}" for first in range(0, count, slots)]
        held = {
            name: await pool.claim(await pool.worker(name, slots=slots), slots) for name in names
        }
        for name, claimed in held.items():
            fence = await pool.fence(name)
            now_ms = pool.log.now_ms(POOL)
            lose = MarkLost(worker_id=name, reason="t", now_ms=now_ms, suspicion_ms=600_000)
            for one in claimed:
                await pool.log.act(POOL, one.agent.agent_id, lose, ORIGIN, fence=fence)
    waiting = [agent_id for agent_id, _ in await pool.log.waiting_isolated(POOL, 100)]
    assert set(waiting) == set(spawned)
    return waiting


async def test_more_of_them_than_workers_for_them_take_turns(site: Site) -> None:
    """Of two workers one is theirs: nobody waits for a whole window until another has behaved."""
    pool = await site.pool(suspicion_window_seconds=20.0, max_workers=2, agents_per_worker=3)
    spawned = await suspects(pool, 4)
    await site.host()
    await site.until_running(4)
    cleared = [e for e in raw_events(site.url) if e["type"] == "agent.cleared"]
    assert reasons(site.url) == {"turn-over"}
    ids = [e["subject"] for e in cleared]
    assert ids == spawned[: len(ids)], "who came first has its turn first"
    site.check(acknowledged=spawned)


async def test_one_alone_gives_way_to_others_where_the_pool_is_full(site: Site) -> None:
    """They are under no suspicion, and would wait for a whole window beside free slots."""
    pool = await site.pool(suspicion_window_seconds=20.0, max_workers=2, agents_per_worker=3)
    await suspects(pool, 1)
    for _ in range(5):
        await pool.spawn()
    await site.host()
    await site.until_running(6)
    assert reasons(site.url) == {"turn-over"}
    site.check()


async def test_where_no_worker_can_be_had_suspicion_lapses(site: Site) -> None:
    """The only worker is full of others that stay: a suspect waits for a window, not for ever."""
    pool = await site.pool(suspicion_window_seconds=3.0, max_workers=1, agents_per_worker=3)
    others = [(await pool.spawn()).agent_id for _ in range(3)]
    await site.host()
    await site.until_running(3)
    [suspect] = await suspects(pool, 1)
    await site.log.act(POOL, others[0], Terminate(), ORIGIN)
    await site.until_running(3)
    assert reasons(site.url) == {"not-tried"}
    site.check(acknowledged=[*others, suspect])


async def test_more_than_one_agent_can_have_hurt_share_at_once(site: Site) -> None:
    """One agent makes suspects of those beside it; where there are more, it was something else."""
    pool = await site.pool(suspicion_window_seconds=600.0, max_workers=2, agents_per_worker=5)
    spawned = await suspects(pool, 15)
    await site.host()

    async def shares() -> bool:
        running = [await site.log.agent(POOL, name) for name in spawned[10:]]
        return all(a is not None and a.status is Status.RUNNING and not a.alone for a in running)

    await until(shares)
    assert reasons(site.url) == {"too-many"}
    assert await waiting(site) == spawned[1:10]
    site.check(acknowledged=spawned)


class Ended:
    """The processes of a host of which these have ended."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def exit_reason(self, worker_id: str) -> str | None:
        return "killed by signal 9" if worker_id in self._names else None

    def running(self, pool: str) -> set[str]:
        return set()

    def terminate(self, worker_id: str, grace_seconds: float) -> None:
        """Nothing is left to be ended."""


@pytest.mark.parametrize(
    ("dead", "together"), [("a", False), ("ab", True), ("abcd", True), ("", False)]
)
async def test_many_that_die_at_one_look_were_rather_killed_by_their_host(
    site: Site, dead: str, together: bool
) -> None:
    pool = await site.pool()
    for name in "abcd":
        await pool.worker(name)
    watch = WorkerMonitor("h", pool.pool_log, cast("Any", Ended(*dead)), lambda: pool.pool)
    assert watch._many_lost(await site.survey(), ()) is together
    assert watch._many_lost(await site.survey(), set(dead)) is together
