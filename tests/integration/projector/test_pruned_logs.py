"""Verify, replay and recover start at the snapshot of a pruned log, or read an export."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from eventstore.log.replies import Outcome
from projector.archive import limits
from projector.exports.reading import archive_with
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.store.archive_starts import read_starts
from projector.verify.report import Report
from projector.verify.verification import verify
from tests.integration.projector.exporting import (
    archived_rows,
    exported,
    imported,
    pruned,
)
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL, QUICK, Stage, open_stage
from tests.pools import TestPool


def forget_ended(stage: Stage) -> None:
    """As if the hashes of what has ended had expired."""
    with redis.Redis.from_url(stage.redis_url) as client:
        for pattern, status in (("agent:*", "terminated"), ("process:*", "lost"),
                                ("process:*", "stopped")):  # fmt: skip
            for key in client.scan_iter(pattern):
                if client.hget(key, "status") == status.encode():
                    client.delete(key)


@asynccontextmanager
async def pruned_story(
    redis_url: str, database_url: str, folder: Path
) -> AsyncIterator[tuple[Stage, TestPool]]:
    """Two stories, of which the first is pruned; the stream was trimmed to its last events."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool(**QUICK)
        await stage.play(pool, "a")
        await stage.catch_up()
        before = (await stage.views.positions())[POOL].ts + 1
        await stage.play(pool, "b")
        await stage.catch_up()
        await exported(stage.database, folder)
        await pruned(stage.database, folder, before)
        assert (await stage.database.read(read_starts))[POOL].seq > 20
        stage.trim(5)
        forget_ended(stage)
        yield stage, pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEPT", 3)


async def checked(stage: Stage, folder: Path | None = None) -> Report:
    return await verify(stage.redis_url, "", stage.database_url, archive_with(folder))


async def test_verify_and_replay_start_at_the_snapshot_or_read_the_export(
    redis_url: str, database_url: str, folder: Path
) -> None:
    async with pruned_story(redis_url, database_url, folder) as (stage, pool):
        head, before = await stage.head(POOL), await stage.contents()
        start = (await stage.database.read(read_starts))[POOL]
        found = await checked(stage)
        assert (found.differences, found.events) == ([], head + 1 - start.seq)
        found = await checked(stage, folder)
        assert (found.differences, found.events) == ([], head + 1)
        options = RebuildOptions(redis_url=redis_url, database_url=database_url)
        for export, events in ((None, head + 1 - start.seq), (folder, head + 1)):
            done = await replay(options, lambda _: None, archive_with(export))
            assert (done.events, done.total) == (events, events)
            assert done.comparison.equal, done.comparison
            assert await stage.contents() == before
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        assert (await checked(stage)).differences == []


async def test_a_reimported_archive_is_verified_as_before(
    redis_url: str, database_url: str, folder: Path
) -> None:
    async with pruned_story(redis_url, database_url, folder) as (stage, _):
        before = await stage.contents()
        await imported(stage.database, folder)
        head = await stage.head(POOL)
        found = await checked(stage)
        assert (found.differences, found.events) == ([], head + 1)
        done = await replay(
            RebuildOptions(redis_url=redis_url, database_url=database_url), lambda _: None
        )
        assert done.comparison.equal
        assert await stage.contents() == before


@pytest.mark.usefixtures("no_leases")
async def test_a_lost_redis_is_recovered_from_the_snapshot_on(
    redis_url: str, database_url: str, folder: Path
) -> None:
    """Also where the views were lost with it; epochs go on above those that were pruned."""
    async with pruned_story(redis_url, database_url, folder) as (stage, pool):
        live = set(await stage.log.live(POOL))
        epochs = [row.epoch for row in await archived_rows(stage.database)]
        highest = await stage.sql("SELECT max(epoch) AS epoch FROM {}workers")
        for table in ("checkpoints", "agents", "workers", "pools", "hosts"):
            await stage.sql(f"DROP TABLE {{}}{table} {'CASCADE' * ('postgres' in database_url)}")
        await stage.database.prepare()
        wipe(redis_url)
        done = await recovered(stage)
        assert done[POOL].unsaved == ()
        assert set(await stage.log.live(POOL)) == live
        assert (await pool.spawn()).outcome is Outcome.DONE
        fence = await pool.worker("later")
        assert fence.epoch > max(*epochs, highest[0]["epoch"])
        await stage.catch_up()
        assert (await checked(stage)).differences == []


async def test_a_damaged_snapshot_is_named_by_verify(
    redis_url: str, views_url: str, folder: Path
) -> None:
    async with pruned_story(redis_url, views_url, folder) as (stage, _):
        await stage.sql("DELETE FROM {}archive_snapshots")
        [found] = (await checked(stage)).differences
        assert (found.where, found.pool, found.subject) == ("archive", POOL, "snapshot")


async def test_a_snapshot_that_does_not_follow_from_the_export_is_named(
    redis_url: str, views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is right, as after a defect of the pruning."""
    async with pruned_story(redis_url, views_url, folder) as (stage, _):
        monkeypatch.setattr(
            "projector.store.archive_starts.checksum", lambda start, _: start.sha256
        )
        await stage.sql(
            "UPDATE {}archive_snapshots SET state = replace(state, '\"core\"', '\"x\"')"
            " WHERE kind = 'agent'"
        )
        found = (await checked(stage, folder)).differences
        assert {one.subject for one in found} == {"snapshot"}
