"""An import puts back exactly what is missing, from any start; what does not fit is refused."""

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from muster.__main__ import main
from projector.archive import access, importing
from projector.archive.access import ArchiveBusy, exclusive
from projector.exports import files
from projector.exports.manifest import ExportDamaged, ExportRefused, read_manifest, write_manifest
from projector.store.rows import EventRow
from projector.verify.verification import verify
from tests import histories
from tests.forked import Forked
from tests.integration.projector.archive_stage import ArchiveStage, open_archive
from tests.integration.projector.exporting import (
    archived_rows,
    delete_before,
    exported,
    imported,
    in_order,
)
from tests.integration.projector.stage import POOL, VIEWS, open_stage


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files for a pool, several transactions for a file."""
    monkeypatch.setattr(files, "EVENTS_MAX", 9)
    monkeypatch.setattr(access, "PAGE", 4)
    monkeypatch.setattr(importing, "CHUNK", 2)


async def test_an_empty_archive_gets_every_event(
    database_url: str, tmp_path: Path, small: None
) -> None:
    rows = histories.History(5).write(70)
    async with open_archive(database_url) as stage:
        await stage.archive(rows)
        await exported(stage.database, tmp_path / "export")
        await stage.sql("DELETE FROM {}events")
        done = await imported(stage.database, tmp_path / "export")
        assert await archived_rows(stage.database) == in_order(rows)
        assert (done.events, done.pools) == (70, ("", *histories.POOLS))
        again = await imported(stage.database, tmp_path / "export")
        assert (again.events, again.pools) == (0, ())


async def test_any_archive_that_starts_late_gets_what_it_lacks(
    views_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the bounds of files, and where a recovery began another generation."""
    async with open_archive(views_url) as stage:
        for seed in range(12):
            chosen, history = random.Random(seed), histories.History(seed)
            monkeypatch.setattr(files, "EVENTS_MAX", chosen.randint(1, 12))
            monkeypatch.setattr(access, "PAGE", chosen.randint(1, 12))
            monkeypatch.setattr(importing, "CHUNK", chosen.randint(1, 12))
            history.write(chosen.randint(10, 90))
            history.generations["alpha"] = 3
            rows = history.write(100)
            await stage.archive(rows)
            await exported(stage.database, tmp_path / str(seed))
            await delete_before(stage.database, "alpha", chosen.randint(1, 60))
            await imported(stage.database, tmp_path / str(seed))
            assert await archived_rows(stage.database) == in_order(rows), seed
            await stage.sql("DELETE FROM {}events")


