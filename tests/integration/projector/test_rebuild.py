"""All views can be dropped and rebuilt from the log, while everything goes on."""

import asyncio

import pytest

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from projector.intake.source import Addresses, opened
from projector.rebuild import rebuild
from projector.rebuild.rebuild import Rebuild
from projector.store.tables import SQL_VIEWS
from projector.verify.verification import verify
from tests.integration.projector.rebuilding import replayed
from tests.integration.projector.stage import POOL, VIEWS, archived_story, open_stage


async def test_views_rebuilt_are_equal_to_those_before(redis_url: str, database_url: str) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        before = await stage.contents()
        await stage.sql("UPDATE {}agents SET status = 'failed', reason = 'planted'")
        reported = await replayed(stage)
        assert await stage.contents() == before
    done = reported[-1]
    assert done.finished
    seqs = [row["seq"] for row in before["checkpoints"]]
    assert done.events == done.total == sum(seqs) > 30
    assert [p.events for p in reported] == sorted(p.events for p in reported)
    assert done.rate > 0


@pytest.mark.parametrize("archive", ["retained", "dropped"])
async def test_dropped_views_are_rebuilt_from_archive_or_streams(
    redis_url: str, database_url: str, archive: str
) -> None:
    """Without an archive it is refilled from the streams; where they are trimmed it is enough."""
    async with archived_story(redis_url, database_url) as (stage, _):
        before, events = await stage.contents(), await stage.views.events(POOL)
        for name in SQL_VIEWS:
            await stage.sql(f"DROP VIEW {{}}{name}")
        for name in (*VIEWS, *(["events"] if archive == "dropped" else [])):
            await stage.sql(f"DROP TABLE {{}}{name}")
        if archive == "retained":
            stage.trim(2)
        await replayed(stage)
        assert await stage.contents() == before
        assert await stage.views.events(POOL) == events
        assert (await verify(redis_url, "", database_url)).equal
        await stage.catch_up()
        assert await stage.contents() == before


async def test_a_projector_that_finds_the_views_dropped_rebuilds_them_itself(
    redis_url: str, database_url: str
) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        before = await stage.contents()
        await stage.sql("DROP TABLE {}workers" + (" CASCADE" if "postgres" in database_url else ""))
        async with stage.projecting():
            await stage.settle()
            assert await stage.contents() == before


async def test_events_archived_during_a_long_pass_are_folded_before_the_lease_is_needed(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, passes = Rebuild._fold_archives, []

    async def fold_while_another_agent_comes(self: Rebuild) -> None:
        await fold(self)
        passes.append(self)
        if len(passes) == 1:
            await pool.spawn()
            await stage.settle()

    monkeypatch.setattr(rebuild, "SHORT_PASS_SECONDS", 0.0)
    monkeypatch.setattr(Rebuild, "_fold_archives", fold_while_another_agent_comes)
    async with open_stage(redis_url, views_url) as stage, stage.projecting():
        pool = await stage.pool()
        await pool.spawn()
        await stage.settle()
        of = Addresses(redis_url=redis_url, database_url=views_url)
        async with opened(of) as (database, source):
            rebuilding = Rebuild(database, source)
            await rebuilding.start()
            await rebuilding.fold_archive()
        heads = [await stage.head(name) for name in (CATALOGUE, POOL)]
    assert rebuilding.progress.events == sum(heads)


async def test_readers_never_get_empty_or_half_built_views(
    redis_url: str, database_url: str
) -> None:
    """Spawns and ends come in, queries are asked, and the views are rebuilt again and again."""
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool(backlog_limit=100_000)
        await asyncio.gather(*(pool.spawn() for _ in range(40)))
        await stage.settle()
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                submitted = await pool.spawn()
                await stage.act(pool, submitted.agent_id, Terminate())
                await asyncio.sleep(0.005)

        async def read() -> int:
            asked, last = 0, 0
            while not done.is_set():
                row = await stage.views.pool(POOL)
                assert row is not None
                assert row.agent_count in (40, 41)
                at = (await stage.views.positions())[POOL].seq
                assert at >= last
                asked, last = asked + 1, at
                await asyncio.sleep(0.002)
            return asked

        working = [asyncio.create_task(write()), asyncio.create_task(read())]
        try:
            for _ in range(2):
                assert (await replayed(stage, batch=50))[-1].finished
        finally:
            done.set()
        assert (await asyncio.gather(*working))[1] > 5  # type: ignore[operator]
        await stage.settle()
        assert (await verify(redis_url, "", database_url)).equal
