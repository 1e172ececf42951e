"""Pools whose workers run what they have: only leases are observed until something changes."""

import os
import signal
from collections import Counter

import pytest

from tests.integration.workers.hosts import POOL, SHORT_SECONDS, Site
from tests.waiting import until
from workers.supervisor.pool_supervisor import PoolSupervisor
from workers.supervisor.resting_pools import RestingPools
from workers.supervisor.supervisor import Supervisor


async def resting(site: Site, *, poll_seconds: float, **config: float) -> Supervisor:
    """A host with a pool of one worker at rest."""
    pool = await site.pool(agents_per_worker=2, **config)
    host = await site.host(poll_seconds=poll_seconds)
    await site.run(pool, 2)
    await until(lambda: host._pools[POOL].resting and not host._pools[POOL].wakeup.is_set())
    return host


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many surveys of pools, and checks of those at rest, were made."""
    counts: Counter[str] = Counter()
    reconcile, check = PoolSupervisor.reconcile, RestingPools.check

    async def counted_reconcile(self: PoolSupervisor) -> float:
        counts["surveys"] += 1
        return await reconcile(self)

    async def counted_check(self: RestingPools) -> None:
        await check(self)
        counts["checks"] += 1

    monkeypatch.setattr(PoolSupervisor, "reconcile", counted_reconcile)
    monkeypatch.setattr(RestingPools, "check", counted_check)
    return counts


async def test_a_pool_at_rest_is_not_surveyed(site: Site, calls: Counter[str]) -> None:
    host = await resting(site, poll_seconds=0.2)
    first = calls["checks"] + 2
    await until(lambda: calls["checks"] >= first)  # what is new to the net wakes once
    before = Counter(calls)
    await until(lambda: calls["checks"] >= before["checks"] + 8)
    assert calls["surveys"] - before["surveys"] <= 1
    assert host._pools[POOL].resting


async def test_a_spawn_ends_the_rest(site: Site) -> None:
    await resting(site, poll_seconds=60.0)
    pool = await site.pool()
    await pool.spawn()
    await site.until_running(3)
    assert len(await site.workers()) == 2


async def test_a_lease_that_lapses_at_rest_is_noticed(site: Site, calls: Counter[str]) -> None:
    """By the check of all leases: the pool itself is surveyed every twelve seconds."""
    host = await resting(site, poll_seconds=60.0, lease_seconds=SHORT_SECONDS)
    ((worker, pid),) = (await site.workers()).items()
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: not host._pools[POOL].resting, timeout=SHORT_SECONDS * 3)

    async def replaced() -> bool:
        return set(await site.incarnations()) == {2} and worker not in await site.workers()

    await until(replaced, timeout=15)
    os.kill(pid, signal.SIGKILL)  # it would not end while it is stopped
