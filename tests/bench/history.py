"""A log to replay: agents that came and went, written through the real scripts and archived."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Pool
from eventstore.retention import Retention
from tests.bench.setup import Setup
from tests.databases import PostgresServer
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.servers import ValkeyServer
from tests.turnover import EVENTS_OF_A_LIFE, turn_over

KEPT = Retention(events=10_000_000)
"""Nothing leaves the streams: they are replayed too."""


class History:
    """The log and its views. `events`: how many the pool has."""

    def __init__(self, stage: Stage, pool: Pool, events: int) -> None:
        self.stage, self.pool, self.events = stage, pool, events
        self.redis_url, self.database_url = stage.redis_url, stage.database_url


@asynccontextmanager
async def history(setup: Setup, events: int, database_url: str) -> AsyncIterator[History]:
    """A log of about so many events, projected into that database."""
    server = ValkeyServer(setup.new_folder("history") / "redis", appendfsync=None, tcp=False)
    server.start()
    try:
        async with open_stage(server.url, database_url) as stage:
            pool = await stage.pool(backlog_limit=1_000_000)
            await turn_over(stage.log, pool.pool, events // EVENTS_OF_A_LIFE)
            async with stage.projecting(retention=KEPT):
                for name in (CATALOGUE, POOL):
                    head = await stage.head(name)
                    assert await stage.views.wait_for(name, head, timeout_seconds=600)
            yield History(stage, pool.pool, await stage.head(POOL))
    finally:
        server.stop()


@asynccontextmanager
async def postgres(setup: Setup) -> AsyncIterator[str]:
    """The address of an empty database on a PostgreSQL of its own."""
    folder = setup.new_folder("postgres")
    server = PostgresServer(folder)
    server.start()
    try:
        yield server.url(server.create_database())
    finally:
        server.stop()


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'views.db'}"
