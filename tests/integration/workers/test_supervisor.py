"""A host's supervisor with real worker processes: scaling, death, drain, two hosts, deletion."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Catalogue
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import Drain, WorkerStatus
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.survey import Survey
from eventstore.retention import Retention
from tests.chaos.judge import judge
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until
from workers.host.processes import Process
from workers.launch.launchers import LaunchFailed
from workers.supervisor.supervisor import Supervisor, SupervisorOptions

POOL = "developer_pool"
QUICK: dict[str, Any] = {
    "lease_seconds": 10.0,
    "renew_seconds": 0.3,
    "stop_grace_seconds": 1.0,
    "drain_seconds": 5.0,
    "backoff_min_seconds": 0.05,
    "backoff_max_seconds": 0.1,
}
"""Intervals that a test can wait for; no lease is so short that a worker may lose it by chance."""
SHORT_SECONDS = 2.0
"""A lease that a test waits for."""


class Site:
    """A pool, and the hosts that supervise it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.log = Log(connect(url), Keys())
        self.catalogue = CatalogueLog(self.log, Reader(url))
        self.supervisors: list[Supervisor] = []

    async def pool(self, **config: Any) -> TestPool:
        await self.catalogue.create()
        wanted = PoolConfig(**{**QUICK, **config})
        changed = await self.catalogue.create_pool(POOL, "developer", wanted, ORIGIN)
        pool = TestPool(self.log, POOL)
        pool.pool = changed.catalogue.pools[POOL]
        return pool

    async def host(
        self,
        name: str = "h1",
        *,
        agent: str = "",
        poll_seconds: float = 0.2,
        retention: Retention | None = None,
        **options: Any,
    ) -> Supervisor:
        supervisor = Supervisor(
            SupervisorOptions(
                redis_url=self.url,
                host=name,
                roles={"developer": agent or "workers.builtin:Placeholder"},
                app_dir=str(self.folder),
                log_dir=str(self.folder / "logs"),
                poll_seconds=poll_seconds,
                retention=retention or Retention(),
                **{"shutdown_seconds": 8.0, **options},
            )
        )
        self.supervisors.append(supervisor)
        await supervisor.start()
        return supervisor

    async def survey(self) -> Survey:
        return await self.log.survey(POOL)

    async def until_running(self, count: int, *, timeout: float = 15) -> None:
        async def running() -> bool:
            agents = [await self.log.agent(POOL, name) for name in await self.log.live(POOL)]
            return Counter(a.status for a in agents if a) == {"running": count}

        await until(running, timeout=timeout, what=f"{count} agents running")

    async def incarnations(self) -> dict[int, int]:
        """How many live agents are at which incarnation."""
        agents = [await self.log.agent(POOL, name) for name in await self.log.live(POOL)]
        return Counter(agent.incarnation for agent in agents if agent)

    async def workers(self) -> dict[str, int]:
        """Pids of active workers."""
        return {
            o.worker.worker_id: o.worker.pid
            for o in (await self.survey()).workers
            if o.worker.status is WorkerStatus.ACTIVE
        }

    def check(self, **how: Any) -> None:
        assert judge(self.url, **how) == []

    async def close(self) -> None:
        for supervisor in self.supervisors:
            await supervisor.stop()
        await self.catalogue.close()
        await self.log.client.aclose()


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(redis_url, tmp_path)
    yield site
    await site.close()


async def test_old_log_files_of_ended_workers_are_removed(site: Site) -> None:
    """A host that starts a worker for every peak would fill its disk with their logs."""
    await site.pool()
    old, new = (site.folder / "logs" / POOL / f"{name}.jsonl" for name in ("gone", "gone-lately"))
    old.parent.mkdir(parents=True)
    for file in (old, new):
        file.write_text("{}\n")
    long_ago = time.time() - 30 * 86_400
    os.utime(old, (long_ago, long_ago))
    await site.host()
    await until(lambda: not old.exists())
    assert new.exists()


