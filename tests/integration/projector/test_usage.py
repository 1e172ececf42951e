"""Usage and the history of a pool: exact to the event, from the views, whatever the span."""

import random
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pytest
from msgspec.structs import replace

from projector.fold.projection import Projection
from projector.history.positions import ArchiveIncomplete
from projector.queries.pool_history import HistoryRefused, pool_history
from projector.queries.spans import Period, Span, parts_of
from projector.queries.usage import Grouping, UsageFilter, usage
from projector.store.mapping import chunks
from projector.store.rows import EventRow
from projector.store.tables import SERVING
from projector.store.usage_rows import MINUTE_MS, UsageReport
from tests.histories import POOLS, History
from tests.integration.projector.archive_stage import ArchiveStage, open_archive
from tests.measured_usage import measured, numbers, stretched, team_of, times_of

ALPHA = POOLS[0]
EACH = Grouping(pool=True, role=True, project=True, label="team")
ALL = UsageFilter()
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def history(seed: int, factor: int, length: int = 160) -> list[EventRow]:
    return stretched(History(seed).write(length), factor)


def later(rows: Sequence[EventRow], by_ms: int) -> list[EventRow]:
    times = ((row, row.ts + by_ms) for row in rows)
    return [replace(row, ts=ts, stream_id=f"{ts}-{row.seq}") for row, ts in times]


async def used(
    stage: ArchiveStage,
    since: int,
    until: int,
    by: Grouping = EACH,
    per: Period | None = None,
    **wanted: Any,
) -> UsageReport:
    return await usage(stage.history, UsageFilter(**wanted), by, Span(since, until), period=per)


async def projected(stage: ArchiveStage, rows: Sequence[EventRow]) -> None:
    """Fold them in batches of a few events of one log, each in a transaction of its own."""
    projection = Projection(SERVING, archives=True)
    await stage.database.read(projection.load)
    for pool, of_pool in groupby(rows, lambda row: row.pool):
        for batch in chunks(of_pool, 5):
            projection.add_pools()
            projection.learn_generation(pool, batch[0].generation)
            write = partial(projection.write, pool=pool, rows=batch)
            projection.mark_committed(await stage.database.write(write))


def expected(rows: Sequence[EventRow], since: int, until: int) -> dict[Any, dict[str, Any]]:
    """By pool, project and team, without what nothing was used of."""
    found = {}
    for pool in POOLS:
        for account, times in times_of(rows, pool).items():
            wanted = measured(times, since, until)
            if account[1] and any(wanted.values()):
                without = {**wanted, "worker_seconds": None, "capacity_seconds": None}
                found[pool, account[1], team_of(account)] = without
    return found


