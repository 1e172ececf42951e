"""A recovery waits for leases, and survives interruptions and other recoveries."""

import asyncio

import pytest

from eventstore.errors import Halted, LogMissing, LogUnreachable
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, write_reports
from eventstore.recovery.restore import LogRestore
from projector.recovery import recovery
from projector.recovery.recovery import (
    ATTEMPTS,
    Recovery,
    RecoveryFenced,
    RecoveryInterrupted,
)
from tests.integration.projector.recovering import (
    die_at,
    recovered,
    require_equal,
    unaware_spawn,
    wipe,
)
from tests.integration.projector.stage import POOL, QUICK, archived_story
from tests.pools import types


async def test_no_write_comes_before_every_lease_has_lapsed(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, _pool):
        wipe(redis_url)
        loop = asyncio.get_running_loop()
        started = loop.time()
        recovering = asyncio.create_task(recovered(stage))
        while not recovering.done():
            if loop.time() - started < QUICK["lease_seconds"]:
                with pytest.raises((LogMissing, Halted)):
                    await unaware_spawn(stage)
            await asyncio.sleep(0.05)
        await recovering
        assert loop.time() - started >= QUICK["lease_seconds"]


STEPS = ("halt", "wipe", "start", "refill", "record", "mark_workers_lost", "restore_agents", "open")


@pytest.mark.usefixtures("no_leases")
@pytest.mark.parametrize("steps", [STEPS, STEPS[::-1]], ids=["ever later", "ever sooner"])
async def test_an_interrupted_recovery_leaves_the_log_closed_and_is_done_again(
    redis_url: str, views_url: str, steps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt after the other is interrupted, each at another step."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        await stage.started(pool, await pool.worker("w"), 3)
        await stage.catch_up()
        live = set(await stage.log.live(POOL))
        wipe(redis_url)
        for before in steps:
            await die_at(before, stage, monkeypatch)
            with pytest.raises((LogMissing, Halted)):
                await unaware_spawn(stage)
            # A projector that is active in between may archive what an attempt wrote.
            async with stage.projecting():
                pass
        await recovered(stage)
        log = Log(stage.log.client, Keys())
        assert set(await log.live(POOL)) == live
        await require_equal(stage)


@pytest.mark.usefixtures("no_leases")
@pytest.mark.parametrize("failures", [1, ATTEMPTS])
async def test_a_recovery_that_redis_refuses_for_a_while_starts_again(
    redis_url: str, views_url: str, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log is open by then, and is in the result too: nothing else reports its losses."""
    open_log, left = LogRestore.open, failures

    async def open_later(self: LogRestore, generation: int) -> None:
        nonlocal left
        if self._pool != CATALOGUE and left:
            left -= 1
            raise LogUnreachable("Redis is not ready: BUSY")
        await open_log(self, generation)

    monkeypatch.setattr(recovery, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(LogRestore, "open", open_later)
    async with archived_story(redis_url, views_url) as (stage, _):
        wipe(redis_url)
        if failures == ATTEMPTS:
            with pytest.raises(
                RecoveryInterrupted, match=r"BUSY; .* until `muster recover` is run again"
            ):
                await recovered(stage)
        assert POOL in (done := await recovered(stage))
        assert (CATALOGUE in done) == (failures < ATTEMPTS)
        spawned = await unaware_spawn(stage)
        assert spawned.outcome is Outcome.DONE


async def test_a_recovery_that_another_one_overtook_touches_nothing(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for leases; a second one starts meanwhile and finishes first."""
    waiting, overtaken = asyncio.Event(), asyncio.Event()

    async def first_one_waits(_: Recovery) -> None:
        if not waiting.is_set():
            waiting.set()
            await overtaken.wait()

    monkeypatch.setattr(Recovery, "_wait_for_leases", first_one_waits)
    async with archived_story(redis_url, views_url) as (stage, pool):
        wipe(redis_url)
        first = asyncio.create_task(recovered(stage))
        await waiting.wait()
        assert (await recovered(stage))[POOL].generation == 2
        stage.log.raise_high_water_mark(POOL, 2, 0)
        spawned = await pool.spawn()
        overtaken.set()
        with pytest.raises(RecoveryFenced):
            await first
        assert await stage.log.agent(POOL, spawned.agent_id) is not None
        assert types(redis_url).count("log.recovered") == 1
        await require_equal(stage)


@pytest.mark.usefixtures("no_leases")
async def test_a_recovery_that_was_lost_again_is_not_repeated_under_its_generation(
    redis_url: str, views_url: str
) -> None:
    """Redis came back without it; only a report of a worker that ran in it names its generation."""
    async with archived_story(redis_url, views_url) as (stage, _):
        report = LossReport(
            reporter="worker:w", kind=AGENT_HELD, agent_id="a", generation=2, seq=60
        )
        wipe(redis_url)
        await write_reports(stage.log, POOL, [report])
        assert (await recovered(stage))[POOL].generation == 3
        await require_equal(stage)


@pytest.mark.usefixtures("no_leases")
async def test_a_second_loss_is_recovered_like_the_first(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        for generation in (2, 3):
            wipe(redis_url)
            assert (await recovered(stage))[POOL].generation == generation
            stage.log.raise_high_water_mark(POOL, generation, 0)
            assert (await pool.spawn()).outcome is Outcome.DONE
            await require_equal(stage)
