"""A supervisor that polls rarely still notices in time when a worker or a leader dies.

Time is made: every pause is over at once, and as long as the jitter can make it.
"""

from math import inf

import pytest
from msgspec.structs import replace

from eventstore.language.agent_commands import Terminate
from eventstore.language.workers import WorkerStatus
from eventstore.log.replies import Leadership, Outcome
from tests.integration.workers.hosts import POOL, Site
from tests.integration.workers.test_stale_surveys import Reports, context_of, status
from tests.pools import ORIGIN, TestPool
from workers.supervisor.host_reports import REPORT_SECONDS
from workers.supervisor.pool_supervisor import PoolSupervisor

LONGEST = 1.2
"""The longest pause, with jitter, relative to the one without."""
POLLS = (1.0, 3.5, 60.0)


class PolledPool:
    """One host's supervisor of a pool; its polls take simulated time."""

    def __init__(self, pool: TestPool, patch: pytest.MonkeyPatch, poll_seconds: float) -> None:
        self.now = 100.0
        self.busy_seconds = 0.0
        patch.setattr("workers.supervisor.pool_supervisor.boot_seconds", lambda: self.now)
        lead = pool.pool_log.lead

        async def slow(
            host: str, term: int, stale: Leadership | None = None
        ) -> tuple[Outcome, Leadership]:
            self.now += self.busy_seconds
            return await lead(host, term, stale)

        patch.setattr(pool.pool_log, "lead", slow)
        self.reports = Reports()
        context = context_of(pool, "other", poll_seconds=poll_seconds, reports=self.reports)
        self.supervisor = PoolSupervisor(context)

    async def poll(self) -> float:
        """Poll once, and let the pause after it pass, if it ends; returns its length."""
        pause = await self.supervisor.reconcile() * LONGEST
        self.now += pause if pause < inf else 60.0
        return pause


async def leading(pool: TestPool) -> str:
    _, lead = await pool.log.lead(POOL, "who asks", 0)
    return lead.host


@pytest.mark.parametrize("poll_seconds", POLLS)
@pytest.mark.parametrize("lease_seconds", [2.0, 10.0, 30.0])
@pytest.mark.parametrize("busy_seconds", [0.0, 1.0])
async def test_a_worker_that_does_not_renew_is_reaped_about_a_lease_later(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    poll_seconds: float,
    lease_seconds: float,
    busy_seconds: float,
) -> None:
    """Also by a supervisor whose polls are slow."""
    pool = await site.pool(lease_seconds=lease_seconds)
    await pool.worker("w")
    polled = PolledPool(pool, monkeypatch, poll_seconds)
    polled.busy_seconds = busy_seconds
    started = polled.now
    while await status(pool, "w") is not WorkerStatus.LOST:
        assert polled.now - started < 1.5 * lease_seconds + 3 * busy_seconds
        await polled.poll()


@pytest.mark.parametrize("poll_seconds", POLLS)
async def test_a_dead_leader_is_replaced_once_there_is_something_to_lead(
    site: Site, monkeypatch: pytest.MonkeyPatch, poll_seconds: float
) -> None:
    pool = await site.pool()
    lease_seconds = pool.pool.config.lease_seconds
    await pool.log.lead(POOL, "dead", 0)
    polled = PolledPool(pool, monkeypatch, poll_seconds)
    for _ in range(3):
        assert await polled.poll() == inf, "an idle pool is not polled"
    await pool.spawn()
    started = polled.now
    while await leading(pool) == "dead":
        assert polled.now - started < 1.5 * lease_seconds
        await polled.poll()


async def test_a_pool_that_is_to_have_workers_is_not_idle(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await site.pool(min_workers=1)
    await pool.log.lead(POOL, "dead", 0)
    polled = PolledPool(pool, monkeypatch, 60.0)
    while await leading(pool) == "dead":
        assert polled.now - 100.0 < 1.5 * pool.pool.config.lease_seconds
        await polled.poll()


async def test_the_leader_of_an_idle_pool_need_not_renew_its_lead(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has a whole lease for it once there is something to lead."""
    pool = await site.pool(lease_seconds=1.0)
    await pool.log.lead(POOL, "silent", 0)
    polled = PolledPool(pool, monkeypatch, 0.6)
    for _ in range(3):
        await polled.poll()
    await pool.spawn()
    await polled.poll()
    assert await leading(pool) == "silent"


async def test_the_leader_of_an_idle_pool_is_replaced_when_its_host_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the first spawn need not wait for a lease."""
    pool = await site.pool(lease_seconds=1.0)
    await pool.log.lead(POOL, "dead", 0)
    polled = PolledPool(pool, monkeypatch, 1.0)
    await polled.poll()
    polled.reports.seconds = REPORT_SECONDS * 2
    assert not polled.supervisor.leader_is_gone(), "it may just be late"
    polled.reports.seconds += 1.1
    assert polled.supervisor.leader_is_gone()
    await polled.poll()
    assert await leading(pool) == "other"
    assert not polled.supervisor.leader_is_gone()


async def test_a_pool_that_is_empty_again_is_not_polled_any_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await site.pool()
    await pool.log.lead(POOL, "another", 0)
    polled = PolledPool(pool, monkeypatch, 60.0)
    spawned = await pool.spawn()
    assert await polled.poll() < pool.pool.config.lease_seconds
    await pool.log.act(POOL, spawned.agent_id, Terminate(), ORIGIN)
    assert await polled.poll() == inf


async def test_a_deleted_pool_is_not_polled_unless_it_contains_something(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are never forgotten: thousands of them would use all of a supervisor's time."""
    pool = await site.pool()
    await pool.log.lead(POOL, "another", 0)
    spawned = await pool.spawn()
    pool.pool = replace(pool.pool, deleted=True)
    polled = PolledPool(pool, monkeypatch, 0.2)
    assert await polled.poll() < 1.0
    await pool.log.act(POOL, spawned.agent_id, Terminate(), ORIGIN)
    assert await polled.poll() == inf
    assert polled.supervisor.deleted


async def test_agents_that_wait_too_long_are_withdrawn_on_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there are many: one poll withdraws a hundred."""
    pool = await site.pool(lease_seconds=10.0, max_workers=1)
    polled = PolledPool(pool, monkeypatch, 1.0)
    await polled.poll()
    now_ms = pool.log.now_ms(POOL)
    for _ in range(101):
        await pool.spawn(expires_ms=now_ms)
    await pool.spawn(expires_ms=now_ms + 60_000)
    assert await polled.poll() < 0.1
    assert await polled.poll() < 0.1
    assert await polled.poll() > 0.5
    assert len(await pool.log.live(POOL)) == 1
