"""Muster on a Redis and a PostgreSQL that others run, its roles together and one by one."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import psutil
import psycopg
import pytest

from tests.chaos.judge import judge
from tests.conftest import MakeServer
from tests.e2e.conftest import with_leases
from tests.e2e.system import System
from tests.process import free_port
from tests.servers import RedisServer
from tests.waiting import until

ROLES = ("projector", "supervisor", "gateway")
STOP_SECONDS = 20.0
LEASE_SECONDS, TWO_LEASES_SECONDS = 4, 8.0


class RolesApart(System):
    """The same system without `muster up`: each role started by itself."""

    def __init__(self, folder: Path, redis_url: str, database_url: str) -> None:
        port = free_port()
        super().__init__(
            folder,
            env={
                "MUSTER_REDIS_URL": redis_url,
                "MUSTER_DATABASE_URL": database_url,
                "MUSTER_PORT": str(port),
                "MUSTER_DATA_DIR": str(folder / "data"),
            },
        )
        self.redis_url = redis_url
        self.url = f"http://127.0.0.1:{port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        self._session = self._session or aiohttp.ClientSession()
        for role in ROLES:
            with (self.folder / f"{role}.out").open("ab") as out:
                self.processes[role] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "muster", role],
                    cwd=self.folder,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )
        await until(self._answers, timeout=30)

    def waits(self, role: str) -> int:
        """How often a role says that it waits for Redis."""
        file = self.folder / f"{role}.out"
        return file.read_text().count("redis.waiting") if file.exists() else 0

    async def _answers(self) -> bool:
        assert all(process.poll() is None for process in self.processes.values())
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return (await self.call("GET", "/readyz"))[0] == 200
        return False

    async def stop(
        self, *, number: signal.Signals = signal.SIGTERM, timeout: float = STOP_SECONDS
    ) -> int:
        """End the roles, the gateway first; the highest of their exit codes."""
        below = [p for role in self.processes.values() for p in self.family(role.pid)]
        codes = [0]
        for role in reversed(ROLES):
            if process := self.processes.pop(role, None):
                process.send_signal(number)
                try:
                    codes.append(await asyncio.to_thread(process.wait, timeout))
                except subprocess.TimeoutExpired:
                    process.kill()
                    codes.append(process.wait())
        _, left = await asyncio.to_thread(psutil.wait_procs, below, STOP_SECONDS)
        for survivor in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        assert left == []
        return max(map(abs, codes))


@pytest.mark.long
async def test_roles_one_by_one_on_debians_redis_and_postgresql(
    tmp_path: Path, redis_server: MakeServer, postgres_url: str
) -> None:
    """As on many hosts, where any may start first: each role waits for Redis, and says so once.

    Stopped and started, the fifteen are back.
    """
    server = redis_server(RedisServer)
    server.stop()
    plain_url = postgres_url.replace("+psycopg", "")
    system = RolesApart(tmp_path, server.url, plain_url)
    starting = asyncio.ensure_future(system.start())
    try:
        await until(lambda: all(map(system.waits, ROLES)), timeout=20)
        server.start()
        await starting
        assert [system.waits(role) for role in ROLES] == [1, 1, 1]
        ids = [(await system.spawn())["agent_id"] for _ in range(15)]
        found = await system.pool()
        names = ("process_count", "total_capacity", "used_capacity", "utilization")
        assert [found[name] for name in names] == [2, 20, 15, 0.75]
        await system.verify()
        assert await system.stop() == 0
        await system.start()
        await system.running(15)
        agents = {agent["agent_id"]: agent["incarnation"] for agent in await system.agents()}
        assert agents == dict.fromkeys(ids, 2)
        await system.verify()
        assert judge(server.url, acknowledged=ids) == []
    finally:
        starting.cancel()
        await system.__aexit__()
    with psycopg.connect(plain_url) as connection:
        rows = connection.execute("SELECT count(*) FROM muster.agents").fetchall()
    assert rows == [(15,)]


@pytest.mark.long
async def test_after_kill_9_of_muster_up_no_process_uses_a_redis_that_still_runs(
    project: Path, redis_server: MakeServer
) -> None:
    """The log's server goes on, and the supervisor dies at the same time and cannot drain: the
    workers' own guard has to end them."""
    server = redis_server(RedisServer)
    config, environment = with_leases(LEASE_SECONDS), {"MUSTER_REDIS_URL": server.url}
    async with System(project, config=config, env=environment) as system:
        ids = [(await system.spawn())["agent_id"] for _ in range(5)]
        assert system.process is not None
        family = system.family()
        assert set(await system.workers()) <= set(family)
        system.role("supervisor").kill()
        system.process.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, family, TWO_LEASES_SECONDS)
        assert left == []
        system.process.wait()
        await system.start()
        await system.running(5)
        assert {agent["agent_id"] for agent in await system.agents()} == set(ids)
        await system.verify()
        offences = judge(server.url, acknowledged=ids, views=system.views())
        assert offences == []
