"""An export has every archived event, exactly; a damaged or foreign one is refused by name."""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projector.archive import access
from projector.archive.importing import check_files
from projector.exports import files
from projector.exports.manifest import (
    MANIFEST,
    ExportDamaged,
    ExportRefused,
    locked,
    ranges,
    read_manifest,
)
from projector.store.rows import EventRow
from tests import histories
from tests.integration.projector.archive_stage import open_archive
from tests.integration.projector.exporting import (
    archived_rows,
    edit_manifest,
    exported,
    exported_rows,
    in_order,
)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files for a pool, several pages for a file."""
    monkeypatch.setattr(files, "EVENTS_MAX", 9)
    monkeypatch.setattr(access, "PAGE", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


async def check(folder: Path) -> None:
    await check_files(folder, read_manifest(folder).files, lambda _: None)


async def test_every_event_is_exported_and_later_only_what_was_added(
    database_url: str, tmp_path: Path, small_files: None
) -> None:
    rows = histories.History(5).write(90)
    folder = tmp_path / "new" / "export"
    async with open_archive(database_url) as stage:
        await stage.archive(rows[:40])
        done = await exported(stage.database, folder)
        assert done.events == 40
        assert exported_rows(folder) == in_order(rows[:40])
        first_files = {path: path.read_bytes() for path in folder.rglob("*.gz")}
        assert len(first_files) == done.files >= 5

        again = await exported(stage.database, folder)
        assert (again.events, again.files) == (0, 0)
        await stage.archive(rows[40:])
        assert (await exported(stage.database, folder)).events == 50
        assert exported_rows(folder) == in_order(rows) == await archived_rows(stage.database)
        assert all(path.read_bytes() == content for path, content in first_files.items())
    await check(folder)
    by_pool = {one.pool: (one.first_seq, one.last_seq) for one in ranges(read_manifest(folder))}
    assert by_pool == {
        pool: (1, max(row.seq for row in rows if row.pool == pool))
        for pool in ("", *histories.POOLS)
    }


async def test_a_file_is_read_by_other_tools(views_url: str, tmp_path: Path) -> None:
    """Lines of JSON in gzip, that no other user can read: there are inputs in it."""
    rows = histories.History(1).write(20)
    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        await exported(stage.database, tmp_path / "export")
    file = tmp_path / "export" / "events" / "@catalogue" / "0001-000000000001.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    wanted = [row for row in rows if not row.pool]
    assert [EventRow(**json.loads(line)) for line in lines] == wanted
    assert file.stat().st_mode & 0o077 == 0
    manifest = json.loads((tmp_path / "export" / MANIFEST).read_text())
    assert {"name", "pool", "generation", "first_seq", "last_seq", "sha256"} <= set(
        manifest["files"][0]
    )


async def test_generations_and_gaps_are_exported_as_they_are(views_url: str, folder: Path) -> None:
    """Also what a recovery has superseded; an archive with a hole gets a file after it."""
    history = histories.History(3)
    history.write(60)
    old = [row for row in history.rows if row.pool == "alpha"]
    history.generations["alpha"] = 2
    history.seqs["alpha"] = old[-3].seq
    history.write(100)
    rows = [row for row in history.rows if (row.pool, row.seq) != ("beta", 7)]
    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        done = await exported(stage.database, folder)
    assert exported_rows(folder) == in_order(rows)
    found = [(one.pool, one.generation, one.first_seq) for one in ranges(done.manifest)]
    assert found == [
        ("", 1, 1), ("alpha", 1, 1), ("alpha", 2, old[-3].seq + 1), ("beta", 1, 1), ("beta", 1, 8)
    ]  # fmt: skip


class Killed(BaseException):
    """In place of SIGKILL: nothing cleans up after it."""


async def test_an_export_that_was_killed_goes_on(
    views_url: str, tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after any write to the disk: what is not in the manifest is written again."""
    rows, writer = histories.History(8).write(60), files.FileWriter
    originals = {name: getattr(writer, name) for name in ("_write", "finish")}
    monkeypatch.setattr(writer, "abandon", lambda self: self._file.close())

    def dies(calls_left: Iterator[int], name: str) -> Callable[..., object]:
        def call(*args: object) -> object:
            if next(calls_left, None) is None:
                raise Killed
            return originals[name](*args)

        return call

    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        for step in range(8):
            folder, calls_left = tmp_path / str(step), iter(range(3 * step))
            with monkeypatch.context() as patched:
                for name in originals:
                    patched.setattr(writer, name, dies(calls_left, name))
                with pytest.raises(Killed):
                    await exported(stage.database, folder)
            await exported(stage.database, folder)
            assert exported_rows(folder) == in_order(rows), step
            await check(folder)


async def test_an_export_of_another_archive_or_a_foreign_folder_is_refused(
    views_url: str, tmp_path: Path
) -> None:
    folder, foreign = tmp_path / "export", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photos").touch()
    async with open_archive(views_url) as stage:
        await stage.archive(histories.History(1).write(30))
        await exported(stage.database, folder)
        with pytest.raises(ExportRefused, match="'photos': name a new or an empty folder"):
            await exported(stage.database, foreign)
        with locked(folder), pytest.raises(ExportRefused, match="another export writes"):
            await exported(stage.database, folder)
    async with open_archive(f"sqlite:///{tmp_path / 'other.db'}") as other:
        await other.archive(histories.History(2).write(60))
        with pytest.raises(ExportRefused, match="the export of another archive: in the catalogue"):
            await exported(other.database, folder)
    with pytest.raises(ExportRefused, match=f"no folder of an export: it has no {MANIFEST}"):
        read_manifest(tmp_path / "nothing")


async def test_a_damaged_file_is_named(views_url: str, folder: Path) -> None:
    async with open_archive(views_url) as stage:
        await stage.archive(histories.History(1).write(30))
        await exported(stage.database, folder)
    [file] = (folder / "events" / "alpha").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(ExportDamaged, match=f"{file} is damaged: its SHA-256 is "):
        await check(folder)
    file.unlink()
    with pytest.raises(ExportDamaged, match=f"{file}: No such file"):
        await check(folder)
    edit_manifest(folder, name="../outside")
    with pytest.raises(ExportRefused, match=r"names '\.\./outside', which no export writes"):
        read_manifest(folder)
    (folder / MANIFEST).write_text('{"format": 9, "files": []}')
    with pytest.raises(ExportRefused, match="is of format 9"):
        read_manifest(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ExportRefused, match="cannot be read: "):
        read_manifest(folder)


async def test_events_that_come_meanwhile_are_left_to_the_next_export(
    views_url: str, folder: Path, small_files: None
) -> None:
    rows = histories.History(4).write(80)
    async with open_archive(views_url) as stage:
        await stage.archive(rows[:40])
        adding = asyncio.create_task(stage.archive(rows[40:]))
        first = await exported(stage.database, folder)
        await adding
        second = await exported(stage.database, folder)
        assert first.events + second.events == 80
    assert exported_rows(folder) == in_order(rows)
