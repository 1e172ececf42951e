"""A supervisor whose survey is stale when it acts on it: it was slow, or stopped meanwhile."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from eventstore.errors import LogUnreachable
from eventstore.language.agent_commands import Release
from eventstore.language.agents import Status
from eventstore.language.workers import WorkerStatus
from eventstore.log.replies import Leadership
from eventstore.log.survey import Survey
from tests.integration.workers.hosts import POOL, Site
from tests.integration.workers.test_isolation import Ended
from tests.pools import ORIGIN, TestPool
from workers.supervisor import reaper
from workers.supervisor.leader import Leader, run_due
from workers.supervisor.pool_supervisor import PoolSupervisor
from workers.supervisor.worker_monitor import PoolContext, WorkerMonitor


def watch_of(pool: TestPool) -> WorkerMonitor:
    return WorkerMonitor(context_of(pool))


class Hosts:
    """A catalogue in which `h` has joined."""

    state = SimpleNamespace(hosts={"h": SimpleNamespace(host="h", status="joined", joined_ms=1)})

    async def delete_pool(self, *_: object, **__: object) -> None:
        pass

    async def leave_host(self, *_: object) -> None:
        pass


class Reports:
    """No host has reported, for so many seconds."""

    seconds = 0.0

    def silent_seconds(self, _: str) -> float:
        return self.seconds

    async def read(self) -> dict[str, object]:
        return {}


def context_of(
    pool: TestPool,
    host: str = "h",
    local: object = None,
    *,
    poll_seconds: float = 1.0,
    reports: Reports | None = None,
) -> PoolContext:
    return PoolContext(
        host,
        pool.pool_log,
        cast("Any", local or Ended()),
        cast("Any", Hosts()),
        lambda: pool.pool,
        cast("Any", reports or Reports()),
        poll_seconds,
    )


def leader_of(pool: TestPool) -> Leader:
    return Leader(context_of(pool), watch_of(pool))


async def status(pool: TestPool, worker_id: str) -> WorkerStatus:
    found = await pool.log.worker(POOL, worker_id)
    assert found is not None
    return found.worker.status


async def test_a_worker_that_started_late_is_not_declared_lost_as_an_expired_order(
    site: Site,
) -> None:
    """Its process lives, and would run its agents at the same time as their next incarnation."""
    pool = await site.pool()
    await pool.order("w", deadline_ms=1)
    survey = await site.survey()
    await pool.start("w")
    await leader_of(pool)._expire_orders(survey)
    assert await status(pool, "w") is WorkerStatus.ACTIVE


async def test_a_host_that_leaves_drains_a_worker_that_has_just_started(site: Site) -> None:
    pool = await site.pool()
    await pool.order("w")
    survey = await site.survey()
    await pool.start("w")
    watch = watch_of(pool)
    watch.drain_reason = "host-shutdown"
    await watch._launch_ordered(survey)
    assert await status(pool, "w") is WorkerStatus.ACTIVE
    await watch._drain_host(await site.survey())
    assert await status(pool, "w") is WorkerStatus.DRAINING


async def test_an_agent_that_was_claimed_in_time_and_waits_again_is_not_withdrawn(
    site: Site,
) -> None:
    pool = await site.pool()
    spawned = await pool.spawn(expires_ms=1)
    survey = await site.survey()
    assert [agent_id for agent_id, _ in survey.timeouts] == [spawned.agent_id]
    worker = await pool.worker("w")
    await pool.claim(worker)
    await pool.log.act(POOL, spawned.agent_id, Release(reason="drain"), ORIGIN, fence=worker)
    await run_due(pool.pool_log, survey)
    agent = await pool.log.agent(POOL, spawned.agent_id)
    assert agent is not None
    assert (agent.status, agent.incarnation) == (Status.PENDING, 2)


async def test_the_duration_of_a_survey_does_not_count_against_a_lease(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survey was true when its reply came, not when it was sent."""
    pool = await site.pool(lease_seconds=2.0)
    await pool.worker("w")
    clock, survey = [100.0], pool.pool_log.survey

    async def slow(**how: int) -> Survey:
        clock[0] += 1.9
        return await survey(**how)

    monkeypatch.setattr("workers.supervisor.pool_supervisor.boot_seconds", lambda: clock[0])
    pool_supervisor = PoolSupervisor(context_of(pool, "other"))
    monkeypatch.setattr(pool.pool_log, "survey", slow)
    await pool_supervisor.reconcile()
    monkeypatch.setattr(pool.pool_log, "survey", survey)
    clock[0] += 0.3
    await pool_supervisor.reconcile()
    assert await status(pool, "w") is WorkerStatus.ACTIVE


async def test_observations_of_an_earlier_term_prove_nothing_in_this_one(site: Site) -> None:
    """A worker that was empty then, and full while another host led, was not empty all the time."""
    pool = await site.pool(empty_worker_seconds=10.0)
    await pool.worker("w")
    leader = leader_of(pool)

    async def reconcile(seconds: float) -> None:
        survey = await site.survey()
        await leader.reconcile(replace(survey, ts=survey.ts + int(seconds * 1000)), seconds)

    await reconcile(1.0)
    _, other = await pool.log.lead(POOL, "other", 0, stale=leader._lead)
    await reconcile(5.0)
    assert leader._lead.host == "other"
    await pool.log.lead(POOL, "h", 0, stale=other)
    await reconcile(100.0)
    assert await status(pool, "w") is WorkerStatus.ACTIVE
    await reconcile(111.0)
    assert await status(pool, "w") is WorkerStatus.DRAINING


async def test_a_worker_retains_agents_that_it_claimed_after_the_survey(site: Site) -> None:
    """The worker is not in the survey, like a foreign consumer of the queue."""
    pool = await site.pool()
    leader, survey = leader_of(pool), await site.survey()
    spawned = await pool.spawn()
    fence = await pool.worker("w")
    [claimed] = await pool.claim(fence)
    pending = await reaper.pending_for(pool.pool_log, "w")
    assert [agent_id for _, agent_id in pending] == [spawned.agent_id]
    await leader.reconcile(survey, 1.0)
    assert await reaper.pending_for(pool.pool_log, "w") == pending
    assert await pool.log.agent(POOL, spawned.agent_id) == claimed.agent


async def test_a_leader_whose_renewal_failed_renews_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its lease is nearly over before it tries again."""
    pool = await site.pool()
    leader, survey = leader_of(pool), await site.survey()
    await leader._acquire_lead(survey, 100.0)
    asked = []

    async def lead(host: str, term: int) -> tuple[object, Leadership]:
        asked.append(term)
        if len(asked) == 1:
            raise LogUnreachable("no answer")
        return None, leader._lead

    monkeypatch.setattr(leader, "_pool_log", SimpleNamespace(pool=POOL, lead=lead))
    due = 100.0 + pool.pool.config.lease_seconds / 4
    with pytest.raises(LogUnreachable):
        await leader._acquire_lead(survey, due)
    await leader._acquire_lead(survey, due + 0.1)
    assert asked == [leader._lead.term] * 2