async def test_any_span_is_that_of_an_independent_fold(database_url: str) -> None:
    seed, length = (5, 160) if "sqlite" in database_url else (6, 60)
    rows = history(seed, 9_000, length)
    chance = random.Random(seed)
    async with open_archive(database_url) as stage:
        await projected(stage, rows)
        for _ in range(12):
            times = [chance.choice((row.ts, row.ts + 1)) for row in chance.choices(rows, k=2)]
            since, until = sorted(
                chance.choice((at, at // MINUTE_MS * MINUTE_MS, at + 20_000)) for at in times
            )
            report = await used(stage, since, until)
            found = {(r.pool_name, r.project_id, r.label): numbers(r) for r in report.rows}
            assert found == expected(rows, since, until), (since, until)
        of_pools = await used(stage, since, until, by=Grouping(pool=True))
        for row in of_pools.rows:
            times_of_pool = times_of(rows, str(row.pool_name))["", "", "{}"]
            assert numbers(row) == measured(times_of_pool, since, until)


async def test_a_span_that_lasts_until_now_has_all_that_came_meanwhile(views_url: str) -> None:
    rows = history(10, 9_000)
    async with open_archive(views_url) as stage:
        await projected(stage, rows)
        now = Span(rows[0].ts, rows[-9].ts, is_open=True)
        report = await usage(stage.history, ALL, EACH, now)
        assert now.until_ms < (report.until or 0) <= rows[-1].ts + 1
        assert report == await used(stage, rows[0].ts, report.until or 0)


async def test_a_span_is_divided_at_full_hours_and_the_parts_make_the_whole(
    views_url: str,
) -> None:
    rows = history(8, 300_000)
    since, until = rows[5].ts, rows[-1].ts + 7
    ends = parts_of(since, until, Period.HOUR)
    assert all(end % 3_600_000 == 0 for end in ends[1:-1])
    async with open_archive(views_url) as stage:
        await projected(stage, rows)
        report = await used(stage, since, until, by=Grouping(), per=Period.HOUR)
        assert numbers(report.total) == numbers((await used(stage, since, until)).total)
        for name in ("requested", "ended", "restarts"):
            parts = sum(getattr(row, name) for row in report.rows)
            assert parts == getattr(report.total, name)
        assert sum(row.slot_seconds for row in report.rows) == pytest.approx(
            report.total.slot_seconds
        )


async def test_usage_is_filtered_and_workers_are_of_pools_only(views_url: str) -> None:
    rows = history(9, 9_000)
    span = (rows[0].ts, rows[-1].ts + 1)
    async with open_archive(views_url) as stage:
        await projected(stage, rows)
        every = await used(stage, *span, by=Grouping(role=True))
        assert [row.role_type for row in every.rows] == ["developer"]
        assert (every.rows[0].worker_seconds or 0) > 0
        apollo = await used(stage, *span, project_id="apollo", label=("team", "core"))
        assert apollo.total.worker_seconds is None
        assert {(row.project_id, row.label) for row in apollo.rows} == {("apollo", "core")}
        assert not (await used(stage, *span, role_type="tester")).rows
        assert (await used(stage, *span, pool_name="none")).total.agents == 0


async def test_old_sums_are_thinned_and_stay_without_their_events(database_url: str) -> None:
    """Full hours and days are answered, and anything else where the events are archived."""
    rows = history(12, 60_000, 120)
    rows = [*rows[:-9], *later(rows[-9:], 9 * DAY_MS)]
    first_ms, ended = rows[0].ts, rows[-1].ts
    hour = (first_ms + 2 * HOUR_MS) // HOUR_MS * HOUR_MS
    async with open_archive(database_url) as stage:
        await projected(stage, rows)
        exact = await used(stage, first_ms + 1, hour + 1)
        assert {(r.pool_name, r.project_id, r.label): numbers(r) for r in exact.rows} == expected(
            rows, first_ms + 1, hour + 1
        )
        before = await used(stage, first_ms // DAY_MS * DAY_MS, hour)
        await stage.sql("DELETE FROM {}events")
        assert await used(stage, first_ms // DAY_MS * DAY_MS, hour) == before
        between = next(row.ts for row in rows if row.ts > hour and row.type == "agent.requested")
        with pytest.raises(ArchiveIncomplete):
            await used(stage, first_ms // DAY_MS * DAY_MS, between)
        stored = await stage.sql_rows("SELECT (pool_name || account), minute FROM {}usage_sums")
        week_ago = ended // MINUTE_MS - 7 * 1440
        old = [(one, minute // 60) for one, minute in stored if minute < week_ago]
        assert len(old) == len(set(old))


async def test_a_history_has_every_minute_and_the_same_in_sql(database_url: str) -> None:
    rows = history(14, 9_000)
    since = rows[0].ts // MINUTE_MS * MINUTE_MS
    until = rows[-1].ts + 3
    times = times_of(rows, ALPHA)["", "", "{}"]
    async with open_archive(database_url) as stage:
        await projected(stage, rows)
        found = await pool_history(stage.history, ALPHA, Span(since + 5, until))
        assert (found.step, found.since) == ("minute", since)
        for at, point in zip(range(since, until, MINUTE_MS), found.points, strict=True):
            end = min(at + MINUTE_MS, until)
            wanted = measured(times, at, end)
            assert (point.since, point.arrivals, point.ends) == (
                at, wanted["requested"], wanted["ended"],
            )  # fmt: skip
            assert point.slots_used_mean * (end - at) == pytest.approx(
                wanted["slot_seconds"] * 1000
            )
        in_sql = await stage.sql_rows(
            "SELECT since, arrivals, ends, failures, agents FROM {}pool_minutes"
            f" WHERE pool_name = '{ALPHA}' ORDER BY since"
        )
        points = {p.since: (p.arrivals, p.ends, p.failures, p.agents) for p in found.points}
        assert {one[0]: tuple(one[1:]) for one in in_sql}.items() <= points.items()
        hours = await stage.sql_rows(
            f"SELECT sum(arrivals), count(*) FROM {{}}pool_hours WHERE pool_name = '{ALPHA}'"
        )
        assert hours[0][0] == sum(point.arrivals for point in found.points)
        with pytest.raises(HistoryRefused, match="steps"):
            await pool_history(stage.history, ALPHA, Span(since - 400 * DAY_MS, until), "minute")


def test_months_and_days_are_those_of_utc() -> None:
    ends = parts_of(1_795_513_400_000, 1_804_000_000_000, Period.MONTH)
    assert ends[1:-1] == [
        1_796_083_200_000,
        1_798_761_600_000,
        1_801_440_000_000,
        1_803_859_200_000,
    ]
    assert parts_of(5, 5, Period.DAY) == [5, 5]
