"""Other projects, each in an environment of its own, configured as its documentation recommends.

A peer is a script in `peer_scripts/`: its jobs are imported by the peer's own workers, and run as a
program it is the client that enqueues, as many jobs as each line of its input says.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import redis
from msgspec import Struct

from tests.bench.asked import Asked, asked
from tests.bench.environments import Environment
from tests.bench.muster_system import Round
from tests.bench.processes import CpuUsed, family
from tests.bench.setup import Setup
from tests.bench.waits import Reports
from tests.process import ServerProcess
from tests.servers import ValkeyServer
from tests.waiting import until

SCRIPTS = Path(__file__).with_name("peer_scripts")
WARM_UP = 200


class Peer(Struct, frozen=True):
    """What to install, how to run one worker service, and how to see what is not done yet.

    `unfinished` is asked of an own connection to Redis, with the number of keys before the round
    and of the jobs in it.
    """

    packages: tuple[str, ...]
    worker: tuple[str, ...]
    unfinished: Callable[["redis.Redis", int, int], int]
    workers: int = 1
    """How many services to start: one per core, unless a service starts processes itself."""


def _missing_results(client: "redis.Redis", keys_before: int, count: int) -> int:
    return max(0, keys_before + count - int(client.dbsize()))


PEERS: Mapping[str, Peer] = {
    "taskiq": Peer(
        ("taskiq[uv]", "taskiq-redis"),
        ("taskiq", "worker", "taskiq_jobs:broker"),
        _missing_results,
    ),
    "arq": Peer(
        ("arq",),
        ("arq", "arq_jobs.WorkerSettings"),
        lambda client, _, __: int(client.zcard("arq:queue")),
        workers=2,
    ),
    "dramatiq": Peer(
        ("dramatiq[redis]",),
        ("dramatiq", "dramatiq_jobs"),
        lambda client, _, __: int(client.hlen("dramatiq:default.msgs")),
    ),
    "celery": Peer(
        ("celery[redis]",),
        ("celery", "-A", "celery_jobs", "worker"),
        _missing_results,
    ),
    "docket": Peer(
        ("pydocket",),
        ("docket", "worker", "--docket", "bench", "--tasks", "docket_jobs:tasks"),
        lambda client, _, __: int(client.xlen("bench:stream")),
        workers=2,
    ),
}


class RunningPeer:
    """A peer's workers, client and Redis."""

    def __init__(
        self, peer: Peer, server: ValkeyServer, workers: list[ServerProcess], client: Asked
    ) -> None:
        self._peer, self._server, self._workers, self.client = peer, server, workers, client

    def processes(self) -> dict[str, list[psutil.Process]]:
        workers = [member for worker in self._workers for member in family(worker.pid)]
        return {
            "client": [psutil.Process(self.client.pid)],
            "workers": workers,
            "redis": [psutil.Process(self._server.pid)],
        }

    async def run_jobs(self, count: int, port: int | None = None) -> Round:
        """Enqueue jobs, which report to that port; returns when all have been run."""
        with self._server.client() as redis_client:
            keys = int(redis_client.dbsize())
            cpu = CpuUsed(self.processes)
            cpu.start()
            began = time.perf_counter()
            accepted = await self.client.ask(f"enqueue {count} {port or ''}")
            await until(
                lambda: not self._peer.unfinished(redis_client, keys, count),
                timeout=120,
                interval=0.01,
            )
            seconds = time.perf_counter() - began
            await asyncio.sleep(0.2)
            return Round(count / accepted, count / seconds, cpu.stop(count))


def environment(setup: Setup, name: str) -> Environment:
    """The peer's environment, made where it is not there yet."""
    made = Environment(setup.cache, name, PEERS[name].packages)
    made.make()
    return made


@asynccontextmanager
async def running_peer(setup: Setup, name: str) -> AsyncIterator[RunningPeer]:
    """A peer, warmed up, with a Redis of its own like that of Muster."""
    peer, programs = PEERS[name], environment(setup, name).bin
    folder = setup.new_folder(name)
    server = ValkeyServer(folder / "redis", tcp=False)
    settings = {
        "BENCH_REDIS_URL": server.url,
        "DOCKET_URL": server.url,
        "PYTHONPATH": str(SCRIPTS),
    }
    output = folder / "output"
    workers = [
        ServerProcess(
            [str(programs / peer.worker[0]), *peer.worker[1:]], output, environment=settings
        )
        for _ in range(peer.workers)
    ]
    try:
        server.start()
        for worker in workers:
            worker.launch()
        command = (programs / "python", SCRIPTS / f"{name}_jobs.py")
        with output.open("ab") as errors:
            async with asked(*command, env={**os.environ, **settings}, errors=errors) as client:
                running = RunningPeer(peer, server, workers, client)
                await warm_up(running)
                yield running
    except BaseException as error:
        error.add_note(output.read_text(errors="replace")[-3000:])
        raise
    finally:
        for worker in workers:
            await end_family(worker)
        server.stop()


async def warm_up(running: RunningPeer) -> None:
    """Raises AssertionError unless all jobs have been run when the round has ended."""
    with Reports() as reports:
        await running.run_jobs(WARM_UP, reports.port)
        assert reports.received() == WARM_UP


async def end_family(worker: ServerProcess) -> None:
    """End a process, and what it leaves, by their ids."""
    members = family(worker.pid) if worker.running else []
    await asyncio.to_thread(worker.end, [signal.SIGTERM])
    _, alive = await asyncio.to_thread(psutil.wait_procs, members, 5)
    for member in alive:
        member.kill()
