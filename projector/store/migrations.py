"""Gives the serving tables this version's columns, when its views replace those of another version.

PostgreSQL's tables are altered, never dropped: a query whose snapshot is older than the switch
would find a new table empty, and what others built on a table would be dropped with it, or prevent
that. An SQLite snapshot still has the old tables, so there they are dropped and created.
"""

from typing import Final

from sqlalchemy import Column, Connection, Table, inspect, text
from sqlalchemy.schema import CreateColumn

from projector.store.tables import METADATA, POOL_CAPACITY, SCHEMA, SERVING, VIEWS

LOCK_SECONDS: Final = 3
"""How long one slow reader may block the switch, and with it all later readers."""


def migrate_serving(connection: Connection, prefix: str) -> None:
    """Empty the serving tables and give them the columns of this version.

    A column whose type changes must get a new name. `prefix` is that of the schema.
    """
    connection.execute(text(f"DROP VIEW IF EXISTS {prefix}pool_capacity"))
    if connection.dialect.name == "sqlite":
        for name in VIEWS:
            connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
    else:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        present = inspect(connection).get_table_names(SCHEMA)
        for table in SERVING.all():
            if table.name in present:
                _alter(connection, table)
    METADATA.create_all(connection)
    connection.execute(text(POOL_CAPACITY.format(schema=prefix)))


def _alter(connection: Connection, table: Table) -> None:
    connection.execute(table.delete())
    existing = {column["name"] for column in inspect(connection).get_columns(table.name, SCHEMA)}
    expected = {column.name: column for column in table.columns}
    for name in sorted(existing - expected.keys()):
        _alter_table(connection, table, f'DROP COLUMN "{name}"')
    for name in expected.keys() - existing:
        _alter_table(connection, table, f"ADD COLUMN {_column_sql(connection, expected[name])}")
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def _alter_table(connection: Connection, table: Table, change: str) -> None:
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{table.name} {change}"))


def _column_sql(connection: Connection, column: Column[object]) -> str:
    return str(CreateColumn(column).compile(dialect=connection.dialect))
