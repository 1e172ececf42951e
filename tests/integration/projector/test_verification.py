"""`verify` says equal when it is, and names what is not: planted in SQL, Redis or archive.

What is planted lies in one system: each difference is named, and nothing besides.
"""

import asyncio

import redis

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from projector.verify.report import Report
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN


async def checked(stage: Stage) -> Report:
    return await verify(stage.redis_url, "", stage.database_url)


def differences(report: Report) -> list[tuple[str, str, str]]:
    return [(d.where, d.subject, d.field) for d in report.differences]


async def test_a_log_with_every_turn_in_it_is_equal(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.pool("tester_pool")
        await stage.catalogue.join_host("h", "box", 1, ORIGIN)
        await stage.play(pool)
        await pool.spawn(pending_timeout=60.0, expires_ms=2**50)
        fence = await pool.worker("w9")
        crashing, stopping, _ = await stage.started(pool, fence, 3)
        await stage.crash(pool, crashing, fence, backoff_min_ms=60_000)
        await stage.act(pool, stopping, Terminate())
        assert await pool.claim(fence, 1), "one that is starting"
        await stage.settle()
        report = await checked(stage)
        assert differences(report) == []
        assert report.equal
        seqs = [(c.pool, c.views_seq, c.log_seq) for c in report.pools]
        head = await stage.head(POOL)
        assert seqs == [("", 3, 3), (POOL, head, head), ("tester_pool", 0, 0)]
        assert report.events == head + 3
        assert report.subjects > 20


async def test_it_is_equal_after_one_transaction_for_catalogue_and_pool(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting():
            await stage.catalogue.join_host("h", "h", 1, ORIGIN)
            pool = await stage.pool()
            await stage.settle()
        await stage.catalogue.cordon_host("h", "t", ORIGIN)
        await pool.spawn()
        async with stage.projecting():
            await stage.settle()
            await stage.catalogue.join_host("h", "h", 2, ORIGIN)
            await stage.settle()
            assert differences(await checked(stage)) == []


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
            for _ in range(3):
                report = await checked(stage)
                assert differences(report) == []
        finally:
            done.set()
        assert await churning > 10


def planted_in_sql(a: str, d: str, f: str) -> dict[str, tuple[str, str, str]]:
    """What is changed, each about something else, and how it is named."""
    pool = f"pool = '{POOL}'"
    return {
        f"UPDATE {{}}agents SET status = 'failed' WHERE agent_id = '{a}'": (
            "views",
            f"agents/{a}",
            "status",
        ),
        f"UPDATE {{}}agents SET labels = '{{' || '}}' WHERE agent_id = '{d}'": (
            "views",
            f"agents/{d}",
            "labels",
        ),
        f"DELETE FROM {{}}agents WHERE agent_id = '{f}'": ("views", f"agents/{f}", "presence"),
        "UPDATE {}workers SET agent_count = 3 WHERE worker_id = 'w2'": (
            "views",
            "workers/w2",
            "agent_count",
        ),
        "UPDATE {}hosts SET version = 9 WHERE host = 'h'": ("views", "hosts/h", "version"),
        "UPDATE {}pools SET role_type = 'x'": ("views", f"pools/{POOL}", "role_type"),
        f"UPDATE {{}}events SET actor = 'x' WHERE {pool} AND seq = 3": (
            "archive",
            "event 3",
            "actor",
        ),
        f"DELETE FROM {{}}events WHERE {pool} AND seq = 5": ("archive", "event 5", "presence"),
    }


async def test_differences_in_the_database_are_named(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        await stage.catalogue.join_host("h", "h", 1, ORIGIN)
        a, d, _, f = await stage.play(await stage.pool())
        await stage.settle()
        planted = planted_in_sql(a, d, f)
        for statement in planted:
            await stage.sql(statement)
        report = await checked(stage)
    assert sorted(differences(report)) == sorted(planted.values())
    assert not report.equal


async def test_differences_in_redis_are_named(redis_url: str, tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/v.db"
    async with open_stage(redis_url, url) as stage, stage.projecting():
        pending, _, _, running = await stage.play(await stage.pool())
        await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            tag = f"{{{POOL}}}"
            client.hset(f"agent:{tag}:{running}", "status", "pending")
            client.hset(f"agent:{tag}:{running}", "project_id", "x")
            client.delete(f"agent:{tag}:{pending}")
            client.hset(f"agent:{tag}:stray", "status", "running")
            client.hset(f"process:{tag}:w2", "agent_count", "9")
            client.srem(f"pool:{tag}:agents", pending)
            client.sadd(f"pool:{tag}:held:w2", "unknown")
            client.zadd(f"pool:{tag}:processes", {"w2": 7})
            client.sadd(f"pool:{tag}:agents", "ghost")
            client.zadd(f"pool:{tag}:due", {"ghost": 1})
            client.hincrby(f"pool:{tag}:meta", "free", 1)
            client.hincrby(f"pool:{tag}:meta", "waiting", 2)
            client.hset("{muster:catalogue}:meta", f"version:{POOL}", 4)
        report = await checked(stage)
    assert sorted(differences(report)) == sorted(
        [
            ("redis", "versions", POOL),
            ("redis", f"agent:{running}", "status"),
            ("redis", f"agent:{running}", "project_id"),
            ("redis", f"agent:{pending}", "presence"),
            ("redis", "agent:stray", "presence"),
            ("redis", "process:w2", "agent_count"),
            ("redis", "agents", pending),
            ("redis", "agents", "ghost"),
            ("redis", "due", "ghost"),
            ("redis", "held:w2", "unknown"),
            ("redis", "processes", "w2"),
            ("redis", "meta", "free"),
            ("redis", "meta", "waiting"),
        ]
    )
    assert f"redis: {POOL}: processes: w2 should be '0', is '7'" in map(str, report.differences)


async def test_keys_of_another_type_are_differences_among_others(
    redis_url: str, tmp_path: object
) -> None:
    url = f"sqlite:///{tmp_path}/v.db"
    types = {"process:w2": "hash", "agents": "set", "due": "zset", "held:w2": "set"}
    async with open_stage(redis_url, url) as stage, stage.projecting():
        *_, running = await stage.play(await stage.pool())
        await stage.settle()
        keys = stage.log.keys
        with redis.Redis.from_url(redis_url) as client:
            client.set(keys.agent(POOL, running), "x")
            client.set(keys.process(POOL, "w2"), "x")
            for name in ("agents", "due", "held:w2"):
                client.set(keys.pool(POOL, name), "x")
            free = client.hget(keys.pool(POOL, "meta"), "free")
            client.hset(keys.pool(POOL, "meta"), "free", "x")
        report = await checked(stage)
    assert free is not None
    found = {(d.subject, d.field, d.expected, d.found) for d in report.differences}
    wrong = {(subject, "type", kind, "string") for subject, kind in types.items()}
    assert found == {
        *wrong,
        (f"agent:{running}", "type", "hash", "string"),
        ("meta", "free", free.decode(), "x"),
    }
    assert len(report.differences) == len(found)
    assert [checked.pool for checked in report.pools] == [CATALOGUE, POOL]


async def test_logs_of_another_type_leave_the_others_to_be_compared(
    redis_url: str, tmp_path: object
) -> None:
    async with open_stage(redis_url, f"sqlite:///{tmp_path}/v.db") as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.play(await stage.pool("tester_pool"), "t")
            await stage.settle()
        keys = stage.log.keys
        with redis.Redis.from_url(redis_url) as client:
            client.set(keys.pool(POOL, "events"), "x")
            client.set(keys.pool("tester_pool", "meta"), "x")
            client.hset(keys.pool(CATALOGUE, "meta"), "version:ghost", "1")
        report = await checked(stage)
    assert [(d.pool, d.subject, d.field) for d in report.differences] == [
        (CATALOGUE, "versions", "ghost"),
        (POOL, "log", "events"),
        ("tester_pool", "log", "meta"),
    ]


async def test_a_trimmed_stream_is_verified_with_the_archive(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage, stage.projecting():
        await stage.play(await stage.pool())
        await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            client.xtrim(f"pool:{{{POOL}}}:events", maxlen=3, approximate=False)
        assert differences(await checked(stage)) == []
        await stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq = 3")
        [difference] = (await checked(stage)).differences
    assert (difference.where, difference.subject) == ("log", "log")
    assert "seq 3" in difference.found
