"""Unreachable, silent or emptied servers only delay a projector."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs

from projector.queries.views import AgentFilter
from projector.service.projector import Phase, Projector
from tests.chaos.proxy import Link, Weather
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.waiting import until


async def test_an_unreachable_redis_delays_and_is_logged_once(
    redis_server: MakeServer, views_url: str
) -> None:
    server = redis_server()
    async with open_stage(server.url, views_url) as stage:
        pool = await stage.pool()
        with capture_logs() as logs:
            async with stage.projecting(backoff_max_seconds=0.2) as projector:
                await pool.spawn()
                await stage.settle()
                server.stop()
                await until(lambda: projector.phase is Phase.WAITING)
                await until(lambda: projector.phase is Phase.STANDBY)  # it tried again
                await until(lambda: projector.phase is Phase.WAITING)
                server.start()
                await until(lambda: projector.phase is Phase.ACTIVE)
        logged = [entry["event"] for entry in logs if "projector." in entry["event"]]
    active, unavailable, resumed = (
        f"projector.{how}" for how in ("active", "unavailable", "resumed")
    )
    assert logged == [active, unavailable, resumed, active]


async def test_a_database_that_drops_its_connections_delays_and_is_logged_once(
    redis_url: str, postgres_url: str
) -> None:
    drop = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        with capture_logs() as logs:
            async with stage.projecting() as projector:
                await pool.spawn()
                await stage.settle()
                await stage.sql(drop)
                assert len(await stage.views.agents(AgentFilter())) == 1  # asked once more
                await pool.spawn()
                await until(lambda: "projector.resumed" in [entry["event"] for entry in logs])
                assert projector.phase is Phase.ACTIVE
                await stage.settle()
        assert [entry["event"] for entry in logs].count("projector.unavailable") == 1
        assert len(await stage.views.events(POOL)) == 2


async def test_tables_that_vanish_from_an_active_projector_are_built_again(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting() as projector:
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        before = await stage.contents()
        await stage.sql("DROP VIEW {}pool_capacity")
        await stage.sql("DROP TABLE {}agents")
        await pool.spawn()
        await until(lambda: projector.phase is not Phase.ACTIVE)
        await until(lambda: projector.phase is Phase.ACTIVE)
        await stage.settle()
        after = await stage.contents()
        known = {row["agent_id"]: row for row in after["agents"]}
        assert len(known) == len(before["agents"]) + 1
        assert [known[row["agent_id"]] for row in before["agents"]] == before["agents"]


@asynccontextmanager
async def distant(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[tuple[Link, Projector]]:
    """An active projector, and the link through which it reaches PostgreSQL."""
    monkeypatch.setattr("projector.store.database.CLOSE_SECONDS", 0.1)
    url = make_url(stage.database_url)
    link = Link("views", url.port or 5432, Random(1))
    await link.start()
    far = url.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    projector = Projector(
        msgspec.structs.replace(stage.projector(**options).options, database_url=far)
    )
    await projector.start()
    try:
        await until(lambda: projector.phase is Phase.ACTIVE)
        yield link, projector
    finally:
        await projector.stop()
        await link.stop()


async def test_a_projector_whose_database_never_answers_connects_again(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stays open in between: the renewal waits behind an earlier query."""
    monkeypatch.setattr("projector.service.active.RENEWAL_TIMEOUT_LEASES", 1)
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        async with distant(stage, monkeypatch, lease_seconds=1.0) as (link, projector):
            link.set(Weather(replies_stall=True))
            await pool.spawn()
            await until(lambda: projector.phase is not Phase.ACTIVE)
            link.clear()
            await stage.settle()


async def test_a_projector_whose_database_never_answers_is_stopped_soon(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait to release its lease."""
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        async with distant(stage, monkeypatch, lease_seconds=1.0) as (link, projector):
            link.set(Weather(replies_stall=True))
            await pool.spawn()
            async with asyncio.timeout(5.0):
                await projector.stop()
