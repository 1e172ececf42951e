"""The registry as it was: exact to the event, from the archive alone."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, text

from gateway.resources.as_of import parse
from projector.fold.projection import Projection
from projector.history.history import ArchiveUnreadable, History
from projector.history.positions import ArchiveIncomplete, AsOf, NotYetArchived
from projector.history.replay import HistoricalState, TooExpensive
from projector.queries import selects
from projector.store.database import Database
from projector.store.rows import AgentFilter, AgentRow, EventRow
from projector.store.tables import EVENTS, SERVING, write_rows
from tests import histories
from tests.histories import BEGUN_MS, CATALOGUE, POOLS, prefixes, summary

EVERY = AgentFilter()
LIVING = AgentFilter(ended=False)


class Stage:
    """An archive, and the views that a projector made of it event by event."""

    def __init__(self, database: Database, history: History) -> None:
        self.database, self.history = database, history

    async def archive(self, rows: Sequence[EventRow]) -> None:
        records = [asdict(row) for row in rows]
        await self.database.write(lambda c: write_rows(c, EVENTS, records, "skip"))

    async def project(self, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        """Fold them one by one; what the views answered after each of them."""
        return await self.database.write(lambda c: self._project(c, rows))

    def _project(self, connection: Connection, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        projection, answers = Projection(SERVING, archives=True), []
        projection.load(connection)
        for row in rows:
            projection.add_pools()
            projection.learn_generation(row.pool, row.generation)
            projection.mark_committed(projection.write(connection, row.pool, [row]))
            assert projection.positions[row.pool].seq == row.seq
            answers.append(answer_now(connection))
        return answers

    async def answer(self, asked: AsOf) -> dict[str, Any]:
        """The same questions as `answer_now`, of the past."""
        history = self.history
        point = await history.point_in_time(asked)
        return {
            "agents": list(await history.agents(point, EVERY, limit=1000)),
            "living": list(await history.agents(point, LIVING, limit=1000)),
            "workers": list(await history.workers(point, ended=True)),
            "alive": list(await history.workers(point)),
            "pools": list(await history.pools(point)),
        }

    async def sql(self, statement: str) -> None:
        prefixed = statement.replace("{}", self.database.prefix)
        await self.database.write(lambda c: c.execute(text(prefixed)))


def answer_now(connection: Connection) -> dict[str, Any]:
    return {
        "agents": selects.agents(connection, EVERY, after="", limit=1000),
        "living": selects.agents(connection, LIVING, after="", limit=1000),
        "workers": selects.workers(connection, None, ended=True, after="", limit=None),
        "alive": selects.workers(connection, None, ended=False, after="", limit=None),
        "pools": selects.pools(connection),
    }


@asynccontextmanager
async def open_stage(url: str, *, seconds: float = 10.0) -> AsyncIterator[Stage]:
    database, history = Database(url), History(url, seconds=seconds)
    database.open()
    await database.prepare()
    history.database.open()
    try:
        yield Stage(database, history)
    finally:
        await history.database.close()
        await database.close()


def at(pool: str, seq: int, generation: int | None = None) -> AsOf:
    return AsOf(events={pool: (generation, seq)})


def of_pool(answer: dict[str, Any], pool: str) -> dict[str, Any]:
    """Without what pending agents wait for: the bounds of a pool stand in another log."""
    return {
        name: [
            replace(row, reason="") if name in ("agents", "living") else row
            for row in answer[name]
            if row.pool_name == pool
        ]
        for name in ("agents", "living", "workers", "alive")
    }


# ---- exact to the event ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
async def test_any_event_of_any_history_is_answered_as_the_views_did_then(
    database_url: str, seed: int
) -> None:
    """By the position of the event and by its time; the views fold on without their archive."""
    rows = histories.History(seed).write(70 if "sqlite" in database_url else 25)
    async with open_stage(database_url) as stage:
        answers = await stage.project(rows)
        for name in ("agents", "workers", "pools", "hosts", "checkpoints"):
            await stage.sql(f"DELETE FROM {{}}{name}")
        for index, (row, before) in enumerate(prefixes(rows)):
            last_of_its_time = index + 1 == len(rows) or rows[index + 1].ts > row.ts
            if last_of_its_time:
                assert await stage.answer(AsOf(at_ms=row.ts)) == answers[index], (seed, index)
            if row.pool == CATALOGUE:
                continue
            found = await stage.answer(at(row.pool, row.seq))
            then = of_pool(answers[index], row.pool)
            assert of_pool(found, row.pool) == then, (seed, index)
            states = {agent.agent_id: agent for agent in found["agents"]}
            crews = {worker.worker_id: worker for worker in found["workers"]}
            for subject, (status, worker_id, events) in summary(before, row.pool).items():
                state = states.get(subject) or crews[subject]
                assert (state.status, state.version) == (status, events), (seed, index, subject)
                if subject in states:
                    assert state.process_id == worker_id
            assert len(summary(before, row.pool)) == len(then["agents"]) + len(then["workers"])


async def test_one_agent_and_pages_and_filters_are_answered_as_the_complete_list(
    database_url: str,
) -> None:
    rows = histories.History(11).write(150)
    async with open_stage(database_url) as stage:
        await stage.archive(rows)
        history = stage.history
        point = await history.point_in_time(AsOf(at_ms=rows[110].ts))
        agents = await history.agents(point, EVERY, limit=1000)
        assert len(agents) > 15
        for agent in agents:
            assert await history.agent(point, agent.agent_id, agent.pool_name) == agent
            assert await history.pool_of(agent.agent_id) == agent.pool_name
        chosen = [a for a in agents if a.project_id == "apollo"]
        wanted = AgentFilter(project_id="apollo")
        assert await history.agents(point, wanted, limit=1000) == chosen
        chosen = [a for a in agents if a.labels == {"team": "core"}]
        wanted = AgentFilter(label=("team", "core"))
        assert await history.agents(point, wanted, limit=1000) == chosen
        for status in {agent.status for agent in agents}:
            wanted = AgentFilter(status=(status,), pool_name="beta")
            chosen = [a for a in agents if (a.status, a.pool_name) == (status, "beta")]
            assert await history.agents(point, wanted, limit=1000) == chosen
        paged: list[AgentRow] = []
        after = ""
        while page := await history.agents(point, EVERY, after=after, limit=4):
            paged += page
            after = page[-1].agent_id
        assert paged == agents


async def test_a_point_in_time_stays_the_same_while_events_of_its_time_still_come(
    database_url: str,
) -> None:
    rows = histories.History(5).write(60)
    last = replace(rows[-1], ts=rows[-1].ts)
    same_ms = [row for row in rows if row.ts <= last.ts]
    async with open_stage(database_url) as stage:
        await stage.archive(same_ms[:-10])
        point = await stage.history.point_in_time(AsOf(at_ms=last.ts))
        before = await stage.history.agents(point, EVERY, limit=1000)
        await stage.archive(rows)
        assert await stage.history.agents(point, EVERY, limit=1000) == before
        again = await stage.history.point_in_time(parse(str(point)))
        assert await stage.history.agents(again, EVERY, limit=1000) == before
        newer = await stage.history.point_in_time(AsOf(at_ms=last.ts))
        assert await stage.history.agents(newer, EVERY, limit=1000) != before


async def test_an_event_stays_the_point_in_time_although_others_of_its_time_come_later(
    database_url: str,
) -> None:
    """A recovery, or a reap, writes many at once."""
    rows = [replace(row, ts=1_000) for row in histories.History(5).write(60)]
    async with open_stage(database_url) as stage:
        await stage.archive(rows)
        for pool in POOLS:
            for seq in (0, 1, 7):
                point = await stage.history.point_in_time(AsOf(events={pool: (None, seq)}))
                before = await stage.history.agents(point, EVERY, limit=1000)
                again = await stage.history.point_in_time(parse(str(point)))
                assert again.position_of(pool).seq == seq
                assert await stage.history.agents(again, EVERY, limit=1000) == before


# ---- over generations ------------------------------------------------------------------------


async def test_what_a_recovery_left_behind_is_void_but_can_be_asked_for(database_url: str) -> None:
    """Two stories with a common beginning: one lost, and one that went on from the archive."""
    lost, restored = histories.History(3), histories.History(3)
    lost.write(40)
    restored.write(28)
    pool, fences = POOLS[0], set[str]()
    restored.chance.seed(99)
    restored.generations = dict.fromkeys(restored.generations, 2)
    restored.ts += 60_000
    restored.write(56)
    async with open_stage(database_url) as stage:
        await stage.archive(lost.rows)
        await stage.archive(restored.rows)
        for story, generation in ((lost, 1), (restored, None), (restored, 2)):
            for row, before in prefixes(story.rows):
                if row.pool != pool or generation == 2 > row.generation:
                    continue
                point = await stage.history.point_in_time(at(pool, row.seq, generation))
                wanted = AgentFilter(pool_name=pool)
                agents = await stage.history.agents(point, wanted, limit=1000)
                fences |= {agent.fencing_token.partition(":")[0] for agent in agents}
                found = {a.agent_id: (a.status, a.process_id, a.version) for a in agents}
                subjects = summary(before, pool)
                assert found == {i: subjects[i] for i in found}
                assert len(found) == sum(
                    r.type == "agent.requested" and r.pool == pool for r in before
                )
        assert fences >= {"1", "2"}
        by_time = await stage.history.point_in_time(AsOf(at_ms=restored.rows[27].ts + 30_000))
        assert by_time.position_of(pool).generation == 1
        assert by_time.position_of(pool).seq == max(
            r.seq for r in restored.rows[:28] if r.pool == pool
        )
        with pytest.raises(NotYetArchived, match="nothing is archived of generation 3"):
            await stage.history.point_in_time(at(pool, 1, 3))


# ---- what cannot be answered -----------------------------------------------------------------


async def test_before_the_beginning_there_is_nothing(database_url: str) -> None:
    async with open_stage(database_url) as stage:
        nothing: dict[str, list[Any]] = {
            "agents": [],
            "living": [],
            "workers": [],
            "alive": [],
            "pools": [],
        }
        assert await stage.answer(AsOf(at_ms=BEGUN_MS)) == nothing
        await stage.archive(histories.History(1).write(30))
        assert await stage.answer(AsOf(at_ms=BEGUN_MS - 1)) == nothing
        assert await stage.answer(at("alpha", 0)) == nothing


async def test_beyond_the_archive_is_not_reached(database_url: str) -> None:
    rows = histories.History(1).write(30)
    last = max(row.seq for row in rows if row.pool == "alpha")
    async with open_stage(database_url) as stage:
        await stage.archive(rows)
        await stage.history.point_in_time(at("alpha", last))
        with pytest.raises(NotYetArchived, match=f"the archive ends at seq {last}"):
            await stage.history.point_in_time(at("alpha", last + 1))
        with pytest.raises(NotYetArchived, match="pool 'gamma': the archive ends at seq 0"):
            await stage.history.point_in_time(at("gamma", 1))


@pytest.mark.parametrize("lost", ["its beginning", "something between"])
async def test_an_archive_with_a_hole_says_from_where_on_it_is_complete(
    database_url: str, lost: str
) -> None:
    """An agent that was requested after the hole is answered all the same."""
    rows = histories.History(2).write(120)
    of = [row for row in rows if row.pool == "alpha"]
    hole = {row.seq for row in (of[:20] if lost == "its beginning" else of[8:12])}
    first = next(row for row in of if row.seq == max(hole) + 1)
    async with open_stage(database_url) as stage:
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


@pytest.mark.parametrize("lost", ["its beginning", "something between"])
async def test_a_time_that_is_not_archived_is_not_answered_as_empty(
    database_url: str, lost: str
) -> None:
    """Before the archive's beginning, or in a hole of it; by position and by time."""
    rows = histories.History(2).write(120)
    of = [row for row in rows if row.pool == "alpha"]
    hole = of[:20] if lost == "its beginning" else of[8:12]
    first = of[of.index(hole[-1]) + 1]
    async with open_stage(database_url) as stage:
        await stage.archive([row for row in rows if row not in hole])
        history = stage.history
        points = []
        if lost == "its beginning":
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


