"""What the retention removes from Redis is archived, and nothing else is removed."""

import asyncio
from typing import Any

import pytest
import redis
from msgspec.structs import replace
from sqlalchemy import select

from eventstore.language.agent_commands import End
from eventstore.log.replies import LogHead
from eventstore.retention import Retention
from eventstore.steps.clauses import AppendEvent
from projector.fold.projection import Projection
from projector.history.positions import AsOf
from projector.intake.source import Source
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.service.trimming import Trimmer, _trimmable
from projector.store.lease import Lease, Superseded
from projector.store.rows import AgentFilter, Position
from projector.store.tables import AGENT_LIVE, SERVING
from projector.verify.verification import verify
from tests.integration.projector.recovering import stopped_at
from tests.integration.projector.stage import POOL, Stage, heartbeat, open_stage
from tests.pools import ORIGIN, raw_events
from tests.waiting import until

ONE = Retention(events=1, age_ms=10**14)
"""Of each pool only the last event stays."""


def seqs(stage: Stage) -> list[int]:
    return [int(event["seq"]) for event in raw_events(stage.redis_url)]


async def trimmed_to(stage: Stage, first: int) -> None:
    await until(lambda: seqs(stage)[:1] == [first], what=f"a stream that starts at {first}")


async def test_views_and_archive_do_not_change_when_the_projector_trims(
    redis_url: str, database_url: str
) -> None:
    """`verify` and `replay` find them equal too."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(retention=ONE, trim_seconds=60.0):
            await stage.play(pool)
            await stage.settle()
            complete = raw_events(stage.redis_url)
            before = await stage.contents()
        async with stage.projecting(retention=ONE, trim_seconds=0.05):
            await trimmed_to(stage, len(complete))
            archived = [row.event_id for row in await stage.views.events(POOL)]
            assert archived == [event["event_id"] for event in complete]
            assert (await verify(redis_url, "", database_url)).differences == []
            again = RebuildOptions(redis_url=redis_url, database_url=database_url)
            assert (await replay(again, lambda _: None)).events == len(complete) + 1
            assert await stage.contents() == before
            await pool.spawn()
            await stage.settle()
            await trimmed_to(stage, len(complete) + 1)
            assert (await verify(redis_url, "", database_url)).differences == []


async def test_a_death_between_archive_and_trim_loses_nothing(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor trims what was archived; nothing is archived twice."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        reached = asyncio.Event()

        async def die(*_: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(Trimmer, "_trim", die)
            async with stage.projecting(retention=ONE, trim_seconds=0.05):
                for _ in range(10):
                    await pool.spawn()
                await stage.settle()
                await asyncio.wait_for(reached.wait(), 10)
        assert seqs(stage) == list(range(1, 11))
        async with stage.projecting(retention=ONE, trim_seconds=0.05):
            await trimmed_to(stage, 10)
        assert [row.seq for row in await stage.views.events(POOL)] == list(range(1, 11))


async def test_a_projector_without_its_lease_trims_nothing(redis_url: str, views_url: str) -> None:
    """After a pause it may know an archive that another projector has replaced."""
    async with open_stage(redis_url, views_url) as stage, stage.projecting():
        pool = await stage.pool()
        for _ in range(5):
            await pool.spawn()
        await stage.settle()
        database = stage.views._database
        source = Source(redis_url, "")
        paused = Trimmer(source, Lease(database), ONE)
        projection = Projection(SERVING, archives=True)
        await database.read(projection.load)
        with pytest.raises(Superseded):
            await paused.run_once(projection.positions.values(), projection.catalogue)
        await source.close()
        assert seqs(stage) == [1, 2, 3, 4, 5]


async def test_events_that_could_not_be_archived_stay(redis_url: str, views_url: str) -> None:
    """Its projection stopped at an event that cannot be read; other pools are trimmed."""
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("tester_pool")
        for _ in range(5):
            await pool.spawn()
            await other.spawn()
        step = stage.log.step(POOL, ORIGIN)
        step.write(AppendEvent(("agent.promoted", 1, "e", "a", *[""] * 7, "{}")))
        await stage.log.commit(step)
        for _ in range(3):
            await pool.spawn()
        async with stage.projecting(retention=ONE, trim_seconds=0.05):
            with redis.Redis.from_url(redis_url) as client:
                await until(lambda: client.xlen("pool:{tester_pool}:events") == 1)
            at = await stopped_at(stage)
            assert (at.seq, at.status[:23]) == (5, "unreadable event: seq 6")
        assert seqs(stage)[-4:] == [6, 7, 8, 9]


def test_a_log_that_contradicts_the_archive_is_not_trimmed() -> None:
    """Where an event was rewritten, the stream may be the only one that has it."""
    at = Position("p", 3, 9)
    assert _trimmable(at, LogHead(3, 12)) == LogHead(3, 9)
    assert _trimmable(at, LogHead(3, 5)) == LogHead(3, 5)
    assert _trimmable(at, LogHead(2, 12)) == LogHead(3, 0)
    assert _trimmable(
        replace(at, status="rewritten: another event at seq 9"), LogHead(3, 9)
    ) == LogHead(3, 0)


async def test_silent_agents_leave_the_live_tables_also_without_heartbeats(
    redis_url: str, database_url: str
) -> None:
    """Else those of the last worker would be shown for ever."""
    async with open_stage(redis_url, database_url) as stage:
        await stage.pool()
        for agent, beat_ms in (("old", 1_000), ("new", stage.log.now_ms(POOL))):
            row = "INSERT INTO {}agent_live VALUES (:id, 'p', 'w', 'idle', :beat_ms)"
            await stage.sql(row, id=agent, beat_ms=beat_ms)

        chosen = select(AGENT_LIVE.c.agent_id)
        async with stage.projecting(trim_seconds=0.05):

            async def only_new() -> bool:
                read = stage.views._database.read
                return await read(lambda c: list(c.scalars(chosen))) == ["new"]

            await until(only_new)


async def test_a_log_whose_time_is_ahead_removes_no_live_rows_of_others(
    redis_url: str, views_url: str
) -> None:
    """The clock was an hour ahead at its last event, and was corrected since."""
    async with open_stage(redis_url, views_url) as stage:
        pool, ahead = await stage.pool(), await stage.pool("tester_pool")
        with redis.Redis.from_url(redis_url) as client:
            now_ms = client.time()[0] * 1000
            far = {"ts": now_ms + 3_600_000, "clock": now_ms}
            client.hset("pool:{tester_pool}:meta", mapping=far)
        fences = [(pool, await pool.worker("w")), (ahead, await ahead.worker("v"))]
        passes = 0
        once = Trimmer.run_once

        async def counted(trimmer: Trimmer, *arguments: Any) -> None:
            nonlocal passes
            await once(trimmer, *arguments)
            passes += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trimmer, "run_once", counted)
            async with stage.projecting(trim_seconds=0.05):
                for one, fence in fences:
                    await heartbeat(stage, one, fence, "{}")

                async def both() -> bool:
                    rows = await stage.sql("SELECT worker_id FROM {}worker_live ORDER BY 1")
                    return [row["worker_id"] for row in rows] == ["v", "w"]

                await until(both)
                passes = 0
                await until(lambda: passes > 3)
                assert await both()


async def test_a_log_to_which_nothing_was_added_is_seldom_trimmed(
    redis_url: str, views_url: str
) -> None:
    """Else hundreds of pools that are never used would cost hundreds of calls in every pass."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        trims: list[str] = []
        trim, once = Trimmer._trim, Trimmer.run_once

        async def noted(trimmer: Trimmer, pool: str, trimmable: Any) -> None:
            await trim(trimmer, pool, trimmable)
            trims.append(pool)

        passes = 0

        async def counted(trimmer: Trimmer, *arguments: Any) -> None:
            nonlocal passes
            await once(trimmer, *arguments)
            passes += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trimmer, "_trim", noted)
            patch.setattr(Trimmer, "run_once", counted)
            async with stage.projecting(retention=ONE, trim_seconds=0.02):
                await pool.spawn()
                await stage.settle()
                await until(lambda: trims)
                first = passes
                await until(lambda: passes > first + 2)
                seen, first = len(trims), passes
                await until(lambda: passes > first + 5)
                assert len(trims) == seen
                await pool.spawn()
                await until(lambda: len(trims) == seen + 1)


