"""The retention of the archive: exported, pruned in small parts, noted, and safe at any death."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.language import agent_commands
from eventstore.language.agents import TERMINAL
from eventstore.language.events import Event, PoolArchivePruned, encode_body
from eventstore.log import notices
from eventstore.retention import Retention
from eventstore.steps.step import Origin, Step
from projector.archive import limits, pruning
from projector.archive.export import export_archive
from projector.exports import files
from projector.fold.projection import Projection
from projector.history.positions import AsOf
from projector.queries.spans import Span
from projector.queries.usage import Grouping, UsageFilter, usage
from projector.recovery import archived_state
from projector.service import archive_retention
from projector.service.archive_retention import ArchiveRetention
from projector.store.archive_starts import read_starts
from projector.store.lease import Lease
from projector.store.rows import EventRow
from projector.store.tables import SERVING
from projector.verify.verification import verify
from tests import histories
from tests.chaos.judge import judge
from tests.integration.projector.archive_stage import ArchiveStage, open_archive
from tests.integration.projector.exporting import (
    DAY_MS,
    archived_rows,
    edit_manifest,
    exported_rows,
    imported,
    in_order,
)
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.integration.projector.test_pruning import Killed, living, require_unbroken
from tests.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of everything, at once."""
    monkeypatch.setattr(limits, "KEPT", 3)
    monkeypatch.setattr(files, "EVENTS_MAX", 9)
    monkeypatch.setattr(pruning, "PORTION", 900)
    for name, value in {"SHARE": 1.0, "REMOVED": 5, "EVENTS_MAX": 12, "EVENTS_MIN": 1}.items():
        monkeypatch.setattr(archive_retention, name, value)


class Writer:
    """In place of the log: what is committed is archived and folded at once."""

    retention = Retention()

    def __init__(self, stage: ArchiveStage, rows: list[EventRow], now_ms: int) -> None:
        self._stage, self._rows, self._now_ms = stage, rows, now_ms
        self._known: set[str] = set()
        self.noted: list[tuple[str, PoolArchivePruned]] = []

    def now_ms(self, _: str) -> int:
        return self._now_ms

    def step(self, pool: str, origin: Origin) -> Step:
        return Step(pool, lambda: f"note-{len(self.noted)}", origin, ended_ms=1)

    async def commit(self, step: Step) -> None:
        [event] = step.events
        assert isinstance(event.body, PoolArchivePruned)
        operation = f"{step.pool}:{event.body.generation}:{event.body.up_to_seq}"
        assert operation not in self._known, "it was noted before"
        self._known.add(operation)
        self.noted.append((step.pool, event.body))
        last = max((r for r in self._rows if r.pool == step.pool), key=lambda row: row.seq)
        row = _row_after(last, event, self._rows[-1].ts + 1)
        self._rows.append(row)
        await self._stage.fold([row])


def _row_after(last: EventRow, event: Event, ts: int) -> EventRow:
    return EventRow(
        pool=last.pool, generation=last.generation, seq=last.seq + 1, stream_id=f"{ts}-0",
        type=event.type, version=event.body.version, event_id=f"{last.pool}-{last.seq}-noted",
        subject=event.subject, incarnation=0, worker_id="", epoch=0, correlation_id="",
        causation_id="", traceparent="", actor=event.actor, ts=ts,
        data=encode_body(event.body).decode(),
    )  # fmt: skip


class Notices:
    """What is published now."""

    def __init__(self) -> None:
        self.published: dict[str, str] = {}

    async def publish(self, name: str, text: str) -> None:
        self.published[name] = text

    async def withdraw(self, name: str) -> None:
        self.published.pop(name, None)


