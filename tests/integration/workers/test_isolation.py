"""An agent that always kills its process is isolated after its neighbours were lost twice."""

from collections import Counter

import msgspec
import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import Status
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until
from workers.host.capacity import HostLimits

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
def site(site: Site) -> Site:
    (site.folder / "mixed.py").write_text(POISON)
    return site


async def test_a_killer_ends_its_neighbours_twice_and_then_only_itself(site: Site) -> None:
    """Three others share its worker: they are lost twice, isolated and cleared; it fails.

    All four may be isolated at the same time, for a fifth of the window.
    """
    pool = await site.pool(
        restart_limit=2,
        suspicion_window_seconds=WINDOW_SECONDS,
        agents_per_worker=20,
        max_alone_workers=4,
    )
    spawned = [await pool.spawn() for _ in range(3)]
    poison = await pool.spawn(input=msgspec.Raw(b'{"poison":true}'))
    await site.host(agent="mixed:Mixed")

    async def failed() -> bool:
        agent = await site.log.agent(POOL, poison.agent_id)
        return agent is not None and agent.status is Status.FAILED

    await until(failed, timeout=20)
    await site.until_running(3)
    await until(lambda: types(site.url).count("agent.cleared") == 3, timeout=WINDOW_SECONDS + 8)
    assert reasons(site.url) == {"behaved"}, "all were tried"
    losses = Counter(e["subject"] for e in raw_events(site.url) if e["type"] == "agent.lost")
    assert losses.pop(poison.agent_id) == 2 + 3, "twice in company, then its budget and one more"
    assert losses.keys() <= {s.agent_id for s in spawned}
    assert max(losses.values()) <= 2
    assert company_of(site.url, poison.agent_id)[2:] == [1, 1, 1]
    site.check(acknowledged=[s.agent_id for s in (*spawned, poison)])


def reasons(url: str) -> set[str]:
    """Why agents are no longer isolated."""
    cleared = (e for e in raw_events(url) if e["type"] == "agent.cleared")
    return {msgspec.json.decode(e["data"])["reason"] for e in cleared}


def company_of(url: str, agent_id: str) -> list[int]:
    """How many agents its worker had, each time that it was lost."""
    agents_of: Counter[str] = Counter()
    counts, dead = [], ""
    for event in raw_events(url):
        worker = event["worker_id"]
        if event["type"] == "agent.claimed":
            agents_of[worker] += 1
        elif event["type"] == "agent.lost" and event["subject"] == agent_id:
            counts.append(agents_of[worker])
            dead = worker
    assert dead
    return counts


async def test_a_killer_is_isolated_if_a_worker_for_it_is_possible(site: Site) -> None:
    """Also if that takes longer than a tenth of the window, and if others wait."""
    pool = await site.pool(
        suspicion_window_seconds=3.0, max_workers=4, agents_per_worker=2, restart_limit=1
    )
    await site.host(agent="mixed:Mixed")
    others = [(await pool.spawn()).agent_id for _ in range(2)]
    await site.until_running(2)
    neighbour = (await pool.spawn()).agent_id
    poison = (await pool.spawn(input=msgspec.Raw(b'{"poison":true}'))).agent_id

    async def failed() -> bool:
        agent = await site.log.agent(POOL, poison)
        return agent is not None and agent.status is Status.FAILED

    await until(failed, timeout=20)
    assert company_of(site.url, poison)[2:] == [1, 1]
    lost = {e["subject"] for e in raw_events(site.url) if e["type"] == "agent.lost"}
    assert lost <= {neighbour, poison}
    await until(lambda: types(site.url).count("agent.cleared") == 1, timeout=8)
    assert reasons(site.url) == {"behaved"}
    site.check(acknowledged=[*others, neighbour, poison])


async def waiting(site: Site) -> list[str]:
    """The isolated agents that wait for a worker, in their order."""
    return [agent_id for agent_id, _ in await site.log.waiting_isolated(POOL, 100)]


async def test_without_a_suspicion_window_isolated_agents_share_again(site: Site) -> None:
    """As with a single process, which cannot have a second worker."""
    pool = await site.pool(suspicion_window_seconds=0.0, agents_per_worker=3)
    suspect = (await pool.spawn()).agent_id
    for name in "xy":
        await pool.claim(await pool.worker(name, slots=3), 2)
        await pool.lose([suspect], name)
    assert await waiting(site) == [suspect]
    await pool.spawn()
    await site.host()
    await site.until_running(2)
    [observed] = (await site.survey()).workers
    assert (observed.agent_count, observed.isolated_agent) == (2, "")
    site.check()


async def suspects(pool: TestPool, count: int) -> list[str]:
    """Agents that were lost twice, each with its neighbours; in the order in which they wait.

    Those of one millisecond wait in the order of their ids, which need not be that of their spawns.
    """
    spawned = [(await pool.spawn()).agent_id for _ in range(count)]
    slots = pool.pool.config.agents_per_worker
    for turn in "xy":
        names = [f"{turn}{first}" for first in range(0, count, slots)]
        claims = {
            name: await pool.claim(await pool.worker(name, slots=slots), slots) for name in names
        }
        for name, claimed in claims.items():
            await pool.lose([one.agent.agent_id for one in claimed], name)
    waiting = [agent_id for agent_id, _ in await pool.log.waiting_isolated(POOL, 100)]
    assert set(waiting) == set(spawned)
    return waiting


async def test_without_a_possible_worker_it_shares_after_a_tenth_of_the_window(
    site: Site,
) -> None:
    """The only worker is full of other agents."""
    pool = await site.pool(suspicion_window_seconds=8.0, max_workers=1, agents_per_worker=3)
    others = [(await pool.spawn()).agent_id for _ in range(3)]
    await site.host()
    await site.until_running(3)
    [suspect] = await suspects(pool, 1)
    await site.log.act(POOL, others[0], Terminate(), ORIGIN)
    await site.until_running(3)
    assert reasons(site.url) == {"not-tried"}
    times = {e["type"]: int(e["ts"]) for e in raw_events(site.url) if e["subject"] == suspect}
    waited_ms = times["agent.cleared"] - times["agent.lost"]
    assert 800 <= waited_ms < 8_000
    site.check(acknowledged=[*others, suspect])


async def test_agents_above_the_isolation_limit_share_at_once(site: Site) -> None:
    """If there are so many, the cause was probably their host."""
    pool = await site.pool(suspicion_window_seconds=600.0, max_workers=2, agents_per_worker=5)
    spawned = await suspects(pool, 15)
    await site.host()

    async def running() -> Counter[bool]:
        """How many run in a shared worker (False), and how many isolated (True)."""
        found = [await site.log.agent(POOL, name) for name in spawned]
        return Counter(a.alone for a in found if a is not None and a.status is Status.RUNNING)

    async def full() -> bool:
        return await running() == {False: 5, True: 1}

    await until(full)
    assert reasons(site.url) == {"too-many"}
    assert types(site.url).count("agent.cleared") == 14
    assert await waiting(site) == []
    site.check(acknowledged=spawned)


class Ended:
    """The processes of a host of which these have ended."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def exit_reason(self, worker_id: str) -> str | None:
        return "killed by signal 9" if worker_id in self._names else None

    limits = HostLimits(launches_max=10)

    def room(self) -> tuple[int, str]:
        return 10, ""

    def prepare(self, pool: object) -> str:
        return ""

    def running(self, pool: str) -> set[str]:
        return set()

    def terminate(self, worker_id: str, grace_seconds: float) -> None:
        """Nothing is left to be ended."""
