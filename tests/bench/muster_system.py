"""A Muster to measure: `muster up` with the intervals that users have, and its own folder."""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psutil
import redis
from msgspec import Struct

from tests.bench import load
from tests.bench.processes import CpuUsed, by_kind
from tests.e2e.system import System
from tests.waiting import until

AGENTS = Path(__file__).with_name("agents.py")
ROLES = {"returns": "Returns", "starts": "Starts", "reports": "Reports", "stays": "Stays"}
SETTLE_SECONDS = 300.0
IDLE_AFTER_SECONDS = 3.0
TAIL_SECONDS = 0.5
"""What is done after the last event was projected belongs to the spawns too."""


class Round(Struct, frozen=True):
    """One round of spawns or jobs: per second, and the CPU time of each in microseconds."""

    accepted_rate: float
    rate: float
    cpu: dict[str, float]

    @property
    def cpu_sum(self) -> float:
        return sum(self.cpu.values())


class MeasuredSystem(System):
    """A `System` and what is measured of it."""

    def processes(self) -> dict[str, list[psutil.Process]]:
        """By kind: redis, gateway, projector, supervisor, workers, up."""
        assert self.process is not None
        return by_kind([self.process.pid])

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    async def spawned(self, pool: str, count: int, *, connections: int = 64) -> Round:
        """Spawn agents that end by themselves; returns when the views have all of it."""
        cpu = CpuUsed(self.processes)
        cpu.start()
        began = time.perf_counter()
        sent = await load.post(
            f"{self.url}/api/v1/agents/spawn", body(pool), count, connections=connections
        )
        await self.all_ended(pool)
        await self.projected(pool)
        seconds = time.perf_counter() - began
        await asyncio.sleep(TAIL_SECONDS)
        return Round(count / sent.seconds, count / seconds, cpu.stop(count))

    async def fill(self, pool: str, count: int) -> None:
        """Spawn agents that stay, and wait until all run."""
        await load.post(f"{self.url}/api/v1/agents/spawn", body(pool), count, connections=8)
        await self.running(count, timeout=60)

    async def all_ended(self, pool: str) -> None:
        """Wait until the pool has no living agent."""
        with self.redis() as client:
            await until(
                lambda: not client.scard(f"pool:{{{pool}}}:agents"),
                timeout=SETTLE_SECONDS,
                interval=0.01,
            )

    async def projected(self, pool: str) -> None:
        """Wait until the views have all that is in the pool's log now."""
        with self.redis() as client, closing(self.open_views()) as views:
            seq = int(client.hget(f"pool:{{{pool}}}:meta", "seq") or 0)
            await until(lambda: position(views, pool) >= seq, timeout=SETTLE_SECONDS, interval=0.01)

    def open_views(self) -> sqlite3.Connection:
        """The views' file, to read from."""
        return sqlite3.connect(f"file:{self.views()}?mode=ro", uri=True)


async def idle_percent(system: MeasuredSystem, seconds: float) -> dict[str, float]:
    """The processor time of each kind in percent of a core, once a moment has passed."""
    await asyncio.sleep(IDLE_AFTER_SECONDS)
    cpu = CpuUsed(system.processes)
    cpu.start()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    return {kind: used / took / 1e4 for kind, used in cpu.stop(1).items()}


def position(views: sqlite3.Connection, pool: str) -> int:
    """How far the views have come with a pool."""
    row = views.execute("SELECT seq FROM checkpoints WHERE pool = ?", (pool,)).fetchone()
    return int(row[0]) if row else 0


def role_of(pool: str) -> str:
    """Pools have the names of their roles, or these and a number."""
    return pool.partition("_")[0]


def body(pool: str, **more: Any) -> dict[str, Any]:
    """A request for an agent."""
    return {"project_id": "bench", "role_type": role_of(pool), "pool_name": pool, **more}


def configuration(folder: Path, pools: Mapping[str, Mapping[str, object]]) -> Path:
    """Writes the file that declares the roles of the benchmarks, and these pools."""
    shutil.copy(AGENTS, folder / "bench_agents.py")
    lines = [f'[roles.{role}]\nagent = "bench_agents:{name}"' for role, name in ROLES.items()]
    for pool, settings in pools.items():
        lines.append(f'[pools.{pool}]\nrole = "{role_of(pool)}"')
        lines += [f"{key} = {value}" for key, value in settings.items()]
    file = folder / "muster.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@asynccontextmanager
async def muster(
    folder: Path, pools: Mapping[str, Mapping[str, object]], *arguments: str
) -> AsyncIterator[MeasuredSystem]:
    """A running `muster up` with these pools and their settings, all workers started."""
    config = configuration(folder, pools)
    async with MeasuredSystem(folder, *arguments, config=config.read_text()) as system:
        workers = sum(int(str(settings.get("min_workers", 0))) for settings in pools.values())

        async def started() -> bool:
            shown = [await system.pool(pool) for pool in pools]
            return sum(one["active_worker_processes"] for one in shown) >= workers

        await until(started, timeout=60, interval=0.1)
        yield system