class Retained:
    """A history in an archive, and the retention of it: all but its last events are older."""

    def __init__(self, stage: ArchiveStage, folder: Path, seed: int) -> None:
        history = histories.History(seed)
        history.write(30)
        history.generations["alpha"] = 2
        self.rows = list(history.write(90))
        self.complete = list(self.rows)
        self.stage, self.folder, self.notices = stage, folder, Notices()
        self.writer = Writer(stage, self.rows, self.rows[-1].ts + 3 * DAY_MS)

    async def run(self, *, superseded: bool = False) -> None:
        """Passes, each of a new projector, until there is no more to do.

        `superseded`: another projector is active by then.
        """
        projection = Projection(SERVING, archives=True)
        await self.stage.database.read(projection.load)
        for _ in range(40):
            lease = Lease(self.stage.database)
            await lease.seize()
            if superseded:
                await Lease(self.stage.database).seize()
            writer: Any = self.writer
            notices: Any = self.notices
            settings = Retention(archive_ms=DAY_MS)
            retention = ArchiveRetention(lease, writer, settings, self.folder, notices, None, "p")
            if not await retention.run_once(projection.catalogue):
                return
        raise AssertionError("it does not come to an end")

    async def used(self) -> Any:
        ends = Span(self.rows[0].ts // 60_000 * 60_000, self.rows[-1].ts // 60_000 * 60_000)
        by = Grouping(pool=True, project=True)
        return await usage(self.stage.history, UsageFilter(), by, ends)


async def test_what_is_old_is_exported_leaves_in_parts_and_is_noted(
    database_url: str, folder: Path
) -> None:
    """No event of an agent that lives leaves, and all is answered as before."""
    async with open_archive(database_url) as stage:
        retained = Retained(stage, folder, 2)
        await stage.fold(retained.rows)
        now = AsOf(at_ms=retained.rows[-1].ts)
        answer, used = living(await stage.answer(now)), await retained.used()
        alive = {one.agent_id for one in answer["living"] if one.status not in TERMINAL}
        assert alive
        await retained.run()
        assert living(await stage.answer(now)) == answer
        assert await retained.used() == used
        starts = await stage.database.read(read_starts)
        assert starts
        left = await archived_rows(stage.database)
        assert in_order([*(row for row in exported_rows(folder) if row not in left), *left]) == (
            in_order(retained.rows)
        )
        of_living = [row for row in retained.complete if row.subject in alive]
        assert [row for row in of_living if row not in left] == []
        newest = dict(retained.writer.noted)
        assert {pool: one.up_to_seq for pool, one in newest.items()} == {
            pool: start.seq for pool, start in starts.items()
        }
        assert len(retained.writer.noted) > len(newest), "in several parts"
        assert retained.notices.published == {}


@pytest.mark.parametrize("seed", [2, 4])
async def test_one_that_is_killed_goes_on_and_nothing_is_lost(
    seed: int, views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every few transactions: no gap, a start in reach, the same answers, noted once."""
    write = Lease.write
    async with open_archive(views_url) as stage:
        retained = Retained(stage, folder, seed)
        await stage.fold(retained.rows)
        now = AsOf(at_ms=retained.rows[-1].ts)
        answer = living(await stage.answer(now))
        deaths, killed = 0, True
        while killed:
            killed, calls_left = False, iter(range(deaths + 1))

            async def dies(
                self: Lease, *args: Any, left: Iterator[int] = calls_left, **named: Any
            ) -> Any:
                if next(left, None) is None:
                    raise Killed
                return await write(self, *args, **named)

            with monkeypatch.context() as patched:
                patched.setattr(Lease, "write", dies)
                try:
                    await retained.run()
                except Killed:
                    killed = True
                    deaths += 1
            await require_unbroken(stage)
            assert living(await stage.answer(now)) == answer
        assert deaths > 7
        starts = await stage.database.read(read_starts)
        assert {pool: one.up_to_seq for pool, one in retained.writer.noted} == {
            pool: start.seq for pool, start in starts.items()
        }
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == in_order(retained.rows)


async def test_what_cannot_be_exported_or_proved_is_reported_and_stays(
    views_url: str, folder: Path
) -> None:
    async with open_archive(views_url) as stage:
        retained = Retained(stage, folder, 2)
        await stage.fold(retained.rows)
        folder.write_text("no folder")
        await retained.run()
        assert "is a file" in retained.notices.published[notices.NOT_PRUNED]
        folder.unlink()
        (folder / "other").mkdir(parents=True)
        await retained.run()
        assert "has no manifest.json" in retained.notices.published[notices.NOT_PRUNED]
        assert await archived_rows(stage.database) == in_order(retained.complete)
        (folder / "other").rmdir()
        await retained.run()
        assert retained.notices.published == {}
        assert len(await archived_rows(stage.database)) < len(retained.complete)


async def test_an_export_that_was_changed_removes_nothing_more(
    views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_archive(views_url) as stage:
        retained = Retained(stage, folder, 2)
        await stage.fold(retained.rows)
        monkeypatch.setattr(archive_retention, "EVENTS_MAX", 0)

        async def damaging(*args: Any, **named: Any) -> Any:
            done = await export_archive(*args, **named)
            edit_manifest(folder, sha256="0" * 64)
            return done

        monkeypatch.setattr(archive_retention, "export_archive", damaging)
        await retained.run()
        assert "is damaged" in retained.notices.published[notices.NOT_PRUNED]
        assert await archived_rows(stage.database) == in_order(retained.complete)


async def test_a_projector_without_its_lease_prunes_nothing(views_url: str, folder: Path) -> None:
    """It may have been stopped for long; the next one prunes."""
    async with open_archive(views_url) as stage:
        retained = Retained(stage, folder, 2)
        await stage.fold(retained.rows)
        await retained.run(superseded=True)
        assert await archived_rows(stage.database) == in_order(retained.complete)
        assert await stage.database.read(read_starts) == {}
        await retained.run()
        assert await stage.database.read(read_starts)


async def test_few_events_wait_for_more(
    views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruning writes all that lives; the first of them has to be due for a day."""
    monkeypatch.setattr(archive_retention, "EVENTS_MIN", 10_000)
    async with open_archive(views_url) as stage:
        retained = Retained(stage, folder, 2)
        await stage.fold(retained.rows)
        retained.writer._now_ms = retained.rows[0].ts + 2 * DAY_MS - 1
        await retained.run()
        assert await stage.database.read(read_starts) == {}
        retained.writer._now_ms = retained.rows[0].ts + 3 * DAY_MS
        await retained.run()
        assert await stage.database.read(read_starts)


async def test_a_projector_prunes_while_it_projects(
    redis_url: str, views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is in the log, once; metrics count; `verify` finds the export complete."""
    monkeypatch.setattr(pruning, "AGE_MIN_MS", 1)
    monkeypatch.setattr(archive_retention, "DAY_MS", 0)
    monkeypatch.setattr(archived_state, "INTERNAL_OPERATION_MS", 1)
    retention = Retention(age_ms=1, archive_ms=1, ended_ms=1)
    async with open_stage(redis_url, views_url) as stage:
        stage.log.retention = retention
        pool = await stage.pool()
        fence = await pool.worker("w", slots=10)
        for _ in range(4):
            await ended(stage, pool, fence)
        options: Any = {"retention": retention, "archive_dir": folder, "prune_seconds": 0.05}
        async with stage.projecting(metrics=True, **options) as projector:
            await until(lambda: noted(stage), what="an event that says so")
            await ended(stage, pool, fence)
            await stage.settle()
            before = len(await noted(stage))
            await until(lambda: more_noted(stage, before), what="the next one")
            assert projector.metrics is not None
            numbers = projector.metrics.measures.numbers
            assert numbers["muster_archive_pruned_events_total"][(POOL,)] > 10
            assert numbers["muster_archive_retention_failing"][()] == 0
            whole = judge(redis_url, views=stage.database_url, exports=folder)
            assert [str(offence) for offence in whole] == []
        found = await noted(stage)
        assert len({one.up_to_seq for one in found}) == len(found)
        await stage.catch_up()
        assert (await verify(redis_url, "", stage.database_url)).differences == []
        await judge_finds_a_missing_event(stage, folder)


async def judge_finds_a_missing_event(stage: Stage, folder: Path) -> None:
    """One that left, although its pool was pruned up to the one before only."""
    [start] = (await stage.database.read(read_starts)).values()
    following = "DELETE FROM {}events WHERE pool = :pool AND seq = :seq"
    await stage.sql(following, pool=POOL, seq=start.seq + 1)
    found = judge(stage.redis_url, views=stage.database_url, exports=folder)
    assert any(f"it was pruned up to seq {start.seq} only" in str(one) for one in found)


async def ended(stage: Stage, pool: Any, fence: Any) -> None:
    [agent_id] = await stage.started(pool, fence, 1)
    await stage.act(pool, agent_id, agent_commands.End(reason="completed"), fence=fence)


async def noted(stage: Stage) -> list[PoolArchivePruned]:
    rows = await stage.views.recent([PoolArchivePruned.type], since_ms=0, limit=100)
    return [decoded(row) for row in rows]


def decoded(row: EventRow) -> PoolArchivePruned:
    return msgspec.json.decode(row.data, type=PoolArchivePruned)


async def more_noted(stage: Stage, before: int) -> bool:
    return len(await noted(stage)) > before
