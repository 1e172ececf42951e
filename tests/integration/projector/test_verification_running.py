"""`verify` finds nothing on a running system, and every difference that is planted."""

import asyncio

import pytest
import redis

from eventstore.language.agent_commands import Terminate
from projector.verify.report import Report
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN


async def checked(stage: Stage) -> Report:
    return await verify(stage.redis_url, "", stage.database_url)


def told(report: Report) -> list[tuple[str, str, str]]:
    return [(d.where, d.subject, d.field) for d in report.differences]


async def test_a_log_with_every_turn_in_it_is_equal(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.pool("tester_pool")
        await stage.catalogue.join_host("h", "box", 1, ORIGIN)
        await stage.play(pool)
        await pool.spawn(pending_timeout=60.0, expires_ms=2**50)
        fence = await pool.worker("w9")
        [agent_id, *_] = await stage.started(pool, fence, 2)
        await stage.crash(pool, agent_id, fence, backoff_min_ms=60_000)
        await stage.settle()
        report = await checked(stage)
        assert told(report) == []
        assert report.equal
        seqs = [(c.pool, c.views_seq, c.log_seq) for c in report.pools]
        head = await stage.head(POOL)
        assert seqs == [("", 3, 3), (POOL, head, head), ("tester_pool", 0, 0)]
        assert report.events == head + 3
        assert report.subjects > 20


async def test_a_system_that_moves_while_it_is_read_is_equal(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool(backlog_limit=100_000)
        done = asyncio.Event()

        async def churn() -> int:
            n = 0
            while not done.is_set():
                n += 1
                submitted = await pool.spawn()
                if n % 2:
                    await stage.act(pool, submitted.agent_id, Terminate())
            return n

        churning = asyncio.create_task(churn())
        try:
            for _ in range(5):
                report = await checked(stage)
                assert told(report) == []
        finally:
            done.set()
        assert await churning > 10


PLANTED_IN_SQL = {
    "agents/status": (
        "UPDATE {}agents SET status = 'failed' WHERE agent_id = :living",
        ("views", "agents/{living}", "status"),
    ),
    "agents/gone": (
        "DELETE FROM {}agents WHERE agent_id = :living",
        ("views", "agents/{living}", "presence"),
    ),
    "workers/count": (
        "UPDATE {}workers SET agent_count = 3 WHERE worker_id = 'w2'",
        ("views", "workers/w2", "agent_count"),
    ),
    "pools/role": (
        "UPDATE {}pools SET role_type = 'x'",
        ("views", f"pools/{POOL}", "role_type"),
    ),
    "archive/data": (
        "UPDATE {}events SET actor = 'x' WHERE pool <> '' AND seq = 3",
        ("archive", "event 3", "actor"),
    ),
    "archive/gone": (
        "DELETE FROM {}events WHERE pool <> '' AND seq = 3",
        ("archive", "event 3", "presence"),
    ),
}


@pytest.mark.parametrize("planted", PLANTED_IN_SQL)
async def test_a_difference_in_the_database_is_named(
    redis_url: str, database_url: str, planted: str
) -> None:
    statement, (where, subject, field) = PLANTED_IN_SQL[planted]
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        living = (await stage.play(await stage.pool()))[-1]
        await stage.settle()
        values = {"living": living} if ":living" in statement else {}
        await stage.sql(statement, **values)
        report = await checked(stage)
    assert told(report) == [(where, subject.format(living=living), field)]
    assert not report.equal


async def test_differences_in_redis_are_named(redis_url: str, tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/v.db"
    async with open_stage(redis_url, url) as stage, stage.projecting():
        pending, _, _, running = await stage.play(await stage.pool())
        await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            tag = f"{{{POOL}}}"
            client.hset(f"agent:{tag}:{running}", "status", "pending")
            client.delete(f"agent:{tag}:{pending}")
            client.hset(f"agent:{tag}:stray", "status", "running")
            client.hset(f"process:{tag}:w2", "agent_count", "9")
            client.srem(f"pool:{tag}:agents", pending)
            client.sadd(f"pool:{tag}:held:w2", "nobody")
            client.zadd(f"pool:{tag}:processes", {"w2": 7})
            client.hincrby(f"pool:{tag}:meta", "free", 1)
            client.hincrby(f"pool:{tag}:meta", "waiting", 2)
            client.hset("{muster:catalogue}:meta", f"version:{POOL}", 4)
        report = await checked(stage)
    assert sorted(told(report)) == sorted(
        [
            ("redis", "versions", POOL),
            ("redis", f"agent:{running}", "status"),
            ("redis", f"agent:{pending}", "presence"),
            ("redis", "agent:stray", "presence"),
            ("redis", "process:w2", "agent_count"),
            ("redis", "agents", pending),
            ("redis", "held:w2", "nobody"),
            ("redis", "processes", "w2"),
            ("redis", "meta", "free"),
            ("redis", "meta", "waiting"),
        ]
    )
    assert f"redis: {POOL}: processes: w2 should be '0', is '7'" in map(str, report.differences)


async def test_a_trimmed_stream_is_verified_with_the_archive(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        await stage.play(await stage.pool())
        await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            client.xtrim(f"pool:{{{POOL}}}:events", maxlen=3, approximate=False)
        assert told(await checked(stage)) == []
        await stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq = 3")
        [difference] = (await checked(stage)).differences
    assert (difference.where, difference.subject) == ("log", "log")
    assert "seq 3" in difference.found
