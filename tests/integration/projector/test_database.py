"""The database of the views: its address, its tables, its connections."""

import asyncio
import threading

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from eventstore.errors import ConfigurationError
from projector.service.options import ProjectorOptions
from projector.service.projector import Projector
from projector.store import database
from projector.store.database import Database
from tests.waiting import until


async def test_a_connection_that_comes_after_the_end_is_closed(postgres_url, monkeypatch):
    """Its thread was still connecting when the database was closed, and no caller waited for it."""
    monkeypatch.setattr(database, "CLOSE_SECONDS", 0.05)
    opened = Database(postgres_url)
    opened.open()
    made: list[psycopg.Connection] = []
    closed = threading.Event()

    @event.listens_for(opened._engine, "connect", insert=True)
    def _slowly(connection: psycopg.Connection, _: object) -> None:
        made.append(connection)
        closed.wait(30)

    reading = asyncio.ensure_future(opened.read(lambda c: c.exec_driver_sql("SELECT 1").scalar()))
    await until(lambda: bool(made))
    await opened.close()
    assert not made[0].closed
    closed.set()
    assert await reading == 1
    await until(lambda: made[0].closed)


async def test_databases_that_are_prepared_at_once_create_the_tables_once(
    database_url: str,
) -> None:
    databases = [Database(database_url) for _ in range(8)]
    for one in databases:
        one.open()
    await asyncio.gather(*(one.prepare() for one in databases))
    for one in databases:
        assert await one.read(one.complete)
        await one.close()
        await one.close()


async def test_the_owner_of_a_schema_need_not_be_allowed_to_create_one(postgres_url: str) -> None:
    root = Database(postgres_url)
    owner = f"owner_of_{root.url.database}"

    def prepared(connection: Connection) -> None:
        connection.execute(text(f"CREATE ROLE {owner} LOGIN"))
        connection.execute(text(f"CREATE SCHEMA muster AUTHORIZATION {owner}"))

    root.open()
    await root.write(prepared)
    await root.close()
    database = Database(root.url.set(username=owner).render_as_string())
    database.open()
    await database.prepare()
    assert await database.read(database.complete)
    await database.close()


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "not a url"])
def test_an_address_of_no_known_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Projector(ProjectorOptions(redis_url="redis://h", database_url=url))


async def test_a_table_of_heartbeats_gets_the_columns_of_later_versions(database_url: str) -> None:
    """They are added: views that people made of the table stay."""
    opened = Database(database_url)
    opened.open()
    await opened.prepare()

    def downgrade(connection: Connection) -> None:
        connection.execute(text(f"ALTER TABLE {opened.prefix}worker_live DROP COLUMN memory_bytes"))
        view = f"CREATE VIEW lags AS SELECT loop_lag_ms FROM {opened.prefix}worker_live"
        connection.execute(text(view))

    await opened.write(downgrade)
    assert not await opened.read(opened.complete)
    await opened.prepare()
    assert await opened.read(opened.complete)
    await opened.close()
