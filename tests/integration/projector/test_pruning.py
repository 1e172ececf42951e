"""A pruned archive answers as before from its start on, and an import undoes the pruning.

The views of the tests below are folded event by event, and the archive is the only other copy.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from projector.archive import access, limits, pruning
from projector.archive.pruning import PruneRefused
from projector.exports import files
from projector.exports.manifest import ExportDamaged, read_manifest, write_manifest
from projector.fold.projection import Projection
from projector.fold.snapshot import stored_snapshot
from projector.history.positions import ArchiveIncomplete, AsOf
from projector.queries.spans import Span
from projector.queries.usage import Grouping, UsageFilter, usage
from projector.store.archive_starts import ArchivePruned, SnapshotDamaged, read_starts
from projector.store.ended import ended_before
from projector.store.lease import Lease
from projector.store.rows import EventRow
from projector.store.tables import SERVING
from projector.store.usage_rows import UsageReport
from tests import histories
from tests.integration.projector.archive_stage import ArchiveStage, at, open_archive
from tests.integration.projector.exporting import (
    DAY_MS,
    archived_rows,
    exported,
    imported,
    in_order,
    pruned,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files for a pool, and several transactions for everything."""
    monkeypatch.setattr(limits, "KEPT", 3)
    monkeypatch.setattr(files, "EVENTS_MAX", 9)
    monkeypatch.setattr(access, "PAGE", 4)
    monkeypatch.setattr(pruning, "CHUNK", 4)
    monkeypatch.setattr(pruning, "PORTION", 900)


def living(answer: dict[str, Any]) -> dict[str, Any]:
    """What a pruned log knows of a time: nothing that had ended before its start."""
    return {name: answer[name] for name in ("living", "alive", "pools")}


