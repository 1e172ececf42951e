"""What projectors report: each event once, and the state of the system from the active one only.

What is counted while events are folded is tried on one kind of database, what is read on both.
"""

import asyncio
from typing import Any

import pytest
import redis

from eventstore.language.agent_commands import Terminate
from eventstore.language.events import PoolScalingDecided
from eventstore.retention import Retention
from projector.service.projector import Phase, Projector
from projector.store.database import Database
from projector.store.lease import Lease
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.metrics import Samples, scrape, total
from tests.pools import ORIGIN
from tests.waiting import until

STATE = (
    "muster_agents",
    "muster_worker_slots_used",
    "muster_worker_slots_available",
    "muster_autoscaler_current_workers",
    "muster_stream_lag",
    "muster_stream_pending",
    "muster_stream_entries",
    "muster_stream_trimmed_total",
    "muster_parked",
    "muster_projection_backlog_events",
    "muster_projection_stopped",
    "muster_redis_memory_bytes",
    "muster_redis_clients",
)
"""What only the active projector reports."""


async def standby(stage: Stage) -> Projector:
    projector = stage.projector(metrics=True, name="second")
    await projector.start()
    await until(lambda: projector.phase is Phase.STANDBY)
    return projector


async def test_state_and_events_of_a_pool(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(metrics=True) as projector:
            fence = await pool.worker("w1")
            first, second = await stage.started(pool, fence, 2)
            await pool.spawn()
            await stage.crash(pool, second, fence)
            await stage.act(pool, first, Terminate(reason="requested"))
            await stage.settle(POOL)
            samples = await scrape(projector.metrics)
        assert samples.keys() >= {*STATE}
        assert samples["muster_projector_active"] == {(): 1}
        assert samples["muster_agents"] == {
            (POOL, "developer", "stopping"): 1,
            (POOL, "developer", "restarting"): 1,
            (POOL, "developer", "pending"): 1,
        }
        assert samples["muster_worker_slots_used"] == {(POOL,): 1}
        assert samples["muster_worker_slots_available"] == {(POOL,): 9}
        assert samples["muster_stream_lag"] == {(POOL,): 1}
        assert samples["muster_stream_pending"] == {(POOL,): 0}
        assert samples["muster_projection_backlog_events"] == {
            (POOL,): 0,
            ("muster:catalogue",): 0,
        }
        assert total("muster_spawns_total", samples) == 3
        assert total("muster_spawn_schedule_to_start_seconds_count", samples) == 2
        assert total("muster_agent_start_seconds_count", samples) == 2
        assert total("muster_projection_lag_seconds_count", samples) >= 2
        assert samples["muster_projection_lag_seconds_sum"][POOL,] < 60


async def test_counters_that_alerts_are_made_of_begin_with_zero(
    redis_url: str, views_url: str
) -> None:
    """Prometheus would not see the first failure of a pool."""
    async with open_stage(redis_url, views_url) as stage:
        await stage.pool()
        async with stage.projecting(metrics=True) as projector:
            await stage.settle()
            samples = await scrape(projector.metrics)
        assert samples["muster_spawns_total"] == {(POOL,): 0}
        assert samples["muster_agents_ended_total"][POOL, "start-budget-spent", "failed"] == 0
        assert samples["muster_workers_lost_total"]["lease", POOL] == 0
        assert samples["muster_restarts_total"][POOL, "crashed"] == 0


async def test_without_the_option_nothing_is_measured(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        await stage.pool()
        async with stage.projecting() as projector:
            assert projector.metrics is None


async def test_of_two_projectors_sums_are_right_also_after_one_has_died(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(metrics=True) as first:
            second = await standby(stage)
            try:
                await pool.spawn()
                await stage.settle()
                scraped = await scrape(first.metrics), await scrape(second.metrics)
                _sums_are_right(*scraped, spawns=1)
                assert not scraped[1].keys() & {*STATE}
                await first.stop()
                await until(lambda: second.phase is Phase.ACTIVE)
                await pool.spawn()
                await stage.settle()
                scraped = await scrape(first.metrics), await scrape(second.metrics)
                _sums_are_right(*scraped, spawns=2)
                assert not scraped[0].keys() & {*STATE}
            finally:
                await second.stop()


def _sums_are_right(*scraped: Samples, spawns: int) -> None:
    assert total("muster_projector_active", *scraped) == 1
    assert total("muster_spawns_total", *scraped) == spawns
    assert total("muster_agents", *scraped) == spawns
    assert total("muster_stream_entries", *scraped) == spawns


async def test_one_that_was_superseded_and_does_not_know_it_reports_no_state(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        await stage.pool()
        async with stage.projecting(metrics=True, lease_seconds=60.0) as projector:
            database = Database(stage.database_url)
            database.open()
            await Lease(database).seize()
            samples = await scrape(projector.metrics)
            assert projector.phase is Phase.ACTIVE
            assert samples["muster_projector_active"] == {(): 0}
            assert not samples.keys() & {*STATE}
            await database.close()


async def test_the_series_of_a_deleted_pool_go(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        async with stage.projecting(metrics=True) as projector:
            for one in (pool, other):
                await one.spawn()
            await stage.settle()
            assert _pools(await scrape(projector.metrics)) == {POOL, "other"}
            [agent_id] = await stage.log.live("other")
            await stage.act(other, agent_id, Terminate(reason="pool-deleted"))
            await stage.catalogue.delete_pool(other.pool, ORIGIN, reason="requested")
            await stage.settle()
            assert _pools(await scrape(projector.metrics)) == {POOL}


async def test_they_go_from_a_standby_too_which_another_has_superseded(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pools = [await stage.pool(), await stage.pool("other")]
        async with stage.projecting(metrics=True, lease_seconds=30.0) as projector:
            for pool in pools:
                await pool.spawn()
            await stage.settle()
            database = Database(stage.database_url)
            database.open()
            await Lease(database).seize()
            await pools[0].spawn()
            await until(lambda: projector.phase is Phase.STANDBY)
            assert _pools(await scrape(projector.metrics)) == {POOL, "other"}
            await stage.sql("DELETE FROM {}pools WHERE pool_name = 'other'")
            samples = await scrape(projector.metrics)
            assert _pools(samples) == {POOL}
            assert total("muster_spawns_total", samples) == 1
            await database.close()


def _pools(samples: Samples) -> set[str]:
    """Every pool that any series of counters or state names."""
    named = {label for series in samples.values() for labels in series for label in labels}
    return named & {POOL, "other"}


async def test_a_pool_whose_keys_are_damaged_hides_no_figures_of_others(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.log.queries.POOLS_BATCH", 2)
    async with open_stage(redis_url, views_url) as stage:
        for name in (POOL, "damaged", "sound"):
            await stage.pool(name)
        async with stage.projecting(metrics=True) as projector:
            await stage.settle()
            with redis.Redis.from_url(redis_url) as client:
                client.delete("pool:{damaged}:commands")
                client.set("pool:{damaged}:commands", "neither stream nor hash")
            samples = await scrape(projector.metrics)
            for family in ("stream_lag", "stream_pending", "stream_entries", "parked"):
                assert samples[f"muster_{family}"] == {(POOL,): 0, ("sound",): 0}


async def test_events_that_left_redis_are_counted(redis_url: str, views_url: str) -> None:
    brief = Retention(events=1)
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        for _ in range(3):
            await pool.spawn()
        options: dict[str, Any] = {"metrics": True, "retention": brief, "trim_seconds": 0.02}
        async with stage.projecting(**options) as projector:

            async def trimmed() -> bool:
                entries = (await scrape(projector.metrics)).get("muster_stream_entries")
                return entries == {(POOL,): 1}

            await until(trimmed)
            samples = await scrape(projector.metrics)
            assert samples["muster_stream_trimmed_total"] == {(POOL,): 2}


async def test_the_last_decisions_are_known_from_before_the_start(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await _decide(stage, pool.name, desired=2)
        await _decide(stage, pool.name, desired=7)
        await stage.catch_up()
        async with stage.projecting(metrics=True) as projector:
            samples = await scrape(projector.metrics)
            assert samples["muster_autoscaler_desired_workers"] == {(POOL,): 7}
            assert "muster_scaling_decisions_total" not in samples
            await _decide(stage, pool.name, desired=4)
            await stage.settle()
            samples = await scrape(projector.metrics)
            assert samples["muster_autoscaler_desired_workers"] == {(POOL,): 4}
            assert total("muster_scaling_decisions_total", samples) == 1


async def _decide(stage: Stage, pool: str, *, desired: int) -> None:
    step = stage.log.step(pool, ORIGIN)
    body = PoolScalingDecided(
        reason="buffer",
        current=1,
        desired=desired,
        pending=0,
        restarting=0,
        running=0,
        free=0,
        ordered=0,
        maximum=9,
    )
    step.event(body, pool)
    await stage.log.commit(step)


async def test_state_is_reported_without_redis_as_far_as_the_views_have_it(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(metrics=True) as projector:
            await pool.spawn()
            await stage.settle()

            async def silent(*_: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr("projector.service.system_state.inspect", silent)
            monkeypatch.setattr("projector.service.system_state.REDIS_SECONDS", 0.05)
            samples = await scrape(projector.metrics)
            assert total("muster_agents", samples) == 1
            assert "muster_stream_entries" not in samples
