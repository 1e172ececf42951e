"""Decisions about a pool's size, as a running supervisor records them."""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.language.events import PoolScalingDecided
from eventstore.language.pool_config import PoolConfig
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


def made_again(recorded: Iterable[PoolScalingDecided], config: PoolConfig) -> None:
    """From what each records `decide_scale` gives what was decided."""
    for event in recorded:
        assert event.observed is not None
        assert event.memory is not None
        decision, _ = decide_scale(event.observed, config.scale_policy, event.memory)
        assert (decision.current, decision.desired) == (event.current, event.desired)
        assert (decision.wanted, decision.limit) == (event.wanted, event.limit)
        assert decision.candidates == event.candidates


DOWN = BehaviourSettings(window_seconds=0.3)
CALM = {"up": BehaviourSettings(workers_per_minute=3), "down": DOWN, "buffer": 4, "max_workers": 5}
HASTY = {"preset": "proactive", "down": DOWN, "max_workers": 6}


@pytest.mark.parametrize("policy", [CALM, HASTY], ids=["calm", "hasty"])
async def test_a_run_of_several_waves_can_be_decided_again_exactly(
    site: Site, policy: dict[str, Any]
) -> None:
    """Up, a part down, up again, with limits that hold back, and each decision is the same."""
    pool = await site.pool(agents_per_worker=5, **policy)
    await site.host()
    living: list[str] = []
    for wave, kept in ((8, 3), (30, 0)):
        known = len(decisions(site))
        spawned = await asyncio.gather(*(pool.spawn() for _ in range(wave)))
        living += [one.agent_id for one in spawned]
        await until(lambda: len(decisions(site)) > known, timeout=10, what="one more decision")  # noqa: B023
        ended, living = living[kept:], living[:kept]
        await asyncio.gather(*(site.log.act(POOL, one, Terminate(), ORIGIN) for one in ended))
    await until(lambda: decisions(site)[-1].wanted < decisions(site)[-1].current, timeout=10)
    recorded = decisions(site)
    assert len(recorded) >= 3
    assert {one.limit for one in recorded} - {""}
    made_again(recorded, pool.pool.config)
    site.check()


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