def written(seed: int, length: int) -> tuple[Sequence[EventRow], int]:
    """A history, and a time in it after which both pools go on; one log is of two generations."""
    history = histories.History(seed)
    history.write(length // 3)
    history.generations["alpha"] = 2
    rows = history.write(length)
    return rows, rows[length // 2].ts + 1


async def test_from_its_start_on_everything_is_answered_as_before(
    database_url: str, folder: Path
) -> None:
    """For events of a history, by time and by position; below it, 410. Then it is undone."""
    seed, length = (2, 90) if "sqlite" in database_url else (3, 40)
    rows, before_ms = written(seed, length)
    async with open_archive(database_url) as stage:
        await stage.fold(rows)
        some = [row for row in rows[:: len(rows) // 8] if row.pool]
        answers = {row.event_id: await stage.answer(AsOf(at_ms=row.ts)) for row in some}
        by_seq = {row.event_id: await stage.answer(at(row.pool, row.seq)) for row in some}
        ends = Span(rows[0].ts // 60_000 * 60_000, rows[-1].ts // 60_000 * 60_000 + 60_000)
        within = Span(rows[length // 4].ts, rows[length // 2].ts + 2)
        used, used_within = await used_in(stage, ends), await used_in(stage, within)
        await exported(stage.database, folder)
        done = {one.pool: one for one in await pruned(stage.database, folder, before_ms)}
        assert await used_in(stage, ends) == used
        with pytest.raises((ArchiveIncomplete, ArchivePruned)):
            await used_in(stage, within)
        starts = await stage.database.read(read_starts)
        assert starts.keys() == set(histories.POOLS)
        left = [row for row in rows if not row.pool or row.seq > starts[row.pool].seq]
        assert await archived_rows(stage.database) == in_order(left)
        assert sum(one.events for one in done.values()) == len(rows) - len(left)
        for row in some:
            if row.ts < max(start.ts for start in starts.values()):
                with pytest.raises(ArchivePruned, match="pruned up to seq"):
                    await stage.answer(AsOf(at_ms=row.ts))
            else:
                found = await stage.answer(AsOf(at_ms=row.ts))
                assert living(found) == living(answers[row.event_id]), row
                known = {agent.agent_id for agent in found["agents"]}
                then = answers[row.event_id]["agents"]
                assert found["agents"] == [one for one in then if one.agent_id in known]
            if row.seq < starts[row.pool].seq:
                with pytest.raises(ArchivePruned):
                    await stage.history.point_in_time(at(row.pool, row.seq), [row.pool])

        assert (await imported(stage.database, folder)).events == len(rows) - len(left)
        assert await stage.database.read(read_starts) == {}
        assert await archived_rows(stage.database) == in_order(rows)
        assert await used_in(stage, ends) == used
        assert await used_in(stage, within) == used_within
        for row in some:
            assert await stage.answer(AsOf(at_ms=row.ts)) == answers[row.event_id]
            assert await stage.answer(at(row.pool, row.seq)) == by_seq[row.event_id]


async def used_in(stage: ArchiveStage, span: Span) -> UsageReport:
    """What each project used in each pool."""
    return await usage(stage.history, UsageFilter(), Grouping(pool=True, project=True), span)


async def test_one_agent_that_outlives_the_pruned_events_is_found(
    views_url: str, folder: Path
) -> None:
    rows, _ = written(5, 120)
    before_ms = rows[-5].ts
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        now = AsOf(at_ms=rows[-1].ts)
        point = await stage.history.point_in_time(now)
        agents = (await stage.answer(now))["living"]
        await exported(stage.database, folder)
        await pruned(stage.database, folder, before_ms)
        point = await stage.history.point_in_time(now)
        silent = {agent.agent_id for agent in agents} - {
            row.subject for row in await archived_rows(stage.database)
        }
        assert silent, "no event of them is left"
        for agent in agents:
            pool = await stage.history.pool_of(agent.agent_id)
            assert pool == agent.pool_name
            assert await stage.history.agent(point, agent.agent_id, pool) == agent
        assert await stage.history.pool_of("unknown") is None
        assert await stage.history.agent(point, "unknown", None) is None


@pytest.mark.parametrize("seed", range(4))
async def test_a_fold_from_the_snapshot_is_that_from_the_first_event(
    seed: int, views_url: str, folder: Path
) -> None:
    """Pruned two times, at random; over months, so that sums of usage are thinned."""
    chosen, history = random.Random(seed), histories.History(seed)
    while len(history.rows) < 100:
        rows = history.write(len(history.rows) + 5)
        history.ts += chosen.choice((600_000, 7_200_000, 5 * DAY_MS, 90 * DAY_MS))
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        await exported(stage.database, folder)
        for before_ms in sorted(chosen.choice(rows).ts for _ in range(2)):
            await pruned(stage.database, folder, before_ms)
        gone_ms = await stage.database.read(ended_before)
        expected = [view for view in await views(stage) if not left(view, gone_ms)]
        starts = await stage.database.read(read_starts)
        for table in ("agents", "workers", "checkpoints", "usage_accounts", "usage_sums"):
            where = " OR ".join(f"pool{'_name' * (table != 'checkpoints')} = '{p}'" for p in starts)
            await stage.sql(f"DELETE FROM {{}}{table} WHERE {where or '1 = 0'}")

        def fold(connection: Any) -> None:
            projection = Projection(SERVING, archives=False)
            projection.load(connection)
            for start in starts.values():
                snapshot = stored_snapshot(connection, start)
                started = projection.start_from(connection, snapshot)
                projection.mark_committed(started)
                of_pool = [row for row in rows if row.pool == start.pool and row.seq > start.seq]
                projection.mark_committed(projection.write(connection, start.pool, of_pool))
                assert projection.positions[start.pool].status == "ok"

        await stage.database.write(fold)
        assert [view for view in await views(stage) if not left(view, gone_ms)] == expected


async def views(stage: ArchiveStage) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def read(connection: Any) -> None:
        for table in SERVING.all():
            if table not in (SERVING.pools, SERVING.hosts):
                rows = connection.execute(table.select().order_by(*table.primary_key)).mappings()
                found.extend(map(dict, rows))

    await stage.database.read(read)
    return found


def left(view: dict[str, Any], before_ms: int) -> bool:
    """Whether it is a row of what ended before a time."""
    ended = view.get("status") in ("terminated", "stopped", "lost")
    return ended and not view.get("agent_count") and view["ended_at"] < before_ms


class Killed(BaseException):
    """In place of SIGKILL: nothing cleans up after it."""


async def test_a_pruning_that_was_killed_goes_on_and_nothing_is_lost(
    views_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every transaction in turn: no gap, a start in reach, and the same answers."""
    rows, before_ms = written(2, 70)
    write = Lease.write
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        last = AsOf(at_ms=rows[-1].ts)
        answer = living(await stage.answer(last))
        await exported(stage.database, folder)
        step = 0
        killed = True
        while killed:
            step, killed = step + 2, False
            calls_left = iter(range(step))

            async def dies(
                self: Lease, *args: Any, left: Iterator[int] = calls_left, **named: Any
            ) -> Any:
                if next(left, None) is None:
                    raise Killed
                return await write(self, *args, **named)

            with monkeypatch.context() as patched:
                patched.setattr(Lease, "write", dies)
                try:
                    await pruned(stage.database, folder, before_ms)
                except Killed:
                    killed = True
            await require_unbroken(stage)
            assert living(await stage.answer(last)) == answer
            await pruned(stage.database, folder, before_ms)
            assert {row.seq for row in await require_unbroken(stage)} != {1}
            assert living(await stage.answer(last)) == answer
            await imported(stage.database, folder)
            assert await archived_rows(stage.database) == in_order(rows)
        assert step > 20


async def require_unbroken(stage: ArchiveStage) -> list[EventRow]:
    """Every log begins at its first event, or at a start that the archive reaches."""
    starts = await stage.database.read(read_starts)
    found = await archived_rows(stage.database)
    for pool in histories.POOLS:
        seqs = [row.seq for row in found if row.pool == pool]
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
        assert seqs[0] <= (starts[pool].seq if pool in starts else 0) + 1
    return found


async def test_what_a_recovery_or_a_client_may_need_stays(views_url: str, folder: Path) -> None:
    rows, _ = written(2, 90)
    ends = {pool: max(r.seq for r in rows if r.pool == pool) for pool in histories.POOLS}
    async with open_archive(views_url) as stage:
        await stage.fold(rows[:60])
        await exported(stage.database, folder)
        await stage.fold(rows[60:])
        manifest = read_manifest(folder)
        exported_to = {pool: manifest.of_pool(pool)[-1].last_seq for pool in histories.POOLS}
        late = rows[-1].ts + DAY_MS
        done = {one.pool: one for one in await pruned(stage.database, folder, late)}
        assert {pool: one.seq for pool, one in done.items()} == {
            pool: exported_to[pool] for pool in histories.POOLS
        }
        assert {one.why for one in done.values()} == {"what follows is not exported"}
        await exported(stage.database, folder)
        done = {one.pool: one for one in await pruned(stage.database, folder, late)}
        assert {p: one.seq for p, one in done.items()} == {p: n - 3 for p, n in ends.items()}
        assert "for a recovery" in done["alpha"].why
        again = await pruned(stage.database, folder, late)
        assert [one.events for one in again] == [0, 0]
        assert [row for row in await archived_rows(stage.database) if not row.pool] == [
            row for row in rows if not row.pool
        ]
        with pytest.raises(PruneRefused, match="of the last 24 hours are not pruned"):
            await pruned(stage.database, folder, late, later_ms=DAY_MS - 1)


async def test_requests_that_may_be_repeated_stay(views_url: str, folder: Path) -> None:
    """And what follows them: a recovery knows them from the archive only."""
    rows, before_ms = written(2, 90)
    kept = next(r for r in rows if r.pool == "beta" and r.type == "agent.requested" and r.seq > 9)
    data = kept.data[:-1] + f',"operation_id":"k","digest":"d","operation_ms":{9 * DAY_MS}}}'
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        changed = f"UPDATE {{}}events SET data = '{data}' WHERE event_id = '{kept.event_id}'"
        await stage.sql(changed.replace(":", "\\:"))
        await exported(stage.database, folder)
        done = {one.pool: one for one in await pruned(stage.database, folder, before_ms)}
        assert done["beta"].seq == kept.seq - 1
        assert "Idempotency-Key" in done["beta"].why
        assert done["alpha"].why == ""


async def test_nothing_is_removed_that_the_export_does_not_prove(
    views_url: str, folder: Path
) -> None:
    rows, before_ms = written(2, 90)
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        await exported(stage.database, folder)

        async def refused(why: str) -> None:
            with pytest.raises((ExportDamaged, PruneRefused), match=why):
                await pruned(stage.database, folder, before_ms)
            assert await archived_rows(stage.database) == in_order(rows)
            assert await stage.database.read(read_starts) == {}

        file = min((folder / "events" / "alpha").iterdir())
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        await refused("is damaged: its SHA-256 is")
        file.unlink()
        await refused("No such file")
        file.write_bytes(content)
        first = next(row for row in rows if row.pool == "alpha")
        await stage.sql("UPDATE {}events SET actor = 'x' WHERE pool = 'alpha' AND seq = 7")
        with pytest.raises(ExportDamaged, match="seq 7 is not as the archive has it"):
            await pruned(stage.database, folder, before_ms)
        await stage.sql(f"UPDATE {{}}events SET actor = '{first.actor}' WHERE seq = 7")
        manifest = read_manifest(folder)
        manifest.files = [f for f in manifest.files if f.pool != "alpha" or f.first_seq != 13]
        write_manifest(folder, manifest)
        done = {one.pool: one for one in await pruned(stage.database, folder, before_ms)}
        assert (done["alpha"].seq, done["alpha"].why) == (12, "what follows is not exported")


async def test_an_archive_that_starts_late_is_not_pruned(views_url: str, folder: Path) -> None:
    """It cannot be folded."""
    rows, before_ms = written(2, 90)
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        await stage.sql("DELETE FROM {}events WHERE pool = 'alpha' AND seq < 5")
        await exported(stage.database, folder)
        done = {one.pool: one for one in await pruned(stage.database, folder, before_ms)}
        assert (done["alpha"].seq, done["alpha"].why) == (0, "its archive begins at seq 5")
        assert done["beta"].seq > 0


async def test_a_damaged_snapshot_is_noticed(views_url: str, folder: Path) -> None:
    rows, before_ms = written(2, 90)
    async with open_archive(views_url) as stage:
        await stage.fold(rows)
        await exported(stage.database, folder)
        await pruned(stage.database, folder, before_ms)
        start = (await stage.database.read(read_starts))["alpha"]
        await stage.sql("DELETE FROM {}archive_snapshots WHERE kind = 'worker'")
        with pytest.raises(SnapshotDamaged, match=f"at seq {start.seq} is damaged"):
            await stage.database.read(lambda c: stored_snapshot(c, start))
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == in_order(rows)


async def test_two_prunings_at_once(views_url: str, folder: Path) -> None:
    """One of them waits, or gives up; nothing is lost."""
    rows, before_ms = written(2, 90)
    async with open_archive(views_url) as stage, open_archive(views_url) as other:
        await stage.fold(rows)
        await exported(stage.database, folder)
        done = await asyncio.gather(
            pruned(stage.database, folder, before_ms),
            pruned(other.database, folder, before_ms),
        )
        assert sum(one.events for many in done for one in many) > 0
        await imported(stage.database, folder)
        assert await archived_rows(stage.database) == in_order(rows)
