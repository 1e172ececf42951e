"""Views of another version are built again, while those in use serve on."""

import asyncio

import pytest
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from eventstore.language.agent_commands import Terminate
from projector.rebuild import startup
from projector.rebuild.rebuild import Rebuild
from projector.service import projector as service
from projector.service.projector import Phase
from projector.store import tables
from projector.store.database import Database
from projector.verify import view_comparison
from projector.verify.verification import verify
from tests.integration.projector.processes import projector_process
from tests.integration.projector.rebuilding import other_tables, replayed
from tests.integration.projector.stage import VIEWS, Stage, archived_story, open_stage
from tests.waiting import until

OURS = tables.VIEW_VERSION
NEWER = OURS + 1


def become(patch: pytest.MonkeyPatch, version: int) -> None:
    """From here on this process builds views of that version."""
    for module in (view_comparison, startup, service, tables):
        patch.setattr(module, "VIEW_VERSION", version, raising=False)


async def versions(stage: Stage) -> dict[str, int]:
    rows = await stage.sql("SELECT name, version FROM {}view_versions")
    return {row["name"]: row["version"] for row in rows}


async def test_an_older_version_rebuilds_its_own_views(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a downgrade: its projector continues from them."""
    async with archived_story(redis_url, database_url) as (stage, pool):
        old = await stage.contents()
        with monkeypatch.context() as newer:
            become(newer, NEWER)
            await replayed(stage)
            await stage.sql("ALTER TABLE {}agents ADD COLUMN newer TEXT")
        assert await versions(stage) == {"views": NEWER}
        await replayed(stage)
        assert await stage.contents() == old
        assert await versions(stage) == {"views": OURS}
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()


async def test_previous_views_of_an_older_data_folder_go_with_its_upgrade(
    redis_url: str, database_url: str
) -> None:
    """Earlier versions stored them for a rollback."""
    async with archived_story(redis_url, database_url) as (stage, pool):
        for name in VIEWS:
            await stage.sql(f"CREATE TABLE {{}}previous_{name} AS SELECT * FROM {{}}{name}")
        for name in ("previous", "rolled_back"):
            await stage.sql("INSERT INTO {}view_versions VALUES (:name, :of)", name=name, of=OURS)
        await stage.sql("UPDATE {}view_versions SET version = version - 1")
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        assert await other_tables(stage) == set()
        assert await versions(stage) == {"views": OURS}
        assert (await verify(redis_url, "", database_url)).equal


async def test_an_upgrade_builds_new_views_while_the_old_projector_serves_the_old_ones(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is a process of its own, of this version; it becomes a standby."""
    built, may_finish = asyncio.Event(), asyncio.Event()
    fold_archive = Rebuild.fold_archive

    async def fold_and_wait(self: Rebuild) -> None:
        await fold_archive(self)
        built.set()
        await may_finish.wait()
        await fold_archive(self)

    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        with projector_process(stage) as old:
            await stage.play(pool)
            await stage.settle()
            become(monkeypatch, NEWER)
            monkeypatch.setattr(Rebuild, "fold_archive", fold_and_wait)
            new = stage.projector(lease_seconds=2.0)
            await new.start()
            try:
                await asyncio.wait_for(built.wait(), 10)
                for _ in range(3):  # the old views are still up to date meanwhile
                    submitted = await pool.spawn()
                    await stage.act(pool, submitted.agent_id, Terminate())
                    await stage.settle()
                assert new.phase == "standby"
                assert await versions(stage) == {"views": OURS}
                may_finish.set()
                await until(lambda: new.phase is Phase.ACTIVE)
                assert await versions(stage) == {"views": NEWER}
                await pool.spawn()
                await stage.settle()
                assert old.running
            finally:
                await new.stop()
        assert (await verify(redis_url, "", database_url)).equal
        assert await other_tables(stage) == set()


async def test_a_query_that_started_before_an_upgrade_reads_the_old_views_only(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot is older than the switch, its first read of the tables newer."""
    async with archived_story(redis_url, database_url) as (stage, _):
        await stage.sql("ALTER TABLE {}agents ADD COLUMN surplus TEXT")
        loop = asyncio.get_running_loop()
        counted: list[int] = []

        def read(connection: Connection) -> None:
            connection.execute(text("SELECT count(*) FROM " + prefix + "view_versions")).all()
            become(monkeypatch, NEWER)
            asyncio.run_coroutine_threadsafe(replayed(stage), loop).result(20)
            for name in ("agents", "workers", "pools", "pool_capacity", "checkpoints"):
                chosen = text(f"SELECT count(*) FROM {prefix}{name}")
                counted.append(connection.execute(chosen).scalar_one())

        database = Database(database_url)
        database.open()
        prefix, before = database.prefix, await stage.contents()
        try:
            await database.read(read)
        finally:
            await database.close()
        rows = {name: len(before[name]) for name in VIEWS}
        assert counted == [rows["agents"], rows["workers"], rows["pools"], 1, rows["checkpoints"]]
        assert await versions(stage) == {"views": NEWER}
        assert "surplus" not in (await stage.contents())["agents"][0]


async def test_views_of_another_version_are_built_again(redis_url: str, database_url: str) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        before = await stage.contents()
        await stage.sql("UPDATE {}view_versions SET version = -1")
        await stage.sql("ALTER TABLE {}agents ADD COLUMN surplus TEXT")
        await stage.sql("ALTER TABLE {}agents DROP COLUMN has_run")
        async with stage.projecting():
            await stage.settle()
            assert await stage.contents() == before
        assert await versions(stage) == {"views": OURS}


async def test_views_that_others_built_on_ours_stay_or_are_named(
    redis_url: str, postgres_url: str
) -> None:
    """Those on columns that stay are kept. Others are named at once, before all is folded."""
    async with archived_story(redis_url, postgres_url) as (stage, _):
        await stage.sql("UPDATE {}view_versions SET version = 1")
        await stage.sql("ALTER TABLE {}agents DROP COLUMN has_run")
        await stage.sql("CREATE VIEW free AS SELECT available_capacity FROM {}pool_capacity")
        await stage.sql("CREATE VIEW theirs AS SELECT status FROM {}agents")
        await stage.catch_up()
        assert await versions(stage) == {"views": OURS}
        assert await stage.sql("SELECT * FROM free")
        await stage.sql("ALTER TABLE {}agents ADD COLUMN mood TEXT")
        await stage.sql("UPDATE {}view_versions SET version = 1")
        await stage.sql("CREATE VIEW moods AS SELECT mood FROM {}agents")
        projector = stage.projector()
        await projector.start()
        with capture_logs() as logs:
            await until(lambda: any(entry["event"] == "projector.unavailable" for entry in logs))
            [reason] = [entry["reason"] for entry in logs if "reason" in entry]
            assert "view moods depends on column mood of table muster.agents" in reason
            assert "drop what depends on them" in reason
            assert not any(entry["event"] == "projector.rebuilding" for entry in logs)
            assert await stage.sql("SELECT * FROM {}agents"), "they serve on"
            await stage.sql("DROP VIEW moods")
            await until(lambda: projector.phase is Phase.ACTIVE, timeout=15)
        await projector.stop()
        assert await versions(stage) == {"views": OURS}


async def test_views_of_a_newer_version_are_not_touched(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        await stage.sql("UPDATE {}view_versions SET version = 99")
        projector = stage.projector()
        await projector.start()
        try:
            await until(lambda: projector._outage)
            assert projector.phase != "active"
        finally:
            await projector.stop()
