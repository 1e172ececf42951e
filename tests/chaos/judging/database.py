"""Reads the SQL side: archive, views and checkpoints, as one transaction sees them.

It uses SQLite and PostgreSQL directly, and reads all columns that it finds.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import dict_row

from tests.chaos.judging.entries import Entry, of_row

Row = Mapping[str, Any]
VIEWS: Final = (
    "checkpoints", "pools", "hosts", "tokens", "workers", "agents", "usage_accounts", "usage_sums",
)  # fmt: skip
ARCHIVE: Final = "events"
SCHEMA: Final = "muster"


@dataclass
class Database:
    """The content of the database at one point in time."""

    archive: dict[str, list[Entry]] = field(default_factory=dict)
    """By log; the catalogue's is the empty name."""
    views: dict[str, list[Row]] = field(default_factory=dict)
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Generation and seq of the last pruned event, by log."""
    ended_before: int = 0
    """Rows of what ended before that time need not be there."""

    def checkpoint(self, pool: str) -> Row | None:
        return next((row for row in self.views["checkpoints"] if row["pool"] == pool), None)


def read(url: str) -> Database:
    """`url`: of SQLAlchemy's kind, with or without a driver, or the path of an SQLite file."""
    kind, _, rest = url.partition("://")
    if not rest:
        return _read_sqlite(url)
    if kind.startswith("sqlite"):
        return _read_sqlite(rest.removeprefix("/"))
    return _read_postgres(f"postgresql://{rest}")


def _read_sqlite(path: str) -> Database:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.isolation_level = None
        connection.execute("BEGIN")

        def table(name: str) -> list[Row]:
            return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]

        return _read(table)


def _read_postgres(url: str) -> Database:
    with psycopg.connect(url, row_factory=dict_row, connect_timeout=10) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True

        def table(name: str) -> list[Row]:
            chosen = sql.SQL("SELECT * FROM {}").format(sql.Identifier(SCHEMA, name))
            return list(connection.execute(chosen))

        return _read(table)


def _read(table: Callable[[str], list[Row]]) -> Database:
    found = Database(views={name: table(name) for name in VIEWS})
    found.starts = {r["pool"]: (r["generation"], r["seq"]) for r in table("archive_starts")}
    retained = {row["name"]: row["value"] for row in table("retained")}
    found.ended_before = retained.get("ended_before", 0)
    for row in table(ARCHIVE):
        found.archive.setdefault(row["pool"], []).append(of_row(row))
    for entries in found.archive.values():
        entries.sort(key=lambda entry: (entry.generation, entry.seq))
    return found
