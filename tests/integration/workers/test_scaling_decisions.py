"""Decisions about a pool's size, as a running supervisor records them."""

import asyncio
import itertools

import msgspec
import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.language.events import PoolScalingDecided
from eventstore.language.scale_policy import BehaviourSettings
from eventstore.language.scaling import decide_scale
from eventstore.language.schedules import Schedule
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, TestPool, raw_events
from tests.waiting import until


def decisions(site: Site) -> list[PoolScalingDecided]:
    found = [e["data"] for e in raw_events(site.url) if e["type"] == "pool.scaling_decided"]
    return [msgspec.json.decode(data, type=PoolScalingDecided) for data in found]


async def live_through(site: Site, pool: TestPool) -> list[PoolScalingDecided]:
    """Twenty-five agents at once in a pool that may have twenty, then none."""
    await site.host()
    ids = [(await pool.spawn()).agent_id for _ in range(25)]
    await until(lambda: any(one.limit == "max_workers" for one in decisions(site)), timeout=10)
    await asyncio.gather(*(site.log.act(POOL, one, Terminate(), ORIGIN) for one in ids))
    await until(lambda: decisions(site)[-1].desired == 0, timeout=10, what="all are stopped")
    return decisions(site)


async def test_each_can_be_made_again_from_what_it_records(site: Site) -> None:
    down = BehaviourSettings(window_seconds=0.5)
    pool = await site.pool(max_workers=2, preset="proactive", down=down)
    recorded = await live_through(site, pool)
    for event in recorded:
        assert event.observed is not None
        assert event.memory is not None
        decision, _ = decide_scale(event.observed, pool.pool.config.scale_policy, event.memory)
        assert (decision.current, decision.desired) == (event.current, event.desired)
        assert (decision.wanted, decision.limit) == (event.wanted, event.limit)
        assert decision.candidates == event.candidates


async def test_what_a_limit_holds_back_is_recorded_once(site: Site) -> None:
    pool = await site.pool(max_workers=2, down=BehaviourSettings(window_seconds=0.8))
    recorded = await live_through(site, pool)
    unchanged = [one.limit for one in recorded if one.desired == one.current]
    assert unchanged
    assert set(unchanged) <= {"max_workers", "down.window_seconds", "host_room", "occupied"}
    for before, after in itertools.pairwise(recorded):
        if before.desired == before.current and after.desired == after.current:
            assert before.limit != after.limit
    site.check()


async def test_a_schedule_starts_workers_of_a_pool_that_nothing_was_asked_of(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not idle: its time comes later."""
    called: list[int] = []
    due = 0

    def scheduled(*_: object) -> int:
        called.append(due)
        return due

    monkeypatch.setattr("eventstore.language.scaling.scheduled_workers", scheduled)
    await site.pool(schedules=(Schedule(cron="0 8 * * *", min_workers=2),))
    await site.host()
    await until(lambda: len(called) > 4, what="it is decided again and again")
    due = 2

    async def started() -> bool:
        return len(await site.workers()) == 2

    await until(started, timeout=10)
    assert decisions(site)[-1].reason == "schedule"
