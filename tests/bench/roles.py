"""Single processes of Muster, and the bare gateway, each before a Redis of its own."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM

import aiohttp
import psutil

from tests.bench import load
from tests.bench.muster_system import Round, body, configuration
from tests.bench.processes import CpuUsed
from tests.bench.setup import Setup
from tests.process import ServerProcess, accepts, free_port
from tests.servers import ValkeyServer
from tests.waiting import until

SPAWN = "/api/v1/agents/spawn"


class Accepting:
    """A gateway that appends spawns that no worker takes."""

    def __init__(self, port: int, server: ValkeyServer, process: ServerProcess) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._server, self._process = server, process

    async def accept(self, count: int, pool: str = "stays") -> Round:
        cpu = CpuUsed(self._processes)
        cpu.start()
        sent = await load.post(f"{self.url}{SPAWN}", body(pool), count)
        rate = count / sent.seconds
        return Round(rate, rate, cpu.stop(count))

    def _processes(self) -> dict[str, list[psutil.Process]]:
        return {
            "gateway": [psutil.Process(self._process.pid)],
            "redis": [psutil.Process(self._server.pid)],
        }


@asynccontextmanager
async def bare_gateway(setup: Setup) -> AsyncIterator[Accepting]:
    """A handler that does nothing but appending."""
    folder, port = setup.new_folder("bare"), free_port()
    server = ValkeyServer(folder / "redis", tcp=False)
    command = (sys.executable, "-m", "tests.bench.bare_gateway", server.url, str(port))
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = ServerProcess(command, folder / "bare.log", environment=root)
    try:
        server.start()
        process.start(lambda: accepts(port))
        yield Accepting(port, server, process)
    finally:
        process.end([SIGTERM])
        server.stop()


@asynccontextmanager
async def lone_gateway(setup: Setup) -> AsyncIterator[Accepting]:
    """`muster gateway` with a pool, whose projector has ended; there is no supervisor."""
    folder, port = setup.new_folder("gateway"), free_port()
    server = ValkeyServer(folder / "redis", tcp=False)
    config = configuration(folder, {"stays": {"backlog_limit": 10_000_000}})
    environment = {
        "MUSTER_CONFIG": str(config),
        "MUSTER_REDIS_URL": server.url,
        "MUSTER_DATABASE_URL": f"sqlite:///{folder / 'views.db'}",
        "MUSTER_DATA_DIR": str(folder / "data"),
        "MUSTER_PORT": str(port),
    }
    projector, gateway = (
        ServerProcess(
            (sys.executable, "-P", "-m", "muster", role),
            folder / f"{role}.log",
            environment=environment,
        )
        for role in ("projector", "gateway")
    )
    try:
        server.start()
        projector.launch()
        gateway.start(lambda: accepts(port))
        await _has_pool(f"http://127.0.0.1:{port}/api/v1/agents/pools/stays")
        projector.end([SIGTERM])
        yield Accepting(port, server, gateway)
    finally:
        gateway.end([SIGTERM])
        projector.end([SIGTERM])
        server.stop()


async def _has_pool(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def found() -> bool:
            async with session.get(url) as response:
                return response.status == 200

        await until(found, timeout=30)
