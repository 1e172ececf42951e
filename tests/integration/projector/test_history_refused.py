"""Queries of history that the archive cannot answer, or not in time."""

import time
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, text

from projector.history.history import ArchiveUnreadable
from projector.history.positions import ArchiveIncomplete, AsOf, NotYetArchived
from projector.history.replay import HistoricalState, TooExpensive
from projector.store.rows import AgentFilter
from tests import histories
from tests.histories import BEGUN_MS
from tests.integration.projector.archive_stage import EVERY, at, open_archive


async def test_before_the_first_event_the_answer_is_empty(database_url: str) -> None:
    async with open_archive(database_url) as stage:
        nothing: dict[str, Any] = {
            name: [] for name in ("agents", "living", "workers", "alive", "pools")
        }
        assert await stage.answer(AsOf(at_ms=BEGUN_MS)) == nothing
        await stage.archive(histories.History(1).write(30))
        assert await stage.answer(AsOf(at_ms=BEGUN_MS - 1)) == nothing
        assert await stage.answer(at("alpha", 0)) == nothing


async def test_a_position_beyond_the_archive_is_refused(views_url: str) -> None:
    rows = histories.History(1).write(30)
    last = max(row.seq for row in rows if row.pool == "alpha")
    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        await stage.history.point_in_time(at("alpha", last))
        with pytest.raises(NotYetArchived, match=f"the archive ends at seq {last}"):
            await stage.history.point_in_time(at("alpha", last + 1))
        with pytest.raises(NotYetArchived, match="pool 'gamma': the archive ends at seq 0"):
            await stage.history.point_in_time(at("gamma", 1))


@pytest.mark.parametrize("lost", ["its start", "its middle"])
async def test_an_incomplete_archive_names_where_it_becomes_complete(
    database_url: str, lost: str
) -> None:
    """An agent that was requested after the hole is answered all the same."""
    rows = histories.History(2).write(120)
    of = [row for row in rows if row.pool == "alpha"]
    hole = {row.seq for row in (of[:20] if lost == "its start" else of[8:12])}
    first = next(row for row in of if row.seq == max(hole) + 1)
    async with open_archive(database_url) as stage:
        await stage.archive([r for r in rows if r.pool != "alpha" or r.seq not in hole])
        history = stage.history
        point = await history.point_in_time(AsOf(at_ms=rows[-1].ts))
        for question in (
            history.agents(point, AgentFilter(pool_name="alpha")),
            history.workers(point, "alpha"),
            history.pool(point, "alpha"),
            history.agent(point, "unknown", "alpha"),
        ):
            with pytest.raises(ArchiveIncomplete) as refusal:
                await question
            assert (refusal.value.pool, refusal.value.complete_from) == ("alpha", first.seq)
            assert refusal.value.ts == first.ts
        assert await history.agents(point, AgentFilter(pool_name="beta"))
        later = [r.subject for r in of if r.type == "agent.requested" and r.seq > first.seq]
        ended = {r.subject for r in of if r.type == "agent.terminated"}
        one = next(agent_id for agent_id in later if agent_id in ended)
        found = await history.agent(point, one, "alpha")
        assert found is not None
        assert found.status == "terminated"


@pytest.mark.parametrize("lost", ["its start", "its middle"])
async def test_a_time_that_is_not_archived_is_refused(views_url: str, lost: str) -> None:
    """Before the archive's first event, or in a hole of it; by position and by time."""
    rows = histories.History(2).write(120)
    of = [row for row in rows if row.pool == "alpha"]
    hole = of[:20] if lost == "its start" else of[8:12]
    first = of[of.index(hole[-1]) + 1]
    async with open_archive(views_url) as stage:
        await stage.archive([row for row in rows if row not in hole])
        history = stage.history
        points = []
        if lost == "its start":
            for row in (hole[0], hole[-1]):
                with pytest.raises(ArchiveIncomplete) as refusal:
                    await history.point_in_time(at("alpha", row.seq))
                assert (refusal.value.complete_from, refusal.value.ts) == (first.seq, first.ts)
            points.append(await history.point_in_time(AsOf(at_ms=hole[10].ts)))
        else:
            points += [await history.point_in_time(at("alpha", row.seq)) for row in hole]
        for point in points:
            for question in (
                history.agents(point, EVERY),
                history.workers(point),
                history.pools(point),
                history.pool(point, "alpha"),
                history.agent(point, of[-1].subject, "alpha"),
            ):
                with pytest.raises(ArchiveIncomplete) as refusal:
                    await question
                assert (refusal.value.complete_from, refusal.value.ts) == (first.seq, first.ts)
            assert await history.agents(point, AgentFilter(pool_name="beta")) is not None
        before = await history.point_in_time(at("alpha", 0))
        assert await history.agents(before, EVERY) == []


async def test_an_event_that_cannot_be_read_is_not_skipped(views_url: str) -> None:
    rows = list(histories.History(2).write(40))
    index = next(i for i, row in enumerate(rows) if row.type == "agent.requested")
    rows[index] = replace(rows[index], version=99)
    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        point = await stage.history.point_in_time(AsOf(at_ms=rows[-1].ts))
        with pytest.raises(ArchiveUnreadable, match="reads up to version 1"):
            await stage.history.agent(point, rows[index].subject, rows[index].pool)


async def test_a_query_that_takes_too_long_is_abandoned(database_url: str) -> None:
    """In the middle of a statement as well as between two; the connection is good afterwards."""
    async with open_archive(database_url, seconds=0.3) as stage:
        await stage.archive(histories.History(2).write(40))
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        )

        def statement(connection: Connection, _: float) -> None:
            connection.execute(text(endless)).all()

        started = time.monotonic()
        with pytest.raises(TooExpensive):
            await stage.history.query(statement)
        assert time.monotonic() - started < 5
        stage.history._seconds = 10.0  # for quick queries
        assert (await stage.answer(AsOf(at_ms=BEGUN_MS + 10**6)))["agents"]
        point = await stage.history.point_in_time(at("alpha", 5))

        def fold(connection: Connection, deadline: float) -> None:
            HistoricalState(connection, point.position_of("alpha"), deadline - 20.0).population()
            HistoricalState(connection, point.position_of("alpha"), deadline - 20.0).catalogue()

        with pytest.raises(TooExpensive):
            await stage.history.query(fold)
