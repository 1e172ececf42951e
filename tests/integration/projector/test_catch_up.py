"""Views behind the archive: folded on to its end, or rebuilt."""

from typing import Any

from structlog.testing import capture_logs

from projector.queries.views import AgentFilter, AsOf
from projector.store import tables
from projector.verify.verification import verify
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL, Stage, archived_story, open_stage
from tests.pools import TestPool


async def restore_views(stage: Stage, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Replace the views by earlier ones; the archive stays as it is."""
    for table in tables.SERVING.all():
        names = [column.name for column in table.columns]
        into = f"{table.name} ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"
        await stage.sql(f"DELETE FROM {{}}{table.name}")
        for row in rows[table.name]:
            await stage.sql(f"INSERT INTO {{}}{into}", **{name: row[name] for name in names})


async def test_views_behind_the_archive_are_folded_on_to_its_end(
    redis_url: str, database_url: str
) -> None:
    """Nothing is archived twice, although the stream no longer has it."""
    async with archived_story(redis_url, database_url) as (stage, pool):
        archive = "SELECT * FROM {}events ORDER BY pool, generation, seq"
        served = await stage.contents()
        async with stage.projecting():
            await (await stage.pool("later")).spawn()
            await stage.play(pool, "v")
            await stage.settle()
        newest, events = await stage.contents(), await stage.sql(archive)
        stage.trim(1)
        await restore_views(stage, served)
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                assert await stage.contents() == newest
                assert await stage.sql(archive) == events
                await pool.spawn()
                await stage.settle()
        logged = [line["event"] for line in logs]
        assert "projector.caught_up" in logged
        assert "projector.rebuilding" not in logged
        assert (await verify(redis_url, "", database_url)).equal


async def test_views_that_the_archive_contradicts_are_rebuilt(
    redis_url: str, views_url: str
) -> None:
    """Without a checkpoint, its first events request agents that already have rows."""
    async with archived_story(redis_url, views_url) as (stage, _):
        before = await stage.contents()
        await stage.sql("DELETE FROM {}checkpoints WHERE pool <> ''")
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                assert await stage.contents() == before
        logged = [line["event"] for line in logs]
        assert "projector.rebuilding" in logged
        assert "projector.caught_up" not in logged


async def test_views_and_historical_state_survive_a_recovery_of_the_log(
    redis_url: str, database_url: str, no_leases: None
) -> None:
    """Queries get the state before the loss as it was; older views are folded on beyond it."""
    async with archived_story(redis_url, database_url) as (stage, _):
        before, served = await stage.views.agents(AgentFilter()), await stage.contents()
        last = await stage.head(POOL)
        wipe(redis_url)
        assert {one.generation for one in (await recovered(stage)).values()} == {2}
    async with open_stage(redis_url, database_url) as stage:
        stage.log.raise_high_water_mark(POOL, 2, 0)
        async with stage.projecting():
            await TestPool(stage.log, POOL).spawn()
            await stage.settle(POOL)
        after, newest = await stage.views.agents(AgentFilter()), await stage.contents()
        assert len(after) == len(before) + 1
        history = stage.views.history
        for seq, answer in ((last, before), (await stage.head(POOL), after)):
            point = await history.point_in_time(AsOf(events={POOL: (None, seq)}))
            assert await history.agents(point, AgentFilter()) == answer
        await restore_views(stage, served)
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle(POOL)
                assert await stage.contents() == newest
        assert "projector.caught_up" in [line["event"] for line in logs]
        await stage.sql("UPDATE {}checkpoints SET generation = 1, seq = 999 WHERE pool <> ''")
        with capture_logs() as logs:  # views of the lost generation cannot be continued
            async with stage.projecting():
                await stage.settle(POOL)
                assert await stage.contents() == newest
        assert "projector.rebuilding" in [line["event"] for line in logs]