async def test_an_interrupted_import_leaves_no_gap_and_goes_on(
    views_url: str, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, write = histories.History(5).write(70), importing._write
    written = 0

    def fails(connection: Any, rows: Sequence[EventRow]) -> None:
        nonlocal written
        written += 1
        if written == 9:
            raise OSError("no space")
        write(connection, rows)

    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        await exported(stage.database, tmp_path / "export")
        await stage.sql("DELETE FROM {}events")
        monkeypatch.setattr(importing, "_write", fails)
        with pytest.raises(OSError, match="no space"):
            await imported(stage.database, tmp_path / "export")
        for pool in ("", *histories.POOLS):
            found = [row.seq for row in await archived_rows(stage.database) if row.pool == pool]
            last = max(row.seq for row in rows if row.pool == pool)
            assert found == list(range(last - len(found) + 1, last + 1))
        await imported(stage.database, tmp_path / "export")
        assert await archived_rows(stage.database) == in_order(rows)


def _import_until(_: Connection, chunks: int, url: str, folder: Path) -> None:
    write = importing._write
    setattr(importing, "CHUNK", 5)  # noqa: B010
    calls: list[object] = []

    def dies(connection: Any, rows: Sequence[EventRow]) -> None:
        calls.append(rows)
        write(connection, rows)
        if len(calls) == chunks:
            os.kill(os.getpid(), signal.SIGKILL)  # before the commit

    setattr(importing, "_write", dies)  # noqa: B010
    main(["archive", "import", str(folder), "--database-url", url])


async def test_an_import_that_was_killed_goes_on(database_url: str, tmp_path: Path) -> None:
    rows, folder = histories.History(5).write(70), tmp_path / "export"
    async with open_archive(database_url) as stage:
        await stage.archive(rows)
        await exported(stage.database, folder)
        await stage.sql("DELETE FROM {}events")
        with Forked(_import_until, 4, database_url, folder) as killed:
            assert await asyncio.to_thread(killed.wait, 20) == -signal.SIGKILL
        assert len(await archived_rows(stage.database)) == 14, "three transactions"
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == in_order(rows)


async def refused(stage: ArchiveStage, folder: Path, why: str) -> None:
    """An import is refused, and changes nothing."""
    before = await archived_rows(stage.database)
    with pytest.raises(ExportRefused, match=why):
        await imported(stage.database, folder)
    assert await archived_rows(stage.database) == before


async def test_what_does_not_match_the_archive_is_refused(
    views_url: str, tmp_path: Path, small: None
) -> None:
    folder = tmp_path / "export"
    async with open_archive(views_url) as stage:
        await stage.archive(histories.History(5).write(70))
        await exported(stage.database, folder)
        await delete_before(stage.database, "alpha", 15)
        manifest = read_manifest(folder)
        without = [f for f in manifest.files if (f.pool, f.first_seq) != ("alpha", 13)]
        write_manifest(folder, type(manifest)(files=without))
        await refused(stage, folder, "pool 'alpha': seq 13 to 14 are neither")
        await stage.sql("DELETE FROM {}events")
        await refused(stage, folder, "pool 'alpha': seq 13 to 24 are not in the export")
        write_manifest(folder, manifest)
        await imported(stage.database, folder)
    async with open_archive(f"sqlite:///{tmp_path / 'other.db'}") as other:
        await other.archive(histories.History(6).write(200))
        await delete_before(other.database, "alpha", 12)
        await refused(other, folder, "does not match this archive: .* is another event there")


async def test_an_archive_of_which_nothing_is_exported_must_follow_in_time(
    views_url: str, tmp_path: Path
) -> None:
    """Where no event is both archived and exported."""
    history = histories.History(5)
    rows = history.write(70)
    cut = [row for row in rows if row.pool == "alpha"][9]
    later = [row for row in rows if row.pool != "alpha" or row.seq > 10]
    folder = tmp_path / "export"
    async with open_archive(views_url) as stage:
        await stage.archive([row for row in rows if row.pool == "alpha" and row.seq <= 10])
        await exported(stage.database, folder)
        await stage.sql("DELETE FROM {}events")
        await stage.archive(later)
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == in_order(rows)
        await delete_before(stage.database, "alpha", 11)
        await stage.sql(f"UPDATE {{}}events SET ts = {cut.ts - 1} WHERE seq = 11")
        await refused(stage, folder, "seq 11 of the archive is not what follows in it")


async def test_a_damaged_export_is_refused_before_anything_is_written(
    views_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    async with open_archive(views_url) as stage:
        await stage.archive(histories.History(5).write(70))
        await exported(stage.database, folder)
        await stage.sql("DELETE FROM {}events")
        [file] = (folder / "events" / "beta").iterdir()
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ExportDamaged, match="is damaged"):
            await imported(stage.database, folder)
        assert await archived_rows(stage.database) == []
        async with exclusive(stage.database, lease_seconds=0.2):
            with pytest.raises(ArchiveBusy, match="try again after its end"):
                async with exclusive(stage.database, lease_seconds=0.2):
                    pass


async def test_a_lost_database_is_imported_and_the_views_follow(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    """The streams were trimmed; the projector of the new database goes on from the import."""
    folder = tmp_path / "export"
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await stage.play(pool)
        await stage.catch_up()
        before = await stage.contents()
        rows = await archived_rows(stage.database)
        await exported(stage.database, folder)
        stage.trim(3)
        for table in ("events", *VIEWS):
            await stage.sql(f"DELETE FROM {{}}{table}")
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == rows
        await stage.catch_up(POOL)
        assert await stage.contents() == before
        assert (await verify(redis_url, "", database_url)).differences == []
