"""Without its database a gateway spawns and ends agents, and says at once that it cannot read."""

import asyncio
import os
import signal
import socket
from random import Random
from typing import Any

import aiohttp
import psutil
import pytest
from sqlalchemy import Connection, event, make_url, text

from projector.store.database import Database, DatabaseError
from tests.chaos.proxy import Link, Weather
from tests.databases import PostgresServer
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, logged
from tests.waiting import timed, until

LIMITS = type(QUICK)(catch_up_seconds=0.2, query_seconds=0.3, wait_default=0.5)
READS = ("", "/pools", "/health", "/monitor/dashboard")


@pytest.fixture
def database(server_directory, tmp_path_factory):
    """A PostgreSQL of the test's own, to be stopped."""
    folder = server_directory / tmp_path_factory.mktemp("own").name
    folder.mkdir(mode=0o711)
    server = PostgresServer(folder, shared=server_directory.parent)
    server.start()
    yield server
    server.stop()


async def test_a_database_that_stops_or_hangs_and_comes_back(redis_url, database, monkeypatch):
    monkeypatch.setattr("projector.store.cancellable.CANCEL_SECONDS", 0.2)
    monkeypatch.setattr("gateway.backend.agent_rows.LOOK_SECONDS", 0.1)
    url = database.url(database.create_database())
    stages = gateway_stage(redis_url, url, limits=LIMITS, lease_seconds=1.0)
    async with logged() as lines, stages as stage:
        agent_id = await stage.pending()
        await stage.stage.settle()
        for go, come in ((database.stop, database.start), (_pause(database), _resume(database))):
            go()
            await _writes_but_does_not_read(stage)
            come()
            await until(lambda: _reads(stage, agent_id), timeout=20)
    assert "gateway.request_failed" not in [line["event"] for line in lines]


async def _writes_but_does_not_read(stage) -> None:
    answer = await stage.spawn()
    assert (answer.status, answer.headers["Muster-Stale"]) == (202, "true")
    ended = await stage.ask(
        "DELETE", f"{AGENTS}/{answer.json['agent_id']}?pool_name=developer_pool"
    )
    assert (ended.status, ended.json["status"]) == (200, "terminated")
    for path in READS:
        seconds, refused = await timed(stage.get(f"{AGENTS}{path}"))
        assert (refused.status, refused.kind) == (503, "views-unavailable")
        assert refused.headers["Retry-After"] == "2"
        assert seconds < 2.0
    assert (await stage.get("/healthz")).status == 200
    ready = await stage.get("/readyz")
    assert (ready.status, ready.json["reasons"]) == (200, []), "it takes commands"
    [warning] = [one for one in ready.json["warnings"] if one.startswith("reads are refused: ")]
    [alert] = await stage.alerts("database-unreachable")
    assert warning.removeprefix("reads are refused: ") == refused.json["detail"]
    assert refused.json["detail"] in alert["message"]
    assert ("Connection refused" in warning) != ("no answer in time" in warning)


async def _reads(stage, agent_id: str) -> bool:
    answer = await stage.get(f"{AGENTS}/{agent_id}")
    return answer.status == 200 and "Muster-Stale" not in answer.headers


def _pause(database):
    """All of PostgreSQL's processes stand still: it accepts and never answers."""
    return lambda: _signal(database, signal.SIGSTOP)


def _resume(database):
    return lambda: _signal(database, signal.SIGCONT)


def _signal(database, number: signal.Signals) -> None:
    postmaster = psutil.Process(database.pid)
    for process in [postmaster, *postmaster.children()]:
        process.send_signal(number)


@pytest.mark.parametrize(("query", "most_ms"), [("", 10_000), ("?tcp_user_timeout=4000", 4_000)])
async def test_the_kernel_soon_closes_connections_to_a_silent_host(postgres_url, query, most_ms):
    """It says nothing, not even that a connection is gone; what is sent there is never answered."""
    database = Database(f"{postgres_url}{query}")
    database.open()
    try:
        found = await database.read(_bounds)
    finally:
        await database.close()
    assert found == (most_ms, 1)


@pytest.mark.parametrize("given_up", [True, False])
async def test_a_connection_that_never_answers_is_cut(postgres_url, monkeypatch, given_up):
    """Something in between keeps it open: the kernel sees nothing, and no process could end."""
    monkeypatch.setattr("projector.store.database.CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("projector.store.cancellable.CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(
        "projector.store.database.ABANDONED_QUERY_SECONDS", 0.1 if given_up else 60.0
    )
    url = make_url(postgres_url)
    link = Link("views", url.port or 5432, Random(1))
    await link.start()
    database = Database(
        url.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    )
    database.open()
    await database.read(_bounds)
    link.set(Weather(replies_stall=True))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(database.read(_one), 0.1)
    if given_up:
        await until(lambda: not database._running)
        link.clear()
        assert await database.read_with_retry(_one) == 1
    await database.close()
    await until(lambda: not database._running)
    await link.stop()


async def test_a_connection_that_falls_silent_before_it_is_ours_is_cut(postgres_url, monkeypatch):
    """PgBouncer lets in, and then waits for a server: SQLAlchemy asks the first questions."""
    monkeypatch.setattr("projector.store.database.CLOSE_SECONDS", 0.2)
    url = make_url(postgres_url)
    link = Link("views", url.port or 5432, Random(1))
    await link.start()
    database = Database(
        url.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    )
    database.open()
    loop, silent = asyncio.get_running_loop(), asyncio.Event()

    async def fall_silent() -> None:
        link.set(Weather(replies_stall=True))
        silent.set()

    @event.listens_for(database._engine, "connect", insert=True)
    def _connected(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(fall_silent(), loop).result()

    reading = asyncio.ensure_future(database.read(_one))
    await silent.wait()
    await database.close()
    await until(lambda: not database._running)
    with pytest.raises(DatabaseError):
        await reading
    await link.stop()


async def test_a_silent_connection_does_not_end_what_a_gateway_does_by_itself(
    redis_url, postgres_url
):
    """It would report no lost command any more, for ever."""
    url = make_url(postgres_url)
    link = Link("views", url.port or 5432, Random(1))
    await link.start()
    near = url.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    async with gateway_stage(redis_url, near, limits=LIMITS) as stage:
        assert await stage.backend.positions()
        link.set(Weather(replies_stall=True))
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError):
                await stage.backend.positions()
        link.clear()
        await until(stage.backend.positions)
    await link.stop()


def _one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


def _bounds(connection: Connection) -> tuple[int, int]:
    driver: Any = connection.connection.driver_connection
    with socket.socket(fileno=os.dup(driver.fileno())) as wire:
        return (
            wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        )


async def test_a_gateway_that_stops_while_it_is_read_says_nothing_of_it(redis_url, tmp_path):
    """A client that is reading is answered or cut off; the log has no error."""
    url = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(redis_url, url) as stage:
        for _ in range(20):
            await stage.pending()
        stopping = asyncio.Event()

        async def read() -> None:
            while not stopping.is_set():
                try:
                    answer = await stage.get(f"{AGENTS}/monitor/dashboard")
                except (OSError, aiohttp.ClientError):
                    return
                assert answer.status in {200, 503}

        reading = [asyncio.ensure_future(read()) for _ in range(8)]
        try:
            await until(lambda: sum(line["event"] == "gateway.answered" for line in lines) > 30)
            await stage.backend.views.stop()
            await until(lambda: any(line.get("status") == 503 for line in lines))
            await stage.gateway.stop()
        finally:
            stopping.set()
            outcomes = await asyncio.gather(*reading, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, AssertionError)]
        assert failed == []
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