async def test_an_event_that_cannot_be_read_is_not_passed_over(database_url: str) -> None:
    rows = list(histories.History(2).write(40))
    index = next(i for i, row in enumerate(rows) if row.type == "agent.requested")
    rows[index] = replace(rows[index], version=99)
    async with open_stage(database_url) as stage:
        await stage.archive(rows)
        point = await stage.history.point_in_time(AsOf(at_ms=rows[-1].ts))
        with pytest.raises(ArchiveUnreadable, match="reads up to version 1"):
            await stage.history.agent(point, rows[index].subject, rows[index].pool)


async def test_the_past_is_answered_also_after_a_restart_of_the_database(
    postgres_url: str,
) -> None:
    """Its connections are broken then, and who asks next need not know of it."""
    rows = histories.History(3).write(20)
    async with open_stage(postgres_url) as stage:
        await stage.archive(rows)
        asked = AsOf(at_ms=rows[-1].ts)
        before = await stage.answer(asked)
        await stage.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await stage.answer(asked) == before


async def test_a_query_that_takes_too_long_is_abandoned(database_url: str) -> None:
    """In the middle of a statement as well as between two; the connection is good afterwards."""
    async with open_stage(database_url, seconds=0.3) as stage:
        await stage.archive(histories.History(2).write(40))
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        )

        def statement(connection: Connection, _: float) -> None:
            connection.execute(text(endless)).all()

        began = time.monotonic()
        with pytest.raises(TooExpensive):
            await stage.history._query(statement)
        assert time.monotonic() - began < 5
        stage.history._seconds = 10.0  # the others are quick questions
        assert (await stage.answer(AsOf(at_ms=BEGUN_MS + 10**6)))["agents"]
        point = await stage.history.point_in_time(at("alpha", 5))

        def fold(connection: Connection, deadline: float) -> None:
            HistoricalState(connection, point.position_of("alpha"), deadline - 20.0).population()
            HistoricalState(connection, point.position_of("alpha"), deadline - 20.0).catalogue()

        with pytest.raises(TooExpensive):
            await stage.history._query(fold)
