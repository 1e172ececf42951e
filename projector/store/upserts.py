"""Writes many rows at once, in the fastest way of each database.

PostgreSQL gets one statement with all rows as one JSON text (a statement per row, even pipelined,
takes several times as long, and so do arrays, which the driver writes item by item; COPY cannot
replace rows). SQLite gets one prepared statement, run for each row.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Dialect, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

from projector.store.tables import SCHEMA

Conflict = Literal["skip", "replace"]
"""What to do with a row whose key is already in the table."""


def write_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], conflict: Conflict
) -> None:
    """Insert rows, all with the same columns and no two with the same key."""
    if not rows:
        return
    names = tuple(rows[0])
    statement = _statement(table, names, connection.dialect, conflict)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(statement, [tuple(map(row.get, names)) for row in rows])
    else:
        connection.exec_driver_sql(statement, (msgspec.json.encode(rows).decode(),))


@cache
def _statement(table: Table, names: tuple[str, ...], dialect: Dialect, conflict: Conflict) -> str:
    quoted = {name: dialect.identifier_preparer.quote(name) for name in names}
    keys = [column.name for column in table.primary_key]
    changes = ", ".join(f"{q} = excluded.{q}" for name, q in quoted.items() if name not in keys)
    action = f"UPDATE SET {changes}" if conflict == "replace" else "NOTHING"
    if dialect.name == "sqlite":
        target, values = table.name, f"VALUES ({', '.join('?' * len(names))})"
    else:
        types = (f"{q} {table.c[name].type.compile(dialect)}" for name, q in quoted.items())
        target = f"{SCHEMA}.{table.name}"
        values = f"SELECT * FROM json_to_recordset(%s::json) AS rows ({', '.join(types)})"
    columns, key = ", ".join(quoted.values()), ", ".join(keys)
    return f"INSERT INTO {target} ({columns}) {values} ON CONFLICT ({key}) DO {action}"


def insert_new(connection: Connection, table: Table) -> Insert:
    """INSERT of one row, or nothing where a row with that key exists."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
