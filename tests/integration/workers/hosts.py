"""A pool for tests, and hosts that supervise it with real worker processes."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import WorkerStatus
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.survey import Survey
from eventstore.retention import Retention
from tests.chaos.judge import judge
from tests.pools import ORIGIN, TestPool
from tests.waiting import until
from workers.supervisor.options import SupervisorOptions
from workers.supervisor.supervisor import Supervisor

POOL = "developer_pool"
QUICK: dict[str, Any] = {
    "lease_seconds": 10.0,
    "renew_seconds": 0.3,
    "stop_grace_seconds": 1.0,
    "drain_seconds": 5.0,
    "backoff_min_seconds": 0.05,
    "backoff_max_seconds": 0.1,
}
"""Intervals that a test can wait for; a lease that no worker loses by chance."""
SHORT_SECONDS = 2.0
"""A lease that a test waits for."""


class Site:
    """A pool, and the hosts that supervise it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.log = Log(Client(url), Keys())
        self.catalogue = CatalogueLog(self.log, Reader(url))
        self.supervisors: list[Supervisor] = []

    async def pool(self, **config: Any) -> TestPool:
        await self.catalogue.create()
        wanted = PoolConfig(**{**QUICK, **config})
        changed = await self.catalogue.create_pool(POOL, "developer", wanted, ORIGIN)
        pool = TestPool(self.log, POOL)
        pool.pool = changed.catalogue.pools[POOL]
        return pool

    async def host(
        self,
        name: str = "h1",
        *,
        agent: str = "",
        roles: dict[str, str] | None = None,
        poll_seconds: float = 0.2,
        retention: Retention | None = None,
        more_roles: dict[str, str] | None = None,
        **options: Any,
    ) -> Supervisor:
        supervisor = Supervisor(
            SupervisorOptions(
                redis_url=self.url,
                host=name,
                roles=roles
                or {"developer": agent or "workers.builtin:Placeholder", **(more_roles or {})},
                app_dir=str(self.folder),
                log_dir=str(self.folder / "logs"),
                poll_seconds=poll_seconds,
                retention=retention or Retention(),
                **{"shutdown_seconds": 8.0, **options},
            )
        )
        self.supervisors.append(supervisor)
        await supervisor.start()
        return supervisor

    async def run(self, pool: TestPool, count: int = 1) -> list[str]:
        """Spawn agents at once and wait until these, and no others, run; returns their ids."""
        spawned = await asyncio.gather(*(pool.spawn() for _ in range(count)))
        await self.until_running(count)
        return [one.agent_id for one in spawned]

    async def survey(self) -> Survey:
        return await self.log.survey(POOL)

    async def until_running(self, count: int, *, timeout: float = 15) -> None:
        async def running() -> bool:
            agents = [await self.log.agent(POOL, name) for name in await self.log.live(POOL)]
            return Counter(a.status for a in agents if a) == {"running": count}

        await until(running, timeout=timeout, what=f"{count} agents running")

    async def incarnations(self) -> dict[int, int]:
        """How many live agents are at which incarnation."""
        agents = [await self.log.agent(POOL, name) for name in await self.log.live(POOL)]
        return Counter(agent.incarnation for agent in agents if agent)

    async def workers(self) -> dict[str, int]:
        """Pids of active workers."""
        return {
            o.worker.worker_id: o.worker.pid
            for o in (await self.survey()).workers
            if o.worker.status is WorkerStatus.ACTIVE
        }

    def check(self, **how: Any) -> None:
        assert judge(self.url, **how) == []

    async def close(self) -> None:
        for supervisor in self.supervisors:
            await supervisor.stop()
        await self.catalogue.close()
        await self.log.client.aclose()


async def abandon(supervisor: Supervisor) -> None:
    """End as after `kill -9` of the supervisor: nothing is drained or recorded."""
    await supervisor._stop_tasks()
    supervisor._joined = False
    await supervisor.stop()
