"""`verify` says equal when it is, and names what is not: planted in SQL, Redis or archive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import text

from eventstore.keys import CATALOGUE, Keys
from eventstore.language import agent_commands, workers
from eventstore.language.agent_commands import Fail, Started, Terminate
from eventstore.language.events import Error
from eventstore.language.pool_config import PoolConfig, RestartPolicy
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.reader import Reader
from projector.service.active import ProjectorOptions
from projector.service.projector import Projector
from projector.store.database import Database
from projector.verify.report import Report
from projector.verify.verification import verify
from tests.pools import ORIGIN, TestPool, open_pool
from tests.waiting import until

POOL = "developer_pool"


class Scene:
    """A pool with agents in every state, and its views, caught up."""

    def __init__(
        self, pool: TestPool, catalogue: CatalogueLog, projector: Projector, database_url: str
    ) -> None:
        self.pool, self.catalogue, self.projector = pool, catalogue, projector
        self.database_url = database_url
        self.ids: list[str] = []

    async def verify(self) -> Report:
        return await verify(self.projector.options.redis_url, "", self.database_url)

    async def caught_up(self) -> None:
        async def there() -> bool:
            found = await self.sql("SELECT pool, seq FROM {}checkpoints")
            at = {row.pool: row.seq for row in found}
            wanted = {name: self.pool.log.high_water_mark(name)[1] for name in (POOL, CATALOGUE)}
            return all(at.get(name, 0) >= seq for name, seq in wanted.items())

        await until(there)

    async def sql(self, statement: str) -> list[Any]:
        database = Database(self.database_url)
        database.open()
        try:
            await database.prepare()

            def work(connection: Any) -> list[Any]:
                result = connection.execute(text(statement.format(database.prefix)))
                return list(result) if result.returns_rows else []

            return await database.write(work)
        finally:
            await database.close()


@asynccontextmanager
async def scene(redis_url: str, database_url: str) -> AsyncIterator[Scene]:
    options = ProjectorOptions(redis_url=redis_url, database_url=database_url)
    projector, reader = Projector(options), Reader(redis_url)
    async with open_pool(redis_url) as pool:
        catalogue = CatalogueLog(pool.log, reader)
        await catalogue.create()
        await catalogue.join_host("h", "h", 1, ORIGIN)
        changed = await catalogue.create_pool(POOL, "developer", PoolConfig(), ORIGIN)
        pool.pool = changed.catalogue.pools[POOL]
        await projector.start()
        try:
            made = Scene(pool, catalogue, projector, database_url)
            await populate(made)
            await made.caught_up()
            yield made
        finally:
            await projector.stop()
            await reader.close()


async def populate(made: Scene) -> None:
    """Pending, starting, running, stopping, restarting, ended; a worker lost and one draining."""
    pool, log = made.pool, made.pool.log
    made.ids = [(await pool.spawn(labels={"n": str(n)})).agent_id for n in range(9)]
    first, second = await pool.worker("w1", slots=6), await pool.worker("w2", slots=2)
    told = [*await pool.claim(first), *await pool.claim(second)]
    for claimed in told[:5]:
        await log.act(POOL, claimed.agent.agent_id, Started(), ORIGIN, fence=first)
    await log.act(POOL, told[0].agent.agent_id, Terminate(), ORIGIN)
    await log.act(
        POOL, told[1].agent.agent_id, agent_commands.End(reason="completed"), ORIGIN, fence=first
    )
    crash = Fail(
        during="run",
        error=Error(type="E"),
        now_ms=log.now_ms(POOL),
        policy=RestartPolicy(backoff_min_ms=60_000, backoff_max_ms=60_000),
    )
    await log.act(POOL, told[2].agent.agent_id, crash, ORIGIN, fence=first)
    await log.act_on_worker(POOL, "w2", workers.Drain(reason="t"), ORIGIN)
    await pool.order("w3")
    await pool.worker("w4")
    await pool.fence("w4")


async def test_a_living_system_is_equal(redis_url: str, database_url: str) -> None:
    async with scene(redis_url, database_url) as made:
        report = await made.verify()
    assert report.differences == ()
    assert [checked.pool for checked in report.pools] == [CATALOGUE, POOL]


async def test_it_is_equal_after_one_transaction_for_catalogue_and_pool(
    redis_url: str, database_url: str
) -> None:
    async with scene(redis_url, database_url) as made:
        await made.projector.stop()
        await made.catalogue.cordon_host("h", "t", ORIGIN)
        await made.pool.spawn()
        await made.projector.start()
        await made.caught_up()
        await made.catalogue.join_host("h", "h", 2, ORIGIN)
        await made.caught_up()
        report = await made.verify()
    assert report.differences == ()


async def test_it_is_equal_while_the_log_moves(redis_url: str, database_url: str) -> None:
    async with scene(redis_url, database_url) as made:

        async def move() -> None:
            for _ in range(40):
                submitted = await made.pool.spawn()
                await made.pool.log.act(POOL, submitted.agent_id, Terminate(), ORIGIN)

        moving = asyncio.create_task(move())
        reports = [await made.verify() for _ in range(3)]
        await moving
        reports.append(await made.verify())
    assert [report.differences for report in reports] == [()] * 4


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("UPDATE {}agents SET status = 'failed' WHERE agent_id = '%s'", "status"),
        ("UPDATE {}agents SET labels = '{{}}' WHERE agent_id = '%s'", "labels"),
        ("DELETE FROM {}agents WHERE agent_id = '%s'", "presence"),
        ("UPDATE {}workers SET agent_count = 9 WHERE worker_id = 'w1'", "agent_count"),
        ("UPDATE {}hosts SET version = 9 WHERE host = 'h'", "version"),
        ("UPDATE {}pools SET role_type = 'x' WHERE pool_name = 'developer_pool'", "role_type"),
        ("UPDATE {}events SET actor = 'x' WHERE pool = 'developer_pool' AND seq = 3", "actor"),
    ],
)
async def test_a_row_that_was_changed_is_named(
    redis_url: str, database_url: str, statement: str, field: str
) -> None:
    async with scene(redis_url, database_url) as made:
        await made.sql(statement % made.ids[8] if "%s" in statement else statement)
        report = await made.verify()
    expected = [field.replace("ID", made.ids[8])]
    assert [difference.field for difference in report.differences] == expected


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (("HSET", "agent:{developer_pool}:ID", "project_id", "x"), "project_id"),
        (("SREM", "pool:{developer_pool}:agents", "ID"), "ID"),
        (("SADD", "pool:{developer_pool}:agents", "ghost"), "ghost"),
        (("HSET", "process:{developer_pool}:w1", "agent_count", "9"), "agent_count"),
        (("ZADD", "pool:{developer_pool}:processes", "9", "w1"), "w1"),
        (("SADD", "pool:{developer_pool}:held:w1", "ghost"), "ghost"),
        (("HINCRBY", "pool:{developer_pool}:meta", "waiting", "1"), "waiting"),
        (("HINCRBY", "pool:{developer_pool}:meta", "free", "-1"), "free"),
        (("ZADD", "pool:{developer_pool}:due", "1", "ghost"), "ghost"),
    ],
)
async def test_a_key_that_was_changed_is_named(
    redis_url: str, tmp_path: Any, command: tuple[str, ...], field: str
) -> None:
    async with scene(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as made:
        with redis.Redis.from_url(redis_url) as client:
            client.execute_command(*(part.replace("ID", made.ids[8]) for part in command))
        report = await made.verify()
    expected = [field.replace("ID", made.ids[8])]
    assert [difference.field for difference in report.differences] == expected


@pytest.mark.parametrize(
    ("key", "subject", "expected"),
    [
        ("agent:{developer_pool}:ID", "agent:ID", "hash"),
        ("process:{developer_pool}:w1", "process:w1", "hash"),
        ("pool:{developer_pool}:agents", "agents", "set"),
        ("pool:{developer_pool}:due", "due", "zset"),
        ("pool:{developer_pool}:held:w1", "held:w1", "set"),
    ],
)
async def test_a_key_of_another_type_is_one_difference_among_others(
    redis_url: str, tmp_path: Any, key: str, subject: str, expected: str
) -> None:
    async with scene(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as made:
        with redis.Redis.from_url(redis_url) as client:
            client.set(key.replace("ID", made.ids[8]), "x")
            client.hset("pool:{developer_pool}:meta", "free", "x")
        report = await made.verify()
    found = {(d.subject, d.field, d.expected, d.found) for d in report.differences}
    assert found == {
        (subject.replace("ID", made.ids[8]), "type", expected, "string"),
        ("meta", "free", "2", "x"),
    }
    assert [checked.pool for checked in report.pools] == [CATALOGUE, POOL]


@pytest.mark.parametrize(("key", "field"), [("events", "events"), ("meta", "meta")])
async def test_a_log_of_another_type_leaves_the_others_to_be_compared(
    redis_url: str, tmp_path: Any, key: str, field: str
) -> None:
    async with scene(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as made:
        await made.projector.stop()
        with redis.Redis.from_url(redis_url) as client:
            client.set(f"pool:{{{POOL}}}:{key}", "x")
            client.hset(Keys().catalogue_meta, "version:ghost", "1")
        report = await made.verify()
    assert [(d.pool, d.subject, d.field) for d in report.differences] == [
        (CATALOGUE, "versions", "ghost"),
        (POOL, "log", field),
    ]
