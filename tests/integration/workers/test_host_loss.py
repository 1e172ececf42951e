"""Workers and hosts that die, stop or start no process: their agents run elsewhere."""

import asyncio
import os
import signal

import psutil
import pytest

from tests.integration.workers.hosts import SHORT_SECONDS, Site, abandon
from tests.pools import raw_events, types
from tests.waiting import timed, until
from workers.host.processes import Process
from workers.launch.launchers import LaunchFailed
from workers.supervisor.launch_tracker import BACKOFF_SECONDS


async def test_a_killed_workers_agents_run_elsewhere_within_two_seconds(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    await site.run(pool, 12)
    victim = max((await site.survey()).workers, key=lambda o: o.agent_count).worker
    os.kill(victim.pid, signal.SIGKILL)
    took, _ = await timed(until(lambda: types(site.url).count("agent.lost") == 10))
    assert took < 2.0
    took, _ = await timed(site.until_running(12))
    assert took < 2.0
    assert victim.worker_id not in await site.workers()
    assert await site.incarnations() == {2: 10, 1: 2}
    site.check()


async def test_a_restarted_supervisor_adopts_its_workers(site: Site) -> None:
    """It notices the death of one at once, and need not wait for its lease to expire."""
    pool = await site.pool(lease_seconds=600.0)
    first = await site.host("h1")
    await site.run(pool)
    before = await site.workers()
    await abandon(first)
    await site.host("h1")
    os.kill(next(iter(before.values())), signal.SIGKILL)
    await until(lambda: "agent.lost" in types(site.url))
    await site.until_running(1)
    assert await site.workers() != before
    lost = next(e for e in raw_events(site.url) if e["type"] == "worker.lost")
    assert "process is gone" in lost["data"]
    site.check()


async def test_the_workers_of_a_dead_host_are_reaped_by_another_within_a_lease(
    site: Site,
) -> None:
    """`poll_seconds` is only for pools without workers."""
    pool = await site.pool(lease_seconds=SHORT_SECONDS)
    first = await site.host("h1", poll_seconds=30.0)
    await site.run(pool, 3)
    await site.host("h2", poll_seconds=30.0)
    pids = (await site.workers()).values()
    await abandon(first)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    took, _ = await timed(until(lambda: types(site.url).count("agent.lost") == 3))
    assert took < SHORT_SECONDS + 2
    await site.until_running(3)
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    site.check()


async def test_orders_for_a_dead_host_go_to_another(site: Site) -> None:
    """It did not record that it left: its first order expires, then it gets no more."""
    pool = await site.pool(agents_per_worker=1, launch_seconds=1.0)
    await site.host("h2")  # which leads
    await abandon(await site.host("h1"))
    await asyncio.gather(*(pool.spawn() for _ in range(4)))
    await site.until_running(4, timeout=20)
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    assert (await site.catalogue.refresh()).hosts["h1"].status == "left"
    site.check()


RAISING = """
import asyncio, pathlib
from muster import Agent

class Raising(Agent):
    async def run(self, context):
        while not pathlib.Path(__file__).with_name("go").exists():
            await asyncio.sleep(0.01)
        if context.incarnation == 1:
            raise ValueError("which may not be recorded any more")
        await asyncio.Event().wait()
"""


async def test_a_stopped_process_is_replaced_and_writes_nothing_when_it_continues(
    site: Site,
) -> None:
    """When it wakes, its agents raise."""
    (site.folder / "raising.py").write_text(RAISING)
    pool = await site.pool(lease_seconds=SHORT_SECONDS)
    await site.host(agent="raising:Raising")
    await site.run(pool, 3)
    [(worker_id, pid)] = (await site.workers()).items()
    os.kill(pid, signal.SIGSTOP)
    try:
        bound = SHORT_SECONDS + 2
        await until(lambda: types(site.url).count("agent.lost") == 3, timeout=bound)
        await site.until_running(3)
        last = len(raw_events(site.url))
        (site.folder / "go").touch()
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(
        lambda: not psutil.pid_exists(pid), timeout=8, what="the end of the stopped process"
    )
    later = [e for e in raw_events(site.url)[last:] if e["worker_id"] == worker_id]
    assert later == []
    await site.until_running(3)
    assert await site.incarnations() == {2: 3}
    site.check()


async def test_workers_that_die_at_once_are_not_launched_in_a_tight_loop(site: Site) -> None:
    """After two of them the next is ordered half a second after the last."""
    (site.folder / "suicidal.py").write_text(
        "import os\nfrom muster import Agent\n"
        "class Suicidal(Agent):\n"
        "    async def start(self, context):\n        os._exit(3)\n"
    )
    pool = await site.pool()
    await site.host(agent="suicidal:Suicidal")
    await pool.spawn()
    await until(lambda: types(site.url).count("worker.lost") >= 3, timeout=10)
    ordered = [int(e["ts"]) for e in raw_events(site.url) if e["type"] == "worker.requested"]
    assert ordered[2] - ordered[1] >= BACKOFF_SECONDS[2] * 1000


@pytest.mark.parametrize("bad", ["h1", "h2"])
async def test_a_host_that_starts_no_worker_does_not_prevent_launches_on_another(
    site: Site, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always has the fewest workers, and would get each order. `h1` leads."""
    pool = await site.pool(agents_per_worker=1)
    hosts = {name: await site.host(name) for name in ("h1", "h2")}

    async def fail(_: object) -> Process:
        raise LaunchFailed("no memory")

    monkeypatch.setattr(hosts[bad]._processes._launcher, "launch", fail)
    await site.run(pool, 4)
    assert types(site.url).count("worker.lost") < 12
    site.check()
