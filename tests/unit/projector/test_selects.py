"""Queries that may not read all rows of a table."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from projector.queries import selects
from projector.store.tables import METADATA


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """Views in memory."""
    with sa.create_engine("sqlite://").connect() as connection:
        METADATA.create_all(connection)
        yield connection


@pytest.mark.parametrize(
    "query",
    [
        partial(selects.find_ids, kind="agent", part="01a20b4c-befc", limit=10),
        partial(selects.find_ids, kind="worker", part="305674", limit=10),
        partial(selects.has_project, project_id="demo"),
        selects.projects,
    ],
    ids=["agent", "worker", "project", "projects"],
)
def test_a_look_up_uses_indexes(
    connection: sa.Connection, query: Callable[[sa.Connection], object]
) -> None:
    statements: list[list[str]] = []

    def explain(cursor: Any, statement: str, parameters: Any) -> None:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        statements.append([row[3] for row in cursor.fetchall()])

    sa.event.listen(
        connection, "before_cursor_execute",
        lambda _, cursor, statement, parameters, *__: explain(cursor, statement, parameters),
    )  # fmt: skip
    query(connection)
    steps = [step for plan in statements for step in plan]
    assert steps
    assert [step for step in steps if step.startswith(("SCAN agents", "SCAN workers"))] == []
