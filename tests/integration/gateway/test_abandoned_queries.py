"""A query whose client has gone is cancelled in the database."""

import asyncio
import threading

from sqlalchemy import Connection, text

from projector.queries import views
from projector.store.cancellable import CANCEL_SECONDS
from projector.store.database import ABANDONED_QUERY_SECONDS, Database
from tests.integration.gateway.raw_connections import connection
from tests.integration.gateway.stage import gateway_stage
from tests.waiting import until

FOREVER = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i)"
    " FROM n",
    "postgresql": "SELECT pg_sleep(600)",
}
PATIENCE = CANCEL_SECONDS + ABANDONED_QUERY_SECONDS + 10.0
"""Where cancelling does not succeed in time, the connection is cut."""
GET = b"GET /api/v1/agents/pools HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_a_slow_query_ends_with_the_last_client_that_waits_for_it(
    redis_url, database_url, monkeypatch
):
    started, failures = [], []

    def slow(connection: Connection, /, **_: object) -> list[object]:
        started.append(connection.dialect.name)
        try:
            connection.execute(text(FOREVER[connection.dialect.name]))
        except Exception as error:
            failures.append(str(getattr(error, "orig", error)))
            raise
        return []

    monkeypatch.setattr(views.Views, "pools", views._query(slow))
    async with gateway_stage(redis_url, database_url) as stage:
        stage.backend.limits = type(stage.backend.limits)(query_seconds=60.0)
        async with connection(stage) as second:
            async with connection(stage) as first:
                await first.send(GET)
                await until(lambda: len(started) == 1)
                await second.send(GET)
                await asyncio.sleep(0.1)
                assert len(started) == 1, "one at a time"
            await until(lambda: len(failures) == 1, timeout=PATIENCE)
            await until(lambda: len(started) == 2, timeout=PATIENCE)
        await until(lambda: len(failures) == 2, timeout=PATIENCE)
        await until(lambda: not stage.backend.views._database._running)
        for failure in failures:
            assert "interrupted" in failure or "canceling statement" in failure
        assert await stage.backend.views.count_agents() == {}


async def test_a_query_is_cancelled_although_its_statement_starts_later(tmp_path):
    """SQLite interrupts only what runs."""
    database = Database(f"sqlite:///{tmp_path / 'v.db'}")
    database.open()
    loop, started, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(started.set)
        left.wait(10)
        connection.execute(text(FOREVER["sqlite"]))

    reading = asyncio.ensure_future(database.read(slow))
    await started.wait()
    reading.cancel()
    await asyncio.wait([reading])
    await asyncio.sleep(0.05)  # it is cancelled once before the statement starts
    left.set()
    await until(lambda: not database._running)
    await database.close()


async def test_a_slow_query_ends_when_its_time_is_over(redis_url, database_url, monkeypatch):
    def slow(connection: Connection, /, **_: object) -> list[object]:
        connection.execute(text(FOREVER[connection.dialect.name]))
        return []

    monkeypatch.setattr(views.Views, "pools", views._query(slow))
    async with gateway_stage(redis_url, database_url) as stage:
        stage.backend.limits = type(stage.backend.limits)(query_seconds=0.2)
        answer = await stage.get("/api/v1/agents/pools")
        assert (answer.status, answer.kind) == (503, "views-unavailable")
        assert "no answer in time" in answer.json["detail"]
        await until(lambda: not stage.backend.views._database._running)
