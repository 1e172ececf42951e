"""A fallback's folder filled by hand, and the handover as a start does it."""

import asyncio
from pathlib import Path
from typing import Any

from eventstore.connection.clients import Client
from eventstore.embedded.server import PONG, EmbeddedServer
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.steps.step import Origin
from muster.fallback.directory import serving
from muster.fallback.handover import Handover
from muster.process.log_preparation import prepare
from muster.process.restarts import RestartableServer
from muster.settings.loading import load
from muster.settings.settings import Settings
from projector.queries.views import Views
from projector.service.options import ProjectorOptions
from projector.service.projector import Projector
from tests.pools import TestPool, raw_events
from tests.waiting import until

POOL = "developer_pool"
NARROW, TESTERS = "narrow_pool", "tester_pool"
CONFIG = """\
[roles.developer]
agent = "workers.builtin:Placeholder"
[roles.tester]
agent = "workers.builtin:Placeholder"
[pools.developer_pool]
role = "developer"
lease_seconds = 1
renew_seconds = 0.3
[pools.narrow_pool]
role = "developer"
lease_seconds = 1
renew_seconds = 0.3
backlog_limit = 1
[pools.tester_pool]
role = "tester"
lease_seconds = 1
renew_seconds = 0.3
"""
OTHER = "made_in_the_fallback"
DAY = "key:asked-for-by-a-client"
POLICY = RestartPolicy(limit=5, backoff_min_ms=60_000, backoff_max_ms=60_000)


class Fallback:
    """A fallback's folder, filled through its log, with no worker on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = serving(settings.data_dir)
        self.folder.open("redis://real", "it did not answer")
        self.server: EmbeddedServer = self.folder.server()

    async def __aenter__(self) -> "Fallback":
        self.server.launch()
        await until(lambda: self.server.ping() == PONG)
        self.log = Log(Client(self.server.url), Keys())
        self.reader = Reader(self.server.url)
        self.catalogue = CatalogueLog(self.log, self.reader)
        await self.catalogue.create()
        self.pool = await self.make(POOL, "configuration")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reader.close()
        await self.log.client.aclose()
        self.server.stop()

    async def make(self, name: str, actor: str = "http", **config: Any) -> TestPool:
        origin = Origin(actor=actor)
        await self.catalogue.create_pool(name, "developer", PoolConfig(**config), origin)
        return TestPool(self.log, name)

    async def spawn(self, pool: TestPool | None = None, **asked: Any) -> str:
        return (await (pool or self.pool).spawn(**asked)).agent_id


def settings_on(redis_url: str, folder: Path) -> Settings:
    """A data folder, and a real Redis that answers. The current folder must be `folder`."""
    (folder / "d").mkdir()
    (folder / "muster.toml").write_text(CONFIG)
    return load({"redis_url": redis_url, "data_dir": folder / "d"}, {})


async def do_handover(settings: Settings) -> list[str]:
    """As a start does it; what it prints."""
    handover = Handover(settings)
    assert handover.needed
    await handover.check()
    intact = await prepare(settings)
    server = RestartableServer(handover.server, asyncio.Event(), print)
    return list(await handover.run(server, intact=intact))


def ids(url: str, kind: str = "agent.requested", pool: str = POOL) -> list[str]:
    return sorted(event["subject"] for event in raw_events(url, pool) if event["type"] == kind)


async def spawn_for_real(settings: Settings, **asked: Any) -> str:
    """An agent that the real log has from before."""
    await prepare(settings)
    client = Client(settings.redis_url)
    try:
        return (await TestPool(Log(client, Keys())).spawn(**asked)).agent_id
    finally:
        await client.aclose()


async def archived(settings: Settings, pool: str, seq: int) -> None:
    """Archive a pool of the real log up to an event, as a projector does."""
    options = ProjectorOptions(redis_url=settings.redis_url, database_url=settings.views_url)
    projector, views = Projector(options), Views(settings.views_url)
    await projector.start()
    await views.start()
    try:
        assert await views.wait_for(pool, seq, timeout_seconds=10)
    finally:
        await projector.stop()
        await views.stop()
