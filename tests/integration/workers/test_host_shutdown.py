"""A host that shuts down releases its agents and leaves, within its time."""

import asyncio

import pytest

from eventstore.language.pool_config import PoolConfig
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, types
from tests.waiting import until

SLOW = """
import asyncio
from muster import Agent

class Slow(Agent):
    async def stop(self, context):
        await asyncio.Event().wait()
"""


async def test_a_host_that_shuts_down_releases_its_agents_to_another(site: Site) -> None:
    pool = await site.pool()
    first = await site.host("h1")
    await site.run(pool, 5)
    await site.host("h2")
    await first.stop()
    await site.until_running(5)
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    assert types(site.url).count("agent.released") == 5
    assert "agent.lost" not in types(site.url)
    site.check()


async def test_a_host_that_shuts_down_starts_none_of_its_released_agents_again(
    site: Site,
) -> None:
    """Another of its workers would claim them, if it did not drain as well."""
    pool = await site.pool(agents_per_worker=1)
    host = await site.host()
    await site.run(pool, 3)
    await host.stop()
    events = types(site.url)
    first = events.index("worker.draining")
    assert events[first : first + 3] == ["worker.draining"] * 3, "in one step"
    assert events.count("agent.claimed") == 3
    assert await site.incarnations() == {2: 3}
    site.check()


async def test_a_host_that_runs_out_of_time_leaves_nevertheless(site: Site) -> None:
    """Otherwise it would never end, and another host would wait for its lead."""
    (site.folder / "slow.py").write_text(SLOW)
    pool = await site.pool(stop_grace_seconds=60.0, drain_seconds=60.0)
    host = await site.host("h1", agent="slow:Slow", shutdown_seconds=0.5)
    await site.run(pool)
    await host.stop()
    await site.catalogue.refresh()
    assert site.catalogue.state.hosts["h1"].status == "left"
    _, lead = await site.log.lead(POOL, "another", 0)
    assert lead.host == "another"


async def test_a_single_process_also_ends_within_its_time_to_shut_down(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers cannot be killed, and would drain for as long as their pool allows."""
    monkeypatch.setattr("workers.supervisor.supervisor.KILL_SECONDS", 0.5)
    (site.folder / "slow.py").write_text(SLOW)
    pool = await site.pool(stop_grace_seconds=60.0, drain_seconds=60.0, lease_seconds=60.0)
    host = await site.host("h1", agent="slow:Slow", shutdown_seconds=0.5, single_process=True)
    await site.run(pool)
    async with asyncio.timeout(6):
        await host.stop()


async def test_a_pool_that_is_created_while_a_host_leaves_does_not_delay_it(site: Site) -> None:
    await site.pool()
    host = await site.host("h1")
    resign = host._pools[POOL].resign

    async def resign_late() -> None:
        await site.catalogue.create_pool("late", "developer", PoolConfig(), ORIGIN)
        await until(lambda: "late" in host._catalogue.state.pools)
        await resign()

    host._pools[POOL].resign = resign_late
    await host.stop()
    await site.catalogue.refresh()
    assert site.catalogue.state.hosts["h1"].status == "left"


async def test_a_host_that_cannot_leave_for_an_unknown_reason_closes_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a single process its tasks would go on, and no other supervisor could start."""
    await site.pool()
    host = await site.host("h1")

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(host, "_leave", fail)
    with pytest.raises(ZeroDivisionError):
        await host.stop()
    assert all(task.done() for task in host._tasks.values())
    assert host._processes.pids == set()
    await site.host("h1")


async def test_a_pool_supervisor_that_is_woken_and_cancelled_at_once_ends(site: Site) -> None:
    """`asyncio.wait_for` of Python 3.11 loses the cancellation, and a stop would never end."""
    await site.pool()
    supervisor = await site.host()
    task = supervisor._tasks[f"pool {POOL}"]
    wake = supervisor._pools[POOL].wakeup
    await until(lambda: wake._waiters, what="it waits to be woken")
    wake.set()
    task.cancel()
    ended, _ = await asyncio.wait({task}, timeout=10)
    assert ended == {task}