async def test_fifteen_at_once_get_two_workers(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    spawned = await asyncio.gather(*(pool.spawn() for _ in range(15)))
    await site.until_running(15)
    held = sorted(o.agent_count for o in (await site.survey()).workers)
    assert (len(held), sum(held)) == (2, 15)
    assert types(site.url).count("worker.requested") == 2
    site.check(acknowledged=[s.agent_id for s in spawned])


async def test_one_after_the_other_they_fill_ten_and_five(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    for number in range(1, 16):
        await pool.spawn()
        await site.until_running(number)
    assert sorted(o.agent_count for o in (await site.survey()).workers) == [5, 10]


async def test_a_killed_workers_agents_run_elsewhere_within_two_seconds(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    await asyncio.gather(*(pool.spawn() for _ in range(12)))
    await site.until_running(12)
    victim = max((await site.survey()).workers, key=lambda o: o.agent_count).worker
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: types(site.url).count("agent.lost") == 10, timeout=2.0)
    await site.until_running(12, timeout=2.0)
    assert victim.worker_id not in await site.workers()
    assert await site.incarnations() == {2: 10, 1: 2}
    site.check()


async def test_an_empty_worker_is_stopped_after_its_time(site: Site) -> None:
    pool = await site.pool(empty_worker_seconds=0.5)
    await site.host()
    spawned = await pool.spawn()
    await site.until_running(1)
    [pid] = (await site.workers()).values()
    await site.log.act(POOL, spawned.agent_id, Terminate(), ORIGIN)
    await until(lambda: not psutil.pid_exists(pid), timeout=8, what="the worker ended")
    assert types(site.url)[-1] == "worker.stopped"
    site.check(at_rest=True)


async def test_ended_agents_and_workers_leave_redis_after_the_hosts_retention(site: Site) -> None:
    """The worker sets the expiry of its agents' hashes and of its own."""
    pool = await site.pool(empty_worker_seconds=0.2)
    await site.host(retention=Retention(ended_ms=50_000))
    spawned = await pool.spawn()
    await site.until_running(1)
    [worker_id] = await site.workers()
    await site.log.act(POOL, spawned.agent_id, Terminate(), ORIGIN)
    await until(lambda: types(site.url)[-1] == "worker.stopped", timeout=8)
    with redis.Redis.from_url(site.url) as client:
        for key in (f"agent:{{{POOL}}}:{spawned.agent_id}", f"process:{{{POOL}}}:{worker_id}"):
            assert 30_000 < client.pttl(key) <= 50_000


async def test_a_host_that_shuts_down_releases_its_agents_to_another(site: Site) -> None:
    pool = await site.pool()
    first = await site.host("h1")
    await asyncio.gather(*(pool.spawn() for _ in range(5)))
    await site.until_running(5)
    await site.host("h2")
    await first.stop()
    await site.until_running(5)
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    assert types(site.url).count("agent.released") == 5
    assert "agent.lost" not in types(site.url)
    site.check()


async def test_a_host_that_shuts_down_starts_none_of_its_released_agents_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another of its workers would claim them, if it did not drain as well."""
    pool = await site.pool(agents_per_worker=1)
    host = await site.host()
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    await site.until_running(3)
    pool_log = host._pools[POOL]._pool_log
    act, draining = pool_log.act_on_worker, asyncio.Barrier(3)

    async def together(worker_id: str, command: Any, **options: Any) -> Any:
        if isinstance(command, Drain):
            await asyncio.wait_for(draining.wait(), 5)
        return await act(worker_id, command, **options)

    monkeypatch.setattr(pool_log, "act_on_worker", together)
    await host.stop()
    assert not draining.broken
    assert types(site.url).count("agent.claimed") == 3
    assert await site.incarnations() == {2: 3}
    site.check()


SLOW = """
import asyncio
from muster import Agent

class Slow(Agent):
    async def stop(self, context):
        await asyncio.Event().wait()
"""


async def test_a_host_that_runs_out_of_time_has_left_nevertheless(site: Site) -> None:
    """Otherwise it would shut down for ever, and another host would wait for its lead."""
    (site.folder / "slow.py").write_text(SLOW)
    pool = await site.pool(stop_grace_seconds=60.0, drain_seconds=60.0)
    host = await site.host("h1", agent="slow:Slow", shutdown_seconds=1.0)
    await pool.spawn()
    await site.until_running(1)
    await host.stop()
    await site.catalogue.refresh()
    assert site.catalogue.state.hosts["h1"].status == "left"
    _, lead = await site.log.lead(POOL, "who asks", 0)
    assert lead.host == "who asks"


async def test_a_single_process_ends_within_its_time_to_shut_down_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers cannot be killed, and would drain for as long as their pool allows."""
    monkeypatch.setattr("workers.supervisor.supervisor.KILL_SECONDS", 0.5)
    (site.folder / "slow.py").write_text(SLOW)
    pool = await site.pool(stop_grace_seconds=60.0, drain_seconds=60.0, lease_seconds=60.0)
    host = await site.host("h1", agent="slow:Slow", shutdown_seconds=1.0, single_process=True)
    await pool.spawn()
    await site.until_running(1)
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


async def test_a_restarted_supervisor_adopts_its_workers(site: Site) -> None:
    """It notices that one dies at once, and need not wait for its lease to expire."""
    pool = await site.pool(lease_seconds=600.0)
    first = await site.host("h1")
    await pool.spawn()
    await site.until_running(1)
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


@pytest.mark.parametrize("poll_seconds", [0.2, 30.0])
async def test_the_workers_of_a_dead_host_are_reaped_by_another_within_a_lease(
    site: Site, poll_seconds: float
) -> None:
    """`poll_seconds` is only for pools without workers."""
    pool = await site.pool(lease_seconds=SHORT_SECONDS)
    first = await site.host("h1", poll_seconds=poll_seconds)
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    await site.until_running(3)
    await site.host("h2", poll_seconds=poll_seconds)
    pids = (await site.workers()).values()
    await abandon(first)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    clock = asyncio.get_running_loop().time
    deadline = clock() + SHORT_SECONDS + 2
    await until(lambda: types(site.url).count("agent.lost") == 3, timeout=deadline - clock())
    await site.until_running(3, timeout=deadline - clock())
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    site.check()


async def test_orders_for_a_dead_host_go_to_another(site: Site) -> None:
    """It did not record that it left: its first order expires, and then it gets no more."""
    pool = await site.pool(agents_per_worker=1, launch_seconds=1.0, lease_seconds=SHORT_SECONDS)
    gone = await site.host("h1")
    await site.host("h2")
    await abandon(gone)
    await asyncio.gather(*(pool.spawn() for _ in range(4)))
    await site.until_running(4, timeout=20)
    assert {o.worker.host for o in (await site.survey()).workers} == {"h2"}
    assert (await site.catalogue.refresh()).hosts["h1"].status == "left"
    site.check()


async def abandon(supervisor: Supervisor) -> None:
    """End as after `kill -9` of the supervisor: nothing is drained or recorded."""
    await supervisor._stop_tasks()
    supervisor._joined = False
    await supervisor.stop()


async def test_a_stopped_process_is_replaced_and_writes_nothing_when_it_continues(
    site: Site,
) -> None:
    pool = await site.pool(lease_seconds=SHORT_SECONDS)
    await site.host()
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    await site.until_running(3)
    [(worker_id, pid)] = (await site.workers()).items()
    os.kill(pid, signal.SIGSTOP)
    try:
        bound = SHORT_SECONDS + 2
        await until(lambda: types(site.url).count("agent.lost") == 3, timeout=bound)
        await site.until_running(3)
        last = len(raw_events(site.url))
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: not psutil.pid_exists(pid), timeout=8, what="it ended itself")
    later = [e for e in raw_events(site.url)[last:] if e["worker_id"] == worker_id]
    assert later == []
    site.check()


async def test_a_closed_pool_is_emptied_and_deleted_by_its_leader(
    site: Site,
) -> None:
    pool = await site.pool()
    await site.host()
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    await site.until_running(3)
    assert not await site.catalogue.close_pool(pool.pool, ORIGIN, vacant=True)
    assert await site.catalogue.close_pool(pool.pool, ORIGIN, vacant=False)

    async def gone() -> bool:
        catalogue = await site.catalogue.refresh()
        return POOL not in catalogue.live_pools() and not (await site.survey()).workers

    await until(gone, timeout=20)
    assert (await pool.spawn()).outcome == "CLOSED"
    reasons = [e["data"] for e in raw_events(site.url) if e["type"] == "agent.terminated"]
    assert reasons == ['{"reason":"pool-deleted"}'] * 3


async def test_a_late_deletion_does_not_touch_a_later_pool_of_the_same_name(
    site: Site,
) -> None:
    """A leader is stopped after it closed the pool; another deletes it, and it is created again."""
    pool = await site.pool()
    before = pool.pool
    assert await site.catalogue.close_pool(before, ORIGIN, vacant=True)
    await site.catalogue.delete_pool(before, ORIGIN, reason="requested")
    later = await site.pool()
    assert later.pool.created_seq > before.created_seq
    spawned = await later.spawn()
    end = Terminate(reason="pool-deleted")
    seqs = before.created_seq, later.pool.created_seq
    for created_seq, outcome in zip(seqs, ("FENCED", "DONE"), strict=True):
        acted = await site.log.act(POOL, spawned.agent_id, end, ORIGIN, created_seq=created_seq)
        assert acted.outcome == outcome
    changed = await site.catalogue.delete_pool(before, ORIGIN, reason="requested")
    assert changed.outcome == "ABSENT"
    assert POOL in changed.catalogue.live_pools()


@pytest.mark.parametrize("late", [False, True])
async def test_a_pool_that_is_created_again_is_supervised_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """A deleted pool is polled rarely. `late`: the catalogue is read after the pool was noticed."""
    pool = await site.pool()
    host = await site.host()
    await site.catalogue.close_pool(pool.pool, ORIGIN, vacant=True)
    await site.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
    await until(lambda: host._catalogue.state.pools[POOL].deleted)
    await until(lambda: host._pools[POOL].wakeup.is_set() is False)
    refresh = host._catalogue.refresh

    async def refresh_late() -> Catalogue:
        await asyncio.sleep(0.5)
        return await refresh()

    if late:
        monkeypatch.setattr(host._catalogue, "refresh", refresh_late)
    await asyncio.sleep(1.0)  # its first polls of the deleted one are over
    await site.pool(min_workers=1)

    async def launched() -> bool:
        return len(await site.workers()) == 1

    await until(launched, timeout=20)  # a deleted one is polled once a minute


async def test_an_agent_that_entered_a_deleted_pool_is_ended(site: Site) -> None:
    """Its spawn was delayed while its pool, and the next of that name, were deleted."""
    lives = []
    for _ in range(2):
        lives.append(pool := await site.pool())
        await site.catalogue.close_pool(pool.pool, ORIGIN, vacant=True)
        await site.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
    late = await lives[0].spawn()
    assert late.outcome == "DONE"
    await site.host()

    async def ended() -> bool:
        agent = await site.log.agent(POOL, late.agent_id)
        return agent is not None and (agent.status, agent.reason) == ("terminated", "pool-deleted")

    await until(ended)
    assert (await site.survey()).waiting == 0


async def test_workers_that_die_at_once_are_not_launched_in_a_tight_loop(site: Site) -> None:
    (site.folder / "suicidal.py").write_text(
        "import os\nfrom muster import Agent\n"
        "class Suicidal(Agent):\n"
        "    async def start(self, context):\n        os._exit(3)\n"
    )
    pool = await site.pool()
    await site.host(agent="suicidal:Suicidal")
    await pool.spawn()
    await until(lambda: types(site.url).count("worker.lost") >= 3, timeout=10)
    before = types(site.url).count("worker.lost")
    with pytest.raises(AssertionError):  # bounded: not many in a second
        await until(lambda: types(site.url).count("worker.lost") > before + 4, timeout=1.0)


@pytest.mark.parametrize("bad", ["h1", "h2"])
async def test_a_host_that_starts_no_worker_does_not_prevent_launches_on_another(
    site: Site, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always has the fewest workers, and would get every order. `h1` leads."""
    pool = await site.pool(agents_per_worker=1)
    hosts = {name: await site.host(name) for name in ("h1", "h2")}

    async def fail(_: object) -> Process:
        raise LaunchFailed("no memory")

    monkeypatch.setattr(hosts[bad]._processes._launcher, "launch", fail)
    await asyncio.gather(*(pool.spawn() for _ in range(4)))
    await site.until_running(4)
    assert types(site.url).count("worker.lost") < 12
    site.check()


async def test_a_pool_supervisor_that_is_woken_and_cancelled_at_once_ends(site: Site) -> None:
    """`asyncio.wait_for` of Python 3.11 loses the cancellation then, and a stop would never end."""
    await site.pool()
    supervisor = await site.host()
    [task] = [task for task in supervisor._tasks if task.get_name() == f"pool {POOL}"]
    wake = supervisor._pools[POOL].wakeup
    await until(lambda: wake._waiters, what="it waits to be woken")
    wake.set()
    task.cancel()
    ended, _ = await asyncio.wait({task}, timeout=10)
    assert ended == {task}


async def test_a_class_that_cannot_be_imported_ends_the_start(site: Site) -> None:
    (site.folder / "broken.py").write_text("import nothing_of_that_name\n")
    await site.pool()
    with pytest.raises(ConfigurationError, match="nothing_of_that_name"):
        await site.host(agent="broken:Thing")


async def test_an_import_that_starts_threads_is_done_after_the_fork(site: Site) -> None:
    (site.folder / "threaded.py").write_text(
        "import threading\nfrom muster import Agent\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "class Threaded(Agent): ...\n"
    )
    pool = await site.pool()
    await site.host(agent="threaded:Threaded")
    await pool.spawn()
    await site.until_running(1)


async def test_a_host_has_one_supervisor(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.supervisor.supervisor.LOCK_TIMEOUT_SECONDS", 0.1)
    await site.pool()
    await site.host("h1")
    with pytest.raises(ConfigurationError, match="already has a supervisor"):
        await site.host("h1")


async def test_due_restarts_are_requeued_and_late_spawns_withdrawn(site: Site) -> None:
    (site.folder / "once.py").write_text(
        "from muster import Agent\n"
        "class Once(Agent):\n"
        "    async def run(self, context):\n"
        "        if context.incarnation == 1:\n            raise ValueError('first')\n"
        "        async with context.idle():\n"
        "            import asyncio\n            await asyncio.Event().wait()\n"
    )
    pool = await site.pool(max_workers=1, agents_per_worker=1)
    await site.host(agent="once:Once")
    await pool.spawn()

    async def restarted() -> bool:
        [name] = await site.log.live(POOL)
        agent = await site.log.agent(POOL, name)
        return agent is not None and (agent.status, agent.incarnation) == ("running", 2)

    await until(restarted, timeout=15)
    late = await pool.spawn(expires_ms=site.log.now_ms(POOL) + 300)
    await until(lambda: "agent.terminated" in types(site.url))
    ended = next(e for e in raw_events(site.url) if e["type"] == "agent.terminated")
    assert (ended["subject"], ended["data"]) == (late.agent_id, '{"reason":"pending-timeout"}')
    site.check()
