"""Servers for every test: started once per run when first asked for, emptied before each use.

    redis_url        a flushed Valkey
    any_redis_url    the same test on Valkey and on the oldest Redis supported
    redis_server     a factory of servers of the test's own, to stop, kill and fill up
    replication      a primary and its replica, of the test's own
    postgres_url     an empty PostgreSQL database
    pgbouncer_url    the same database as postgres_url, through PgBouncer in transaction mode
    database_url     the same test on an SQLite file and on PostgreSQL

Whatever is started here is ended and removed here, by its process id and path.
"""

import functools
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import redis.utils
from hypothesis import HealthCheck, settings

from muster.process import log_output
from tests.bytecode import compile_missing, use_folder
from tests.databases import PgBouncerServer, PostgresServer, reachable, unprivileged_uid
from tests.dealing import dealt
from tests.replication import Replication
from tests.servers import RedisLikeServer, RedisServer, ValkeyServer

settings.register_profile(
    "patient", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")
settings.register_profile("long", max_examples=400)
"""No deadline per example: a hanging test meets its own time-out. `.ci/long` uses the second."""

redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)
"""Plain clients of tests, of which there are thousands, would read it from files each time."""
GARBAGE_MIN = 10_000
"""The threshold of the garbage collector for its first generation."""
SYSTEM_SECONDS = 180
"""For tests that start many processes one after the other, also on slow machines."""
RUN_FOLDER = "TEST_RUN_FOLDER"
"""The variable by which the processes of a run find the folder that they share."""
KINDS = ("unit", "integration", "e2e", "chaos", "bench")
SLOW = ("e2e", "chaos")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run writes into the docs, if it is asked to."""
    parser.addoption(
        "--pictures",
        action="store_true",
        help="write the docs' pictures of the dashboard and of `muster top`",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """What tests start heeds signals, also where the run was put aside, or under `nohup`.

    Where Python is told to write no bytecode, this run and the next ones share a cache of their
    own: each of hundreds of processes would compile all that it imports. The first process of a
    run makes the folder for servers of all of them, and removes it.
    """
    if RUN_FOLDER not in os.environ:
        os.environ[RUN_FOLDER] = folder = tempfile.mkdtemp(
            prefix="muster-tests-", dir=_open_folder()
        )
        Path(folder).chmod(0o711)
        session.config.add_cleanup(lambda: shutil.rmtree(folder))
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        use_folder(session.config.rootpath / ".pytest_cache" / "bytecode")
    if session.config.getoption("numprocesses") and "PYTEST_XDIST_WORKER" not in os.environ:
        compile_missing(session.config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Freeze imported and collected objects, so that the garbage collector skips them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_MIN)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test bears the mark of its folder, so that `-m unit` and `-m 'not chaos'` work.

    The slow tests are at the beginnings of the parts into which xdist divides the list.
    """
    tests = config.rootpath / "tests"
    kinds = {path: path.relative_to(tests).parts[0] for path in {item.path for item in items}}
    for item in items:
        kind = kinds[item.path]
        if kind in KINDS:
            item.add_marker(kind)
        if kind == "e2e":
            item.add_marker(pytest.mark.timeout(SYSTEM_SECONDS))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = dealt(items, lambda item: kinds[item.path] in SLOW, workers)


class MakeServer(Protocol):
    """Starts a server of the test's own; options as `RedisLikeServer` has them."""

    def __call__(
        self,
        kind: type[RedisLikeServer] = ValkeyServer,
        *,
        appendfsync: str | None = "everysec",
        maxmemory: str = "0",
        tcp: bool = True,
        options: dict[str, str] | None = None,
    ) -> RedisLikeServer: ...


def _open_folder() -> Path:
    """The folder for temporary ones, or another that users other than root can pass through."""
    uid, base = unprivileged_uid(), Path(tempfile.gettempdir())
    return base if uid is None or reachable(base, uid) else Path("/tmp")


@pytest.fixture(scope="session")
def server_directory() -> Path:
    """A short folder for servers, which users other than root can pass through."""
    directory = Path(os.environ[RUN_FOLDER]) / os.environ.get("PYTEST_XDIST_WORKER", "main")
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture(scope="session")
def start_shared(server_directory: Path) -> Iterator[Callable[[type], RedisLikeServer]]:
    """The run's one server of a kind, started on first use."""
    started: dict[type, RedisLikeServer] = {}

    def start(kind: type[RedisLikeServer]) -> RedisLikeServer:
        if kind not in started:
            server = kind(server_directory / kind.kind)
            server.start()
            started[kind] = server
        return started[kind]

    yield start
    for server in started.values():
        server.stop()


@pytest.fixture
def redis_url(start_shared: Callable[[type], RedisLikeServer]) -> str:
    """An empty Valkey."""
    server = start_shared(ValkeyServer)
    server.wipe()
    return server.url


@pytest.fixture(params=[ValkeyServer, RedisServer], ids=["valkey", "redis7.0"])
def any_redis_url(
    request: pytest.FixtureRequest, start_shared: Callable[[type], RedisLikeServer]
) -> str:
    """An empty server of each kind in turn."""
    server = start_shared(request.param)
    server.wipe()
    return server.url


@pytest.fixture
def redis_server(server_directory: Path) -> Iterator[MakeServer]:
    """Makes and starts servers of this test's own."""
    made: list[RedisLikeServer] = []

    def make(
        kind: type[RedisLikeServer] = ValkeyServer,
        *,
        appendfsync: str | None = "everysec",
        maxmemory: str = "0",
        tcp: bool = True,
        options: dict[str, str] | None = None,
    ) -> RedisLikeServer:
        directory = Path(tempfile.mkdtemp(prefix="own-", dir=server_directory))
        server = kind(
            directory, appendfsync=appendfsync, maxmemory=maxmemory, tcp=tcp, options=options
        )
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill9()
        shutil.rmtree(server.directory)


@pytest.fixture
def replication(redis_server: MakeServer) -> Replication:
    """A primary and a replica that follows it."""
    return Replication(redis_server)


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[PostgresServer]:
    """The run's PostgreSQL."""
    directory = server_directory / "postgres"
    directory.mkdir(mode=0o711)
    server = PostgresServer(directory, shared=server_directory.parent)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pgbouncer_server(
    server_directory: Path, postgres_server: PostgresServer
) -> Iterator[PgBouncerServer]:
    """The run's PgBouncer, in transaction mode."""
    server = PgBouncerServer(server_directory / "pgbouncer", postgres_server)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_database(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    """The name of an empty database: a new one where PgBouncer keeps connections to it."""
    if "pgbouncer_server" in request.fixturenames:
        return postgres_server.create_database()
    return postgres_server.empty_database()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_database: str) -> str:
    """An empty PostgreSQL database."""
    return postgres_server.url(postgres_database)


@pytest.fixture
def pgbouncer_url(pgbouncer_server: PgBouncerServer, postgres_database: str) -> str:
    """The database of `postgres_url`, through PgBouncer."""
    return pgbouncer_server.url(postgres_database)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each dialect in turn."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'views.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell around the run has set for Muster must not reach a test."""
    for name in list(os.environ):
        if name.startswith(("MUSTER_", "REDIS_")) or name in ("DATABASE_URL", "PGBOUNCER_URL"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_logging_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test runs in its own process would configure logging for all that follow."""

    def only_its_file(_role: str, *, file: Path | None = None, **_: object) -> None:
        if file is not None:
            log_output._file_handler(file).close()

    monkeypatch.setattr(log_output, "configure", only_its_file)
