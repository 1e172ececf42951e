"""A supervisor that was stopped between its survey and what it does by it, and goes on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from eventstore.agent import Release, Status
from eventstore.worker import WorkerStatus
from tests.integration.test_supervisor import POOL, Site
from tests.integration.test_supervisor_poison import Ended
from tests.pools import ORIGIN, TestPool
from workers.leading import Catalogued, Leader
from workers.watch import Watch


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(redis_url, tmp_path)
    yield site
    await site.close()


def watch_of(pool: TestPool) -> Watch:
    return Watch("h", pool.log, cast("Any", Ended()), lambda: pool.pool)


def leader_of(pool: TestPool) -> Leader:
    async def nothing(_: object) -> None:
        pass

    catalogued = Catalogued(lambda: pool.pool, lambda: ["h"], nothing, nothing)
    return Leader("h", pool.log, watch_of(pool), catalogued)


async def status(pool: TestPool, worker_id: str) -> WorkerStatus:
    found = await pool.log.worker(POOL, worker_id)
    assert found is not None
    return found.worker.status


async def test_a_worker_that_started_late_is_not_taken_for_an_order_that_lapsed(
    site: Site,
) -> None:
    """Its process lives, and would run its agents beside their next incarnation."""
    pool = await site.pool()
    await pool.order("w", deadline_ms=1)
    survey = await site.survey()
    await pool.start("w")
    await leader_of(pool)._do_what_is_due(survey)
    assert await status(pool, "w") is WorkerStatus.ACTIVE


async def test_a_host_that_leaves_drains_a_worker_that_has_just_started(site: Site) -> None:
    pool = await site.pool()
    await pool.order("w")
    survey = await site.survey()
    await pool.start("w")
    watch = watch_of(pool)
    watch.draining = "host-shutdown"
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
    await leader_of(pool)._do_what_is_due(survey)
    agent = await pool.log.agent(POOL, spawned.agent_id)
    assert agent is not None
    assert (agent.status, agent.incarnation) == (Status.PENDING, 2)
