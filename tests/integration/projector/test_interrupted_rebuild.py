"""A rebuild that is killed, interrupted, overtaken or refused leaves good views."""

import asyncio
import signal

import pytest

from projector.intake.source import Source
from projector.rebuild import rebuild
from projector.rebuild.rebuild import Rebuild
from projector.rebuild.view_sets import RebuildInProgress
from projector.service.projector import Phase
from projector.store.database import Database
from projector.store.lease import Lease, LeaseState
from projector.verify.verification import verify
from tests.integration.projector.processes import struck
from tests.integration.projector.rebuilding import other_tables, replayed, tables_of
from tests.integration.projector.stage import Stage, archived_story, open_stage
from tests.waiting import until

STAGES = {
    "sqlite": ("_store", "_compare", "switch"),
    "postgresql": ("switch",),
}
"""At which a rebuild is killed. With PostgreSQL only where its transaction is open."""


@pytest.mark.long
async def test_a_rebuild_killed_at_any_stage_leaves_good_views_and_nothing_else(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projector often drops abandoned tables, but none of a rebuild that is only slow."""
    original = Lease._try_acquire

    async def patient(self: Lease, observed: LeaseState, unchanged_seconds: float) -> bool:
        ours = observed.holder.startswith(f"{self._process}/")  # an interrupted rebuild
        return await original(self, observed, unchanged_seconds if ours else 0.0)

    monkeypatch.setattr(Lease, "_try_acquire", patient)
    async with (
        open_stage(redis_url, database_url) as stage,
        stage.projecting(lease_seconds=0.4) as projector,
    ):
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        for where in STAGES[database_url.partition(":")[0].partition("+")[0]]:
            before = await stage.contents()
            with struck(stage, where, signal.SIGKILL) as killed:
                assert await asyncio.to_thread(killed.wait, 20) == -signal.SIGKILL, where
            assert await stage.contents() == before, where
            await until(lambda: projector.phase is Phase.ACTIVE)
            await pool.spawn()
            await stage.settle()
            await until(lambda: cleaned(stage), what=f"the cleaning after {where}")
            assert await other_tables(stage) == set(), where
        assert (await verify(redis_url, "", database_url)).equal


async def cleaned(stage: Stage) -> bool:
    return not {name for name in await other_tables(stage) if name.startswith("fresh_")}


async def test_a_rebuild_that_is_interrupted_by_hand_cleans_up_at_once(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        before = await stage.contents()
        with struck(stage, "finish", signal.SIGINT) as ended:
            assert await asyncio.to_thread(ended.wait, 20) == 130
        assert await other_tables(stage) == set()
        assert await stage.contents() == before
        leases = await stage.sql("SELECT name, holder FROM {}leases")
        assert {row["name"]: row["holder"] for row in leases} == {"projector": "", "rebuild": ""}


async def test_a_rebuild_that_was_stopped_too_long_is_fenced(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one ran meanwhile: the first can write nothing more, and fails."""
    compare = Rebuild._compare

    async def overtaken(self: Rebuild) -> None:
        monkeypatch.setattr(Rebuild, "_compare", compare)
        await stage.sql("UPDATE {}leases SET term = term + 1 WHERE name = 'rebuild'")

    async with open_stage(redis_url, views_url) as stage:
        await (await stage.pool()).spawn()
        monkeypatch.setattr(Rebuild, "_compare", overtaken)
        with pytest.raises(rebuild.RebuildFenced):
            await replayed(stage)
        assert (await stage.contents())["agents"] == []


async def test_tables_of_a_killed_rebuild_are_dropped_by_the_next(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        before, named = await stage.contents(), await tables_of(stage)
        database, source = Database(views_url), Source(redis_url, "")
        database.open()
        broken = Rebuild(database, source, batch=3)
        await broken.start()
        await broken.fold_archive()  # and here its process was killed
        await source.close()
        await database.close()
        assert "fresh_agents" in await tables_of(stage)
        await replayed(stage, lease_seconds=0.6)
        assert await tables_of(stage) == named
        assert await stage.contents() == before


async def test_two_rebuilds_at_once_are_refused(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one renews its lease before each check of the second."""
    read_state = Lease._read_state

    async def renewed(self: Lease) -> LeaseState:
        if self.name == other.name:
            await other.renew()
        return await read_state(self)

    async with open_stage(redis_url, views_url) as stage:
        database = Database(views_url)
        database.open()
        other = Lease(database, "rebuild")
        await other.acquire()
        monkeypatch.setattr(Lease, "_read_state", renewed)
        try:
            with pytest.raises(RebuildInProgress):
                await replayed(stage, lease_seconds=0.6)
        finally:
            await database.close()