async def test_a_log_that_cannot_be_trimmed_is_logged_once_and_stops_no_other(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("tester_pool")
        for _ in range(5):
            await pool.spawn()
            await other.spawn()
        async with stage.projecting(trim_seconds=60.0):
            await stage.settle()
            source = Source(redis_url, "")
            lease = Lease(stage.views._database)
            await lease.seize()
            trimmer = Trimmer(source, lease, ONE)
            projection = Projection(SERVING, archives=True)
            await stage.views._database.read(projection.load)
            with redis.Redis.from_url(redis_url) as client:
                client.delete(f"pool:{{{POOL}}}:commands")
                for _ in range(2):
                    await trimmer.run_once(projection.positions.values(), projection.catalogue)
                assert client.xlen(f"pool:{{{POOL}}}:events") == 5
                assert client.xlen("pool:{tester_pool}:events") == 1
            assert trimmer._failing == {POOL}
            await source.close()


async def test_the_end_of_agents_workers_and_keys_is_a_setting(
    redis_url: str, database_url: str
) -> None:
    """A step that comes after the expiry finds nothing to change."""
    async with open_stage(redis_url, database_url) as stage:
        stage.log.retention = Retention(ended_ms=50_000, keys_ms=70_000)
        pool = await stage.pool()
        fence = await pool.worker("w")
        [agent_id] = await stage.started(pool, fence, 1)
        await pool.spawn(key="client")
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            await stage.act(pool, agent_id, End(reason="completed"), fence=fence)
            assert 45_000 < client.pttl(f"agent:{{{POOL}}}:{agent_id}") <= 50_000
            operations = client.keys("pool:*:operation:*")
            assert len(operations) == 2
            assert all(60_000 < client.pttl(key) <= 70_000 for key in operations)
            client.delete(f"agent:{{{POOL}}}:{agent_id}")
            await stage.act(pool, agent_id, End(reason="completed"), fence=fence)
            assert client.exists(f"agent:{{{POOL}}}:{agent_id}") == 0


def test_a_key_of_a_client_is_stored_longer_than_one_of_the_gateway() -> None:
    assert Retention().operation_ms == 600_000
    assert replace(Retention(), keys_ms=1_000).operation_ms == 1_000


async def test_what_ended_long_ago_leaves_the_views_and_stays_in_the_archive(
    redis_url: str, database_url: str
) -> None:
    """`verify`, a rebuild and the past are as before; an agent that failed stays."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        alive = await stage.play(pool)
        await stage.catch_up()
        before, ended = await stage.contents(), ("terminated", "stopped", "lost")
        left = [row for row in before["agents"] if row["status"] not in ended]
        assert set(alive) < {row["agent_id"] for row in left} < {
            row["agent_id"] for row in before["agents"]
        }  # fmt: skip
        async with stage.projecting(retention=Retention(views_ms=1), ended_seconds=0.05):
            await until(lambda: are_left(stage, left), what="the removal")
            workers = [row["status"] for row in (await stage.contents())["workers"]]
            assert "requested" in workers
            assert (await verify(redis_url, "", database_url)).differences == []
            again = RebuildOptions(redis_url=redis_url, database_url=database_url)
            assert (await replay(again, lambda _: None)).comparison.equal
            assert (await stage.contents())["agents"] == left
            point = await stage.views.history.point_in_time(AsOf(events={POOL: (None, 30)}))
            found = await stage.views.history.agents(point, AgentFilter(), limit=100)
            assert "terminated" in {agent.status for agent in found}
            await pool.spawn()
            await stage.settle()
            assert (await verify(redis_url, "", database_url)).differences == []


async def are_left(stage: Stage, left: list[dict[str, Any]]) -> bool:
    return (await stage.contents())["agents"] == left
