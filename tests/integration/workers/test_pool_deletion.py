"""A pool is closed, emptied and deleted, and may be created again."""

import asyncio
from math import inf

import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Catalogue
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, raw_events
from tests.waiting import until


async def test_a_closed_pool_is_emptied_and_deleted_by_its_leader(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    await site.run(pool, 3)
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
    """A leader stops after it closed the pool; another deletes it, and it is created again."""
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
    pauses: list[float] = []
    reconcile, refresh = host._pools[POOL].reconcile, host._catalogue.refresh

    async def noted() -> float:
        pauses.append(await reconcile())
        return pauses[-1]

    monkeypatch.setattr(host._pools[POOL], "reconcile", noted)
    host._wake_all()
    await until(lambda: pauses and pauses[-1] == inf)

    async def refresh_late() -> Catalogue:
        await asyncio.sleep(0.3)
        return await refresh()

    if late:
        monkeypatch.setattr(host._catalogue, "refresh", refresh_late)
    await site.pool(min_workers=1)

    async def launched() -> bool:
        return len(await site.workers()) == 1

    await until(launched, timeout=20)  # a deleted one is not polled


async def test_an_agent_that_entered_a_deleted_pool_is_ended(site: Site) -> None:
    """Its spawn was delayed while its pool, and the next of that name, were deleted."""
    pools = []
    for _ in range(2):
        pools.append(pool := await site.pool())
        await site.catalogue.close_pool(pool.pool, ORIGIN, vacant=True)
        await site.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
    late = await pools[0].spawn()
    assert late.outcome == "DONE"
    await site.host()

    async def ended() -> bool:
        agent = await site.log.agent(POOL, late.agent_id)
        return agent is not None and (agent.status, agent.reason) == ("terminated", "pool-deleted")

    await until(ended)
    assert (await site.survey()).waiting == 0
