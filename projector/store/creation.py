"""Creating tables: their statements are compiled once for a process, and only missing ones run.

SQLAlchemy's `create_all` asks for each table whether it exists, and compiles each statement again.
"""

from collections.abc import Container
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Index
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from projector.store.tables import METADATA, SCHEMA

_DIALECTS: Final = {"sqlite": sqlite, "postgresql": postgresql}
_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {},
    "postgresql": {"schema_translate_map": {None: SCHEMA}, "render_schema_translate": True},
}


def create_missing(connection: Connection, existing: Container[str]) -> None:
    """Create each table that is not among `existing`, with its indexes."""
    for table, statements in _statements(connection.dialect.name).items():
        if table not in existing:
            for statement in statements:
                connection.exec_driver_sql(statement)


@cache
def _statements(dialect_name: str) -> dict[str, tuple[str, ...]]:
    """The statements that create each table, by its name."""
    dialect: Dialect = _DIALECTS[dialect_name].dialect()
    schemas = _SCHEMAS[dialect_name]

    def compiled(element: CreateTable | CreateIndex) -> str:
        return str(element.compile(dialect=dialect, **schemas))

    return {
        table.name: (
            compiled(CreateTable(table)),
            *(compiled(CreateIndex(index)) for index in sorted(table.indexes, key=_name)),
        )
        for table in METADATA.sorted_tables
    }


def _name(index: Index) -> str:
    return str(index.name)
