"""Redis holds what is alive and what the retention says; nothing that it lets go is lost."""

import asyncio
from collections import Counter
from typing import Any, NamedTuple

import pytest
import redis
from msgspec.structs import replace
from sqlalchemy import select

from eventstore.language.agent_commands import End
from eventstore.log.replies import LogHead
from eventstore.retention import Retention
from eventstore.steps.clauses import AppendEvent
from projector.fold.projection import Projection
from projector.intake.source import Source
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.service.trimming import Trimmer, _trimmable
from projector.store.lease import Lease, Superseded
from projector.store.rows import Position
from projector.store.tables import AGENT_LIVE, SERVING
from projector.verify.verification import verify
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL, Stage, heartbeat, open_stage
from tests.integration.projector.test_damaged_log import stopped_at
from tests.pools import ORIGIN, TestPool, raw_events
from tests.turnover import EVENTS_OF_A_LIFE, EVENTS_OF_A_WORKER, turn_over
from tests.waiting import until

BRIEF = Retention(events=300, ended_ms=1_000, heartbeats_ms=1_000, keys_ms=1_000)
ONE = Retention(events=1, age_ms=10**14)
"""Of each pool nothing stays but the last event."""
ALIVE = 20
SLACK_BYTES = 60_000
"""Clients' buffers and half-filled pages: less than any one kind of thing of 500 agents."""


def seqs(stage: Stage) -> list[int]:
    return [int(event["seq"]) for event in raw_events(stage.redis_url)]


async def trimmed_to(stage: Stage, first: int) -> None:
    await until(lambda: seqs(stage)[:1] == [first], what=f"a stream that begins at {first}")


