"""A stage for tests of the projector: a catalogue, pools, and a story played through the log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis
from sqlalchemy import Connection, text

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import CATALOGUE, Keys
from eventstore.language import agent_commands, workers
from eventstore.language.agent_commands import End, Fail, MarkLost, Started, Terminate
from eventstore.language.events import Error
from eventstore.language.pool_config import PoolConfig
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.steps.step import Fence
from projector.queries.views import Views
from projector.service.options import ProjectorOptions
from projector.service.projector import Phase, Projector
from projector.store.database import Database
from projector.store.tables import SERVING
from tests.pools import ORIGIN, TestPool
from tests.waiting import until

POOL = "developer_pool"
EVENTS = f"pool:{{{POOL}}}:events"
META = f"pool:{{{POOL}}}:meta"
QUICK: Any = {"lease_seconds": 1.0, "renew_seconds": 0.3}
VIEWS = (
    "checkpoints", "pools", "hosts", "tokens", "workers", "agents", "usage_accounts", "usage_sums",
)  # fmt: skip


class Stage:
    """A log with a catalogue, and the database that its views go to."""

    def __init__(self, log: Log, catalogue: CatalogueLog, redis_url: str, database_url: str):
        self.log = log
        self.catalogue = catalogue
        self.redis_url = redis_url
        self.database_url = database_url
        self.views = Views(database_url)
        self._database = Database(database_url, connections=1)

    async def pool(self, name: str = POOL, **config: Any) -> TestPool:
        """A pool that the catalogue knows."""
        await self.catalogue.create_pool(name, "developer", PoolConfig(**config), ORIGIN)
        pool = TestPool(self.log, name)
        pool.pool = self.catalogue.state.pools[name]
        return pool

    def projector(self, **options: Any) -> Projector:
        quick = {"heartbeat_seconds": 0.02, "audit_seconds": 0.2, "backoff_max_seconds": 0.5}
        chosen = {"lease_seconds": 4.0, **quick, **options}
        return Projector(
            ProjectorOptions(redis_url=self.redis_url, database_url=self.database_url, **chosen)
        )

    @asynccontextmanager
    async def projecting(self, **options: Any) -> AsyncIterator[Projector]:
        """An active projector."""
        projector = self.projector(**options)
        await projector.start()
        try:
            await until(lambda: projector.phase is Phase.ACTIVE)
            yield projector
        finally:
            await projector.stop()

    async def catch_up(self, *pools: str) -> None:
        """Run a projector until the views have applied all that is in the log now."""
        async with self.projecting():
            await self.settle(*pools)

    def trim(self, length: int, pool: str = POOL) -> None:
        """Leave only the newest events in a pool's stream."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.xtrim(f"pool:{{{pool}}}:events", maxlen=length, approximate=False)

    async def settle(self, *pools: str) -> None:
        """Wait until the views have applied all that is in the log now."""
        for pool in (CATALOGUE, *(pools or self.catalogue.state.pools)):
            assert await self.views.wait_for(pool, await self.head(pool), timeout_seconds=10)

    async def all_ok(self) -> bool:
        """Whether the views follow every log."""
        return {at.status for at in (await self.views.positions()).values()} == {"ok"}

    async def head(self, pool: str) -> int:
        meta = self.log.keys.pool(pool, "meta")
        return int(await self.log.client.execute_command("HGET", meta, "seq") or 0)

    @property
    def database(self) -> Database:
        """Of the test itself: it opens the file that is there now."""
        if self._database.file is not None and self._database.file.changed:
            self._database.reopen()
        self._database.open()
        return self._database

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement in the database of the views; `{}` in it is the schema."""
        return await self.database.write(lambda c: self._rows(c, statement, values))

    def _rows(self, connection: Connection, statement: str, values: dict[str, Any]) -> list[Any]:
        found = connection.execute(text(statement.replace("{}", self._database.prefix)), values)
        return list(found.mappings()) if found.returns_rows else []

    async def contents(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of all views, without how far heartbeats were read."""
        keys = {t.name: ", ".join(t.primary_key.columns.keys()) for t in SERVING.all()}

        def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
            select = "SELECT * FROM {{}}{0} ORDER BY {1}"
            found = {n: self._rows(connection, select.format(n, keys[n]), {}) for n in VIEWS}
            return {n: [{**row, "heartbeat_id": ""} for row in found[n]] for n in VIEWS}

        return await self.database.read(read)

    # ---- the story ---------------------------------------------------------------------------

    async def started(self, pool: TestPool, fence: Fence, count: int) -> list[str]:
        """Spawn agents, claim and start them in one worker; returns their ids."""
        for _ in range(count):
            await pool.spawn(labels={"team": "core"}, input={"task": "x"})
        claims = await pool.claim(fence, count)
        ids = [claimed.agent.agent_id for claimed in claims]
        for agent_id in ids:
            await self.act(pool, agent_id, Started(now_ms=self.log.now_ms(pool.name)), fence=fence)
        return ids

    async def act(
        self, pool: TestPool, agent_id: str, command: agent_commands.Command, **options: Any
    ) -> None:
        await self.log.act(pool.name, agent_id, command, ORIGIN, **options)

    async def crash(self, pool: TestPool, agent_id: str, fence: Fence, **policy: Any) -> None:
        error = Error(type="ValueError", message="no ✗", traceback="line 1\nline 2")
        failed = Fail(
            during="run", error=error, now_ms=self.log.now_ms(POOL), policy=RestartPolicy(**policy)
        )
        await self.act(pool, agent_id, failed, fence=fence)

    async def play(self, pool: TestPool, name: str = "w") -> list[str]:
        """A history of two workers with every kind of event; returns the agents still alive."""
        first = await pool.worker(f"{name}1")
        second = await pool.worker(f"{name}2", slots=4)
        a, b, c, d, e = await self.started(pool, first, 5)
        (f,) = await self.started(pool, second, 1)
        await self.crash(pool, a, first, backoff_min_ms=1, backoff_max_ms=1)
        await asyncio.sleep(0.01)  # its back-off
        await self.act(pool, a, agent_commands.Restart())
        await self.crash(pool, b, first, limit=0)
        await self.act(pool, c, Terminate(), fence=None)
        await self.act(pool, c, End(reason="x"), fence=first)
        await self.act(pool, d, agent_commands.Release(reason="drain"), fence=first)
        await self.log.act_on_worker(pool.name, f"{name}2", workers.Suspect(reason="t"), ORIGIN)
        await self.log.act_on_worker(pool.name, f"{name}2", workers.Recover(), ORIGIN)
        await self.log.act_on_worker(pool.name, f"{name}2", workers.Drain(reason="t"), ORIGIN)
        reaper = await pool.fence(f"{name}1")
        await self.act(
            pool,
            e,
            MarkLost(worker_id=f"{name}1", reason="killed", now_ms=self.log.now_ms(POOL)),
            fence=reaper,
        )
        await pool.order(f"{name}3")
        return [a, d, e, f]


@asynccontextmanager
async def open_stage(redis_url: str, database_url: str) -> AsyncIterator[Stage]:
    client, reader = Client(redis_url), Reader(redis_url)
    log = Log(client, Keys())
    stage = Stage(log, CatalogueLog(log, reader), redis_url, database_url)
    await stage.catalogue.create()
    await stage.views.start()
    try:
        yield stage
    finally:
        await stage.views.stop()
        await stage._database.close()
        await reader.close()
        await client.aclose()


@asynccontextmanager
async def archived_story(
    redis_url: str, database_url: str
) -> AsyncIterator[tuple[Stage, TestPool]]:
    """A stage on which a story was played and archived, and its pool."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool(**QUICK)
        await stage.play(pool)
        await stage.catch_up()
        yield stage, pool


async def heartbeat(stage: Stage, pool: TestPool, fence: Fence, data: str) -> None:
    """Report what a worker does when it renews its lease."""
    keys = stage.log.keys
    renewed = await stage.log._run_guarded(
        "renew", pool.name, fence.worker_id, fence.epoch, new_id(), data, 60_000, "", 10, 0
    )
    assert renewed.outcome.value == "DONE", keys.pool(pool.name, "heartbeats")
