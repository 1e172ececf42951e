"""Closing the database of the views."""

import asyncio
import threading

import psycopg
from sqlalchemy import event

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