def used_memory(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


async def at_rest(client: Any) -> None:
    """All that expires has expired: what is left without an end stays."""
    await until(
        lambda: not client.info("keyspace").get("db0", {}).get("expires"),
        timeout=20,
        what="the expiry of what has ended",
    )


async def test_memory_is_bounded_by_what_lives_and_the_retention(
    redis_server: MakeServer, tmp_path: Any
) -> None:
    """500 agents and their 5,000 events leave nothing in Redis that 100 had not left.

    Each of the things that go takes more than the slack: hashes of ended agents (300 KB), of their
    operations (150 KB), events (1.5 MB). Heartbeats are counted by themselves.
    """
    server = redis_server()
    async with open_stage(server.url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        stage.log.retention = BRIEF
        pool = await stage.pool(backlog_limit=100_000)
        other = await stage.pool("tester_pool")
        for _ in range(ALIVE):
            await other.spawn(labels={"team": "core"})
        with server.client() as client:
            async with stage.projecting(retention=BRIEF, trim_seconds=0.1):
                before = await left_by(100, stage, pool, client)
                after = await left_by(500, stage, pool, client)
        assert after.keys == before.keys
        assert after.memory - before.memory < SLACK_BYTES
        assert after.keys["agent:{tester_pool}"] == ALIVE
        assert "agent:{developer_pool}" not in after.keys
        written = 600 * EVENTS_OF_A_LIFE + 6 * EVENTS_OF_A_WORKER
        assert await stage.head(POOL) >= written
        assert (await verify(server.url, "", stage.database_url)).differences == []


class Left(NamedTuple):
    """What Redis holds: bytes, and keys of each kind."""

    memory: int
    keys: Counter[str]


async def left_by(agents: int, stage: Stage, pool: TestPool, client: Any) -> Left:
    """Let agents come and go, and what is over leave."""
    await turn_over(stage.log, pool.pool, agents)
    await stage.settle()
    await at_rest(client)
    for part, count in (("events", BRIEF.events), ("heartbeats", 0), ("signals", 0)):
        stream = f"pool:{{{POOL}}}:{part}"
        await until(lambda: client.xlen(stream) == count, what=f"{count} in {stream}")  # noqa: B023
    keys = Counter(kind(key.decode()) for key in client.scan_iter(count=1000))
    return Left(used_memory(client), keys)


def kind(key: str) -> str:
    """A key's name without the id in it."""
    several = ("agent:", "process:", ":spec:", ":inbox:", ":operation:", ":held:")
    return key.rpartition(":")[0] if any(part in key for part in several) else key


async def test_the_projector_trims_what_it_has_archived_and_all_agree_still(
    redis_url: str, database_url: str
) -> None:
    """Views, archive, `verify` and `replay` do not notice."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        complete = []
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
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dead one had archived, its successor trims; nothing is archived twice."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        reached = asyncio.Event()

        async def dies(*_: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(Trimmer, "_trim", dies)
            async with stage.projecting(retention=ONE, trim_seconds=0.05):
                for _ in range(10):
                    await pool.spawn()
                await stage.settle()
                await asyncio.wait_for(reached.wait(), 10)
        assert seqs(stage) == list(range(1, 11))
        async with stage.projecting(retention=ONE, trim_seconds=0.05):
            await trimmed_to(stage, 10)
        assert [row.seq for row in await stage.views.events(POOL)] == list(range(1, 11))


async def test_a_projector_without_its_lease_trims_nothing(
    redis_url: str, database_url: str
) -> None:
    """A projector that was paused may know an archive that is no longer the one that counts."""
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
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
            await paused.run_once(projection.positions.values())
        await source.close()
        assert seqs(stage) == [1, 2, 3, 4, 5]


async def test_what_the_projector_could_not_take_stays(redis_url: str, database_url: str) -> None:
    """Its projection stopped at an event that cannot be read; other pools are trimmed."""
    async with open_stage(redis_url, database_url) as stage:
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


def test_of_a_log_that_contradicts_the_archive_nothing_goes() -> None:
    """Where an event was rewritten, the stream may be the only one that has it."""
    at = Position("p", 3, 9)
    assert _trimmable(at, LogHead(3, 12)) == LogHead(3, 9)
    assert _trimmable(at, LogHead(3, 5)) == LogHead(3, 5)
    assert _trimmable(at, LogHead(2, 12)) == LogHead(3, 0)
    assert _trimmable(
        replace(at, status="rewritten: another event at seq 9"), LogHead(3, 9)
    ) == LogHead(3, 0)


async def test_silent_workers_leave_the_live_tables_also_without_heartbeats(
    redis_url: str, database_url: str
) -> None:
    """The last worker of all is not shown for ever."""
    async with open_stage(redis_url, database_url) as stage:
        await stage.pool()
        for agent, beat_ms in (("old", 1_000), ("new", stage.log.now_ms(POOL))):
            row = "INSERT INTO {}agent_live VALUES (:id, 'p', 'w', 'idle', :beat_ms)"
            await stage.sql(row, id=agent, beat_ms=beat_ms)

        chosen = select(AGENT_LIVE.c.agent_id)
        async with stage.projecting(trim_seconds=0.05):

            async def only_the_new() -> bool:
                read = stage.views._database.read
                return await read(lambda c: list(c.scalars(chosen))) == ["new"]

            await until(only_the_new)


async def test_a_log_whose_time_is_ahead_makes_none_of_the_others_forgotten(
    redis_url: str, tmp_path: Any
) -> None:
    """The clock was an hour ahead when it was written last, and was set right since."""
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        pool, ahead = await stage.pool(), await stage.pool("tester_pool")
        with redis.Redis.from_url(redis_url) as client:
            now_ms = client.time()[0] * 1000
            far = {"ts": now_ms + 3_600_000, "clock": now_ms}
            client.hset("pool:{tester_pool}:meta", mapping=far)
        fences = [(pool, await pool.worker("w")), (ahead, await ahead.worker("v"))]
        swept = Counter[str]()
        once = Trimmer.run_once

        async def counted(trimmer: Trimmer, positions: Any) -> None:
            await once(trimmer, positions)
            swept["times"] += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trimmer, "run_once", counted)
            async with stage.projecting(trim_seconds=0.05):
                for one, fence in fences:
                    await heartbeat(stage, one, fence, "{}")

                async def both() -> bool:
                    rows = await stage.sql("SELECT worker_id FROM {}worker_live ORDER BY 1")
                    return [row["worker_id"] for row in rows] == ["v", "w"]

                await until(both)
                swept.clear()
                await until(lambda: swept["times"] > 3)
                assert await both()


async def test_a_log_that_cannot_be_trimmed_is_logged_once_and_stops_no_other(
    redis_url: str, tmp_path: Any
) -> None:
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
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
                    await trimmer.run_once(projection.positions.values())
                assert client.xlen(f"pool:{{{POOL}}}:events") == 5
                assert client.xlen("pool:{tester_pool}:events") == 1
            assert trimmer._failing == {POOL}
            await source.close()


async def test_the_end_of_agents_workers_and_keys_is_a_setting(
    redis_url: str, database_url: str
) -> None:
    """And whatever expires, a step that comes too late finds nothing to change."""
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


def test_a_clients_key_is_stored_longer_than_the_gateways_own() -> None:
    assert Retention().operation_ms == 600_000
    assert replace(Retention(), keys_ms=1_000).operation_ms == 1_000
