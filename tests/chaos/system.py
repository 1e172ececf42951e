"""The system under test: a Redis, a database, and the roles of Muster, each behind a proxy.

Everything is in one folder: `redis/` (the append-only file), `views/`, `app/` (configuration),
`logs/`, `trace/` (what agents wrote of themselves), `journal.jsonl`. Two supervisors play two
hosts. What is started here is ended here, by process id.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from random import Random

import psutil

from muster.process.child import reap_orphans
from tests.chaos import configuration
from tests.chaos.clocks import Clock, library
from tests.chaos.disks import Disk
from tests.chaos.options import Options
from tests.chaos.proxy import Link
from tests.chaos.roles import Role, workers, zygotes
from tests.databases import PostgresServer
from tests.process import free_port
from tests.servers import ValkeyServer
from tests.waiting import until
from workers.host.process_tree import become_subreaper, descendants

NAMES = (
    "projector-1", "projector-2", "supervisor-a", "supervisor-b", "gateway-1", "gateway-2",
)  # fmt: skip
START_SECONDS = 60.0
DATABASE = "test_1"
"""The name of the only database that a run makes."""


class DurablePostgres(PostgresServer):
    """A PostgreSQL that does not lose commits, whatever happens to its processes."""

    SETTINGS = tuple(
        setting.replace("synchronous_commit=off", "synchronous_commit=on")
        for setting in PostgresServer.SETTINGS
    )


class System:
    """A Muster with everything that it needs. `start` it, break it, `stop` it."""

    def __init__(self, folder: Path, options: Options, *, clocks: bool, disks: bool) -> None:
        self.folder = folder
        self.options = options
        self.disks = {name: Disk(folder / name) for name in ("redis", "views")} if disks else {}
        self.clocks: dict[str, Clock] = {}
        self.fakes_clocks = clocks and library() is not None
        self.redis_links: dict[str, Link] = {}
        self.views_links: dict[str, Link] = {}
        self.roles: dict[str, Role] = {}
        self.gateways: list[str] = []
        """Their addresses."""
        self.postgres: PostgresServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start everything; returns when both gateways say that they are ready."""
        become_subreaper()
        for name in ("logs", "trace"):
            (self.folder / name).mkdir(parents=True)
        self._config = configuration.write(self.folder / "app")
        for disk in self.disks.values():
            disk.mount()
        await self._start_servers()
        for number, name in enumerate(NAMES):
            await self._link(name, number)
            self.roles[name] = self._role(name)
            self._tasks.append(asyncio.create_task(self.roles[name].restart_on_exit(), name=name))
        self._tasks.append(asyncio.create_task(self._reap(), name="reap"))
        await until(self._ready, timeout=START_SECONDS, interval=0.1)

    async def stop(self) -> None:
        """End everything. A second call does nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.to_thread(self._end_processes)
        for link in (*self.redis_links.values(), *self.views_links.values()):
            await link.stop()
        if self.postgres is not None:
            await asyncio.to_thread(self.postgres.stop)
        if hasattr(self, "redis"):
            await asyncio.to_thread(self.redis.stop)

    def unmount_disks(self) -> None:
        """Unmount the disks. Their content is gone then."""
        for disk in self.disks.values():
            disk.unmount()

    # ---- what faults ask for -------------------------------------------------------------------

    def kinds(self, kind: str) -> list[Role]:
        return [role for role in self.roles.values() if role.kind == kind]

    def workers(self) -> list[int]:
        return workers(self.roles)

    def zygotes(self) -> list[int]:
        return zygotes(self.roles)

    @property
    def views_url(self) -> str:
        """The database, without a proxy before it."""
        if self.postgres is not None:
            return self.postgres.url(DATABASE)
        return f"sqlite:///{self.folder / 'views' / 'views.db'}"

    async def revive_redis(self) -> None:
        """Start Redis where it does not run, and wait until it has loaded its data."""
        if not self.redis.running:
            self.redis.launch()
        await until(lambda: asyncio.to_thread(self.redis.answers), timeout=START_SECONDS)

    async def revive_postgres(self) -> None:
        if self.postgres is not None:
            self.postgres.launch()
            await until(lambda: asyncio.to_thread(self.postgres_answers), timeout=START_SECONDS)

    def postgres_answers(self) -> bool:
        return self.postgres is None or self.postgres.answers()

    # ---- starting ------------------------------------------------------------------------------

    async def _start_servers(self) -> None:
        self.redis = ValkeyServer(
            self.folder / "redis",
            appendfsync=self.options.appendfsync,
            environment=self._clock("redis"),
        )
        self.redis.start()
        (self.folder / "views").mkdir(exist_ok=True)
        if self.options.views == "postgresql":
            self.folder.chmod(0o711)
            (self.folder / "views").chmod(0o711)
            self.postgres = DurablePostgres(self.folder / "views")
            self.postgres.start()
            assert self.postgres.create_database() == DATABASE

    async def _link(self, name: str, number: int) -> None:
        """The proxies of one role."""
        random = Random(f"{self.options.seed}/link/{number}")
        link = Link(f"{name}-redis", self.redis.port, random)
        await link.start()
        self.redis_links[name] = link
        if self.postgres is not None and not name.startswith("supervisor"):
            views = Link(f"{name}-views", self.postgres.port, random)
            await views.start()
            self.views_links[name] = views

    def _role(self, name: str) -> Role:
        kind, _, which = name.partition("-")
        environment = {**self._environment(name), "MUSTER_HOST_ID": f"host-{which}"}
        arguments = [kind]
        if kind == "gateway":
            port = free_port()
            environment["MUSTER_PORT"] = str(port)
            self.gateways.append(f"http://127.0.0.1:{port}")
        if kind == "supervisor":
            environment |= self._clock(f"host-{which}")
        log = self.folder / "logs" / f"{name}.log"
        return Role(name, arguments, environment, log, plant=self.options.plant)

    def _environment(self, name: str) -> dict[str, str]:
        ours = ("MUSTER_", "REDIS_", "DATABASE_URL", "PGBOUNCER_URL")
        outside = {n: value for n, value in os.environ.items() if not n.startswith(ours)}
        views = self.views_links.get(name)
        database = self.views_url
        if views is not None and self.postgres is not None:
            database = database.replace(f":{self.postgres.port}/", f":{views.port}/")
        return {
            **outside,
            "PYTHONUNBUFFERED": "1",
            "CHAOS_TRACE": str(self.folder / "trace"),
            "MUSTER_REDIS_URL": f"redis://127.0.0.1:{self.redis_links[name].port}/0",
            "MUSTER_DATABASE_URL": database,
            "MUSTER_CONFIG": str(self._config),
            "MUSTER_DATA_DIR": str(self.folder / "logs" / name),
            "MUSTER_AUTO_RECOVER": str(self.options.recovers == "projector"),
            "MUSTER_POLL_SECONDS": "0.5",
            "MUSTER_MIN_HEARTBEAT_INTERVAL": "0.2",
            "MUSTER_MIN_IDLE_TIME": "1",
            "MUSTER_SHUTDOWN_SECONDS": "6",
        }

    def _clock(self, name: str) -> dict[str, str]:
        """The environment of processes on that clock; empty where clocks are not faked."""
        if not self.fakes_clocks:
            return {}
        (self.folder / "clocks").mkdir(exist_ok=True)
        self.clocks[name] = Clock(self.folder / "clocks" / name)
        return self.clocks[name].environment()

    async def _ready(self) -> bool:
        from tests.chaos.asking import ask

        answers = [await ask(url, "GET", "/readyz", seconds=2) for url in self.gateways]
        return all(answer.status == 200 and not answer.body.get("warnings") for answer in answers)

    # ---- ending --------------------------------------------------------------------------------

    async def _reap(self) -> None:
        """Collect workers whose zygote is gone: they are our children then."""
        while True:
            reap_orphans(lambda: {role.pid for role in self.roles.values()} | self._servers())
            await asyncio.sleep(0.1)

    def _servers(self) -> set[int]:
        servers = (self.redis, self.postgres) if hasattr(self, "redis") else ()
        found = set()
        for server in servers:
            with contextlib.suppress(AssertionError):
                if server is not None:
                    found.add(server.pid)
        return found

    def _end_processes(self) -> None:
        """All of Muster's processes: asked first, then killed, by process id."""
        servers = self._servers()
        below = [psutil.Process(pid) for pid in self._family(servers)]
        for role in self.roles.values():
            role.send(signal.SIGKILL)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, left = psutil.wait_procs(below, timeout=10.0)
        if left:
            print(f"outlived the run: {left}", file=sys.stderr)

    def _family(self, servers: set[int]) -> list[int]:
        """What is below this process, without the servers and what is below those."""
        left = set(servers)
        for server in servers:
            left |= set(descendants(server))
        return [
            pid for pid in descendants(os.getpid()) if pid not in left and psutil.pid_exists(pid)
        ]
