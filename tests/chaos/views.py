"""The views and the archive of a run, reached directly, without a proxy."""

import sqlite3
from contextlib import closing
from typing import Any

import psycopg

DATABASE_ERRORS = (sqlite3.Error, psycopg.Error)


def select(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, in which `{}` is the prefix of each table's name.

    Raises one of `DATABASE_ERRORS`.
    """
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as database:
            return database.execute(query.format("")).fetchall()
    with psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5) as connection:
        return connection.execute(query.format("muster.").encode()).fetchall()


def execute(url: str, statement: str) -> None:
    """The same with a statement that changes something."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=10)) as database, database:
            database.execute(statement.format(""))
        return
    with psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5) as connection:
        connection.execute(statement.format("muster.").encode())
