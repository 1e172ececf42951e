"""The SQLite file of the views is deleted, replaced or damaged while it is in use."""

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.log import notices
from projector.intake.source import Addresses
from projector.rebuild import file_repair
from projector.service import file_watch
from projector.service import projector as service
from projector.service.from_scratch import from_scratch
from projector.store import views_file
from projector.store.database import DatabaseError
from projector.store.failures import Kind, kind
from tests.integration.projector.recovering import write_entry
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.waiting import until

GARBAGE = b"garbage!" * 20_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "SECONDS", 0.02)
    monkeypatch.setattr(file_repair, "RETRY_SECONDS", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "views.db"


@pytest.fixture
async def stage(redis_url: str, path: Path) -> AsyncIterator[Stage]:
    """With three agents, views that have them, and a projector that follows."""
    async with open_stage(redis_url, f"sqlite:///{path}") as stage, stage.projecting():
        pool = await stage.pool()
        await stage.started(pool, await pool.worker("w1"), 3)
        await stage.settle()
        yield stage


def checkpoint(path: Path) -> None:
    """Leave nothing in the write-ahead log, so that what is written over the file is lost."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


async def noticed(stage: Stage, name: str) -> str:
    """The text of a notice, once it is published."""

    async def text() -> str:
        found = await notices.read(stage.log.client, stage.log.keys)
        return next((notice.text for notice in found if notice.name == name), "")

    await until(text)
    return await text()


async def counts(stage: Stage) -> tuple[int, int]:
    """Agents and archived events, of another connection than the projector's."""
    await stage.settle()
    query = "SELECT (SELECT count(*) FROM agents) a, (SELECT count(*) FROM events) e"
    [row] = await stage.sql(query)
    return row["a"], row["e"]


async def come_to(stage: Stage, expected: tuple[int, int]) -> None:
    """Wait until the views that are built again have all of it."""

    async def equal() -> bool:
        try:
            return await counts(stage) == expected
        except DatabaseError:  # the new tables are not there yet
            return False

    await until(equal)


def delete(path: Path) -> None:
    path.unlink()


def delete_with_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_another_database(path: Path) -> None:
    with closing(sqlite3.connect(path.with_name("other"))) as other:
        other.execute("CREATE TABLE t (x)")
    path.with_name("other").replace(path)


def write_over_it(path: Path) -> None:
    """Its pages are still in the write-ahead log."""
    path.write_bytes(GARBAGE)


@pytest.mark.parametrize(
    "harm",
    [
        delete,
        delete_with_its_folder,
        replace_by_a_folder,
        replace_by_another_database,
        write_over_it,
    ],
)
async def test_what_the_projector_has_open_is_restored(stage: Stage, path: Path, harm: Any) -> None:
    """Also what only the archive had, since the stream was trimmed."""
    before = await counts(stage)
    stage.trim(2)
    harm(path)
    said = await noticed(stage, notices.REPAIRED)
    assert str(path) in said
    assert "restored with all its content" in said
    assert await counts(stage) == before
    await stage.pool("other")
    await stage.settle()


async def test_a_damaged_file_is_built_again_where_the_streams_have_every_event(
    stage: Stage, path: Path
) -> None:
    before = await counts(stage)
    checkpoint(path)
    path.write_bytes(GARBAGE)
    assert "is built again from the streams" in await noticed(stage, notices.REPAIRED)
    await come_to(stage, before)
    [aside] = [p for p in path.parent.iterdir() if p.read_bytes().startswith(b"garbage")]
    assert aside.name.startswith("views.db.aside-")


async def test_one_whose_archive_would_be_lost_waits_for_an_operator(
    stage: Stage, path: Path
) -> None:
    await stage.settle()
    stage.trim(2)
    checkpoint(path)
    path.write_bytes(GARBAGE)
    said = await noticed(stage, notices.UNAVAILABLE)
    while "damaged" not in said:
        said = await noticed(stage, notices.UNAVAILABLE)
    assert str(path) in said
    assert f"the stream of pool '{POOL}' has lost its beginning" in said
    assert "`muster replay --from-scratch`" in said
    with pytest.raises(DatabaseError) as refused:
        await stage.views.positions()
    assert kind(refused.value) is Kind.DAMAGED
    of = Addresses(redis_url=stage.redis_url, database_url=stage.database_url)
    done, aside = await from_scratch(of, lambda _: None)
    assert done.finished
    assert aside is not None
    assert aside.read_bytes() == GARBAGE
    [row] = await stage.sql("SELECT count(*) AS agents FROM agents")
    assert row["agents"] == 3
    await stage.pool("other")
    await stage.settle()


async def test_a_file_that_was_put_aside_on_purpose_is_not_restored(
    stage: Stage, path: Path
) -> None:
    of = Addresses(redis_url=stage.redis_url, database_url=stage.database_url)
    before = await counts(stage)
    _, aside = await from_scratch(of, lambda _: None)
    await come_to(stage, before)
    assert sorted(path.parent.glob("*.aside-*[0-9]")) == [aside]


async def test_a_pool_that_cannot_be_projected_delays_no_build_from_scratch(stage: Stage) -> None:
    write_entry(stage.redis_url, await stage.head(POOL) + 1, kind="agent.abducted")
    of = Addresses(redis_url=stage.redis_url, database_url=stage.database_url)
    async with asyncio.timeout(10):
        done, _ = await from_scratch(of, lambda _: None)
    assert done.finished
    assert done.comparison.left_out.keys() == {POOL}
    assert "unreadable event" in done.comparison.left_out[POOL]


async def test_a_projector_stops_although_its_file_cannot_be_put_back(
    redis_url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a full disk."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(views_file.ViewsFile, "restore", full)
    monkeypatch.setattr(service, "STOP_RESTORE_SECONDS", 0.1)
    monkeypatch.setattr(file_watch, "SECONDS", 60.0)
    async with open_stage(redis_url, f"sqlite:///{path}") as stage, stage.projecting() as projector:
        path.unlink()
        async with asyncio.timeout(5):
            await projector.stop()


async def test_a_reader_goes_on_with_the_file_that_is_there_now(stage: Stage, path: Path) -> None:
    """And creates none where there is none."""
    await stage.views.positions()
    file = stage.views._database.file
    assert file is not None
    saved = path.rename(path.with_name("views.db.aside-1"))
    with pytest.raises(views_file.ViewsFileChanged, match=r"views\.db was deleted"):
        file.require_unchanged()
    shutil.copy(saved, path)
    file.forget()
    await stage.settle()


async def test_a_log_that_a_reader_keeps_from_being_cut_is_reported_until_it_can(
    stage: Stage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_file, "WAL_LIMIT_BYTES", 50_000)
    monkeypatch.setattr(file_watch, "WAL_LARGE_BYTES", 100_000)
    wal, pool = path.with_name("views.db-wal"), stage.pool
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM agents").fetchall()
        for number in range(4):
            await pool(f"p{number}")
        said = await noticed(stage, notices.WAL_LARGE)
        assert "a reader keeps a transaction open" in said
    await until(lambda: wal.stat().st_size < 100_000)
