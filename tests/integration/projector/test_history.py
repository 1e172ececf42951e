"""Agents, workers and pools as they were, exact to the event, from the archive only."""

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.resources.as_of import parse
from projector.history.positions import AsOf, NotYetArchived
from projector.store.rows import AgentFilter, AgentRow
from tests import histories
from tests.histories import CATALOGUE, POOLS, prefixes, summary
from tests.integration.projector.archive_stage import EVERY, at, open_archive


def of_pool(answer: dict[str, Any], pool: str) -> dict[str, Any]:
    """Without what pending agents wait for: the bounds of a pool are in another log."""
    return {
        name: [
            replace(row, reason="") if name in ("agents", "living") else row
            for row in answer[name]
            if row.pool_name == pool
        ]
        for name in ("agents", "living", "workers", "alive")
    }


async def test_every_event_of_a_history_is_answered_as_the_views_did_then(
    database_url: str,
) -> None:
    """By the position of the event and by its time; the views fold on without their archive."""
    seed, length = (0, 70) if "sqlite" in database_url else (1, 25)
    rows = histories.History(seed).write(length)
    async with open_archive(database_url) as stage:
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
            workers = {worker.worker_id: worker for worker in found["workers"]}
            for subject, (status, worker_id, events) in summary(before, row.pool).items():
                state = states.get(subject) or workers[subject]
                assert (state.status, state.version) == (status, events), (seed, index, subject)
                if subject in states:
                    assert state.process_id == worker_id
            assert len(summary(before, row.pool)) == len(then["agents"]) + len(then["workers"])


async def test_one_agent_and_pages_and_filters_are_answered_as_the_complete_list(
    database_url: str,
) -> None:
    rows = histories.History(11).write(150)
    async with open_archive(database_url) as stage:
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
        chosen = [a for a in agents if a.last_error]
        assert chosen
        assert await history.agents(point, AgentFilter(text="VALUEERR"), limit=1000) == chosen
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
    views_url: str,
) -> None:
    rows = histories.History(5).write(60)
    last = replace(rows[-1], ts=rows[-1].ts)
    same_ms = [row for row in rows if row.ts <= last.ts]
    async with open_archive(views_url) as stage:
        await stage.archive(same_ms[:-10])
        point = await stage.history.point_in_time(AsOf(at_ms=last.ts))
        before = await stage.history.agents(point, EVERY, limit=1000)
        await stage.archive(rows)
        assert await stage.history.agents(point, EVERY, limit=1000) == before
        again = await stage.history.point_in_time(parse(str(point)))
        assert await stage.history.agents(again, EVERY, limit=1000) == before
        newer = await stage.history.point_in_time(AsOf(at_ms=last.ts))
        assert await stage.history.agents(newer, EVERY, limit=1000) != before


async def test_an_event_remains_the_point_in_time_although_others_have_its_time(
    views_url: str,
) -> None:
    """A recovery or a reap writes many at once."""
    rows = [replace(row, ts=1_000) for row in histories.History(5).write(60)]
    async with open_archive(views_url) as stage:
        await stage.archive(rows)
        for pool in POOLS:
            for seq in (0, 1, 7):
                point = await stage.history.point_in_time(AsOf(events={pool: (None, seq)}))
                before = await stage.history.agents(point, EVERY, limit=1000)
                again = await stage.history.point_in_time(parse(str(point)))
                assert again.position_of(pool).seq == seq
                assert await stage.history.agents(again, EVERY, limit=1000) == before


async def test_a_generation_that_a_recovery_replaced_can_still_be_queried(
    views_url: str,
) -> None:
    """Two stories with a common start: one lost, and one that continued from the archive."""
    lost, restored = histories.History(3), histories.History(3)
    lost.write(40)
    restored.write(28)
    pool, fences = POOLS[0], set[str]()
    restored.chance.seed(99)
    restored.generations = dict.fromkeys(restored.generations, 2)
    restored.ts += 60_000
    restored.write(56)
    async with open_archive(views_url) as stage:
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


async def test_history_is_answered_also_after_a_restart_of_the_database(
    postgres_url: str,
) -> None:
    """Its connections are broken then, and the next query must not fail."""
    rows = histories.History(3).write(20)
    async with open_archive(postgres_url) as stage:
        await stage.archive(rows)
        asked = AsOf(at_ms=rows[-1].ts)
        before = await stage.answer(asked)
        await stage.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await stage.answer(asked) == before
