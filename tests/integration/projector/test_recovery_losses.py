"""Recovery names the commands and events that are lost, and no others."""

from pathlib import Path

import pytest

from eventstore.errors import Halted
from eventstore.keys import Keys
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, read_reports, write_reports
from projector.recovery.recovery import examine
from tests.integration.projector.recovering import (
    die_at,
    options,
    recovered,
    require_equal,
    rolled_back,
    unaware_spawn,
    wipe,
)
from tests.integration.projector.stage import POOL, QUICK, archived_story, open_stage
from tests.pools import raw_events
from tests.waiting import until
from tests.worker_pool import POOL as WORKED
from tests.worker_pool import worker_pool
from workers.api.agent import Agent

pytestmark = pytest.mark.usefixtures("no_leases")


async def test_writes_that_only_redis_had_are_named(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        archived = await stage.head(POOL)
        lost = await pool.spawn()
        report = LossReport(reporter="gateway:g", kind="spawn", agent_id=lost.agent_id,
                      generation=1, seq=lost.seq, ts=stage.log.now_ms(POOL))  # fmt: skip
        saved = LossReport(
            reporter="gateway:g", kind="spawn", agent_id="x", generation=1, seq=archived
        )
        ghost = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id="ghost", incarnation=1,
                       generation=1, seq=2)  # fmt: skip
        (known, *_) = await stage.log.live(POOL)
        runs = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id=known, incarnation=1,
                      generation=1, seq=archived + 1)  # fmt: skip
        wipe(redis_url)
        await write_reports(stage.log, POOL, [report, saved, ghost, runs, report])
        done = (await recovered(stage))[POOL]
        named = [(one.kind, one.agent_id, one.seq) for one in done.unsaved]
        assert named == [(AGENT_HELD, "ghost", 2), ("spawn", lost.agent_id, archived + 1)]
        assert done.known_seq == archived + 1
        (first,) = [e for e in raw_events(redis_url) if e["type"] == "log.recovered"]
        assert f'"known_seq":{archived + 1}' in first["data"]
        assert await stage.log.agent(POOL, lost.agent_id) is None
        await require_equal(stage)


async def test_an_agent_that_only_its_worker_knows_is_named(
    redis_url: str, views_url: str, tmp_path: Path
) -> None:
    """No gateway reports its spawn: the worker that runs it reports it."""
    async with (
        open_stage(redis_url, views_url) as stage,
        worker_pool(redis_url, tmp_path) as pool,
    ):
        await stage.pool(WORKED, **QUICK)
        await pool.worker(Agent)
        archived = await pool.reached(await pool.spawn(), "running")
        await stage.catch_up()
        head = await stage.head(WORKED)
        lost = await pool.reached(await pool.spawn(), "running")
        wipe(redis_url)

        async def reported() -> list[LossReport]:
            found = await read_reports(stage.log, WORKED)
            return found if len(found) == 2 else []

        reports: list[LossReport] = await until(reported)
        assert [(one.reporter, one.kind) for one in reports] == [("worker:w1", AGENT_HELD)] * 2
        assert [(one.agent_id, one.incarnation, one.generation, one.seq) for one in reports] == [
            (agent.agent_id, 1, 1, agent.claim_seq) for agent in (archived, lost)
        ]
        done = (await recovered(stage))[WORKED]
        [named] = done.unsaved
        named_as = (named.kind, named.agent_id, named.reporter)
        assert named_as == (AGENT_HELD, lost.agent_id, "worker:w1")
        assert (done.seq, done.known_seq) == (head, lost.claim_seq)
        assert named.seq == lost.claim_seq == head + 2, "above its spawn, which is lost too"


async def test_an_older_redis_is_closed_and_recovered(redis_url: str, views_url: str) -> None:
    """The append-only file of an hour ago: intact, but without the newest writes."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with rolled_back(redis_url):
            new = await pool.spawn()
            await stage.catch_up()
        with pytest.raises(Exception, match="Redis lost writes"):
            await pool.spawn()
        with pytest.raises(Halted):
            await unaware_spawn(stage)
        assert list(await examine(options(stage))) == [POOL]
        done = await recovered(stage)
        assert set(done) == {POOL}, "the catalogue was intact"
        assert await stage.log.agent(POOL, new.agent_id) is not None, "the archive had it"
        await require_equal(stage)


async def test_events_written_on_an_older_log_are_void_and_named(
    redis_url: str, views_url: str
) -> None:
    """A process that did not know the newer log wrote to the older one before that was noticed."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with rolled_back(redis_url):
            await pool.spawn()
            await stage.catch_up()
        void = [await unaware_spawn(stage) for _ in range(3)]
        done = (await recovered(stage))[POOL]
        assert [(one.kind, one.agent_id) for one in done.unsaved] == [
            ("agent.requested", spawned.agent_id) for spawned in void
        ]
        for spawned in void:
            assert await Log(stage.log.client, Keys()).agent(POOL, spawned.agent_id) is None
        await require_equal(stage)


async def test_events_of_a_halted_log_that_were_not_archived_are_recovered(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        unarchived = await pool.spawn()
        stage.log.raise_high_water_mark(POOL, 1, 10_000)
        with pytest.raises(Exception, match="Redis lost writes"):
            await pool.spawn()
        done = (await recovered(stage))[POOL]
        assert done.seq == unarchived.seq
        assert await Log(stage.log.client, Keys()).agent(POOL, unarchived.agent_id) is not None
        await require_equal(stage)


async def test_losses_are_named_also_where_the_first_attempt_was_interrupted(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also events of the older log's stream, which the first attempt wiped."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        archived = await stage.head(POOL)
        with rolled_back(redis_url):
            await pool.spawn()
            await stage.catch_up()
            acknowledged = await pool.spawn()
        void = await unaware_spawn(stage)
        report = LossReport(reporter="gateway:g", kind="spawn", agent_id=acknowledged.agent_id,
                      generation=1, seq=acknowledged.seq, ts=stage.log.now_ms(POOL))  # fmt: skip
        await write_reports(stage.log, POOL, [report])
        await die_at("open", stage, monkeypatch)
        done = (await recovered(stage))[POOL]
        assert {(one.kind, one.agent_id, one.seq) for one in done.unsaved} == {
            ("spawn", acknowledged.agent_id, archived + 2),
            ("agent.requested", void.agent_id, archived + 1),
        }
        await require_equal(stage)
        wipe(redis_url)
        assert (await recovered(stage))[POOL].unsaved == (), "named once"
