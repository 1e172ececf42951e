"""Queries that may not read all rows of a table."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import astuple

from eventstore.language.agents import Agent, Status
from eventstore.language.events import EVENT_TYPES
from projector.queries import selects
from projector.store.mapping import AGENTS
from projector.store.rows import AgentFilter, EventRow
from projector.store.tables import EVENTS, METADATA, POOL_CAPACITY, SERVING, write_rows


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """Views in memory."""
    with sa.create_engine("sqlite://").connect() as connection:
        METADATA.create_all(connection)
        connection.execute(sa.text(POOL_CAPACITY.format(schema="")))
        yield connection


FILTERS = [
    AgentFilter(pool_name=pool, project_id=project, process_id=process, ended=ended, status=status)
    for pool in (None, "p")
    for project in (None, "x")
    for process in (None, "w")
    for ended in (None, True, False)
    for status in ((), ("failed",), ("running", "terminated"))
    if (ended, status) != (False, ("failed",))  # which is no agent's
]
QUERIES: dict[str, Callable[[sa.Connection], object]] = {
    "agent": partial(selects.find_ids, kind="agent", part="01a20b4c-befc", limit=10),
    "worker": partial(selects.find_ids, kind="worker", part="305674", limit=10),
    "project": partial(selects.has_project, project_id="demo"),
    "projects": selects.projects,
    "counts": selects.count_agents,
    "capacity": selects.pools,
    "events": partial(selects.events, pool="p", after_seq=5),
    "newest": partial(selects.recent, types=EVENT_TYPES, since_ms=5),
    **{f"agents {n}": partial(selects.agents, wanted=one) for n, one in enumerate(FILTERS)},
    **{
        f"workers {pool} {ended}": partial(selects.workers, pool=pool, ended=ended)
        for pool in (None, "p")
        for ended in (True, False)
    },
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
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
    scans = ("SCAN agents", "SCAN workers", "SCAN a ", "SCAN w ", "SCAN events")
    assert [step for step in steps if step.startswith(scans)] == []


def test_a_page_of_any_filter_has_the_agents_that_match(connection: sa.Connection) -> None:
    """In the order of their ids, whichever indexes they are found by."""
    choices = (("p", "q"), ("x", "y"), ("", "w"), tuple(Status))
    agents = [
        Agent(
            agent_id=f"a{number:03}", pool_name=pool, project_id=project, worker_id=worker,
            role_type="r", status=status,
        )
        for number, (pool, project, worker, status) in enumerate(product(*choices))
    ]  # fmt: skip
    rows = [AGENTS.all.of(agent, 1) for agent in agents]
    write_rows(connection, SERVING.agents, AGENTS.all.names, rows, "replace")
    for wanted in FILTERS:
        expected = [agent.agent_id for agent in agents if matches(agent, wanted)]
        found = [row.agent_id for row in selects.agents(connection, wanted, limit=1000)]
        assert found == expected, wanted
        page = [row.agent_id for row in selects.agents(connection, wanted, after="a020", limit=3)]
        assert page == [name for name in expected if name > "a020"][:3], wanted


def matches(agent: Agent, wanted: AgentFilter) -> bool:
    return (
        wanted.pool_name in (None, agent.pool_name)
        and wanted.project_id in (None, agent.project_id)
        and wanted.process_id in (None, agent.worker_id)
        and wanted.ended in (None, agent.ended)
        and (not wanted.status or agent.status in wanted.status)
    )


def test_the_newest_events_of_all_types_are_found(connection: sa.Connection) -> None:
    events = [
        EventRow(
            "p", 1, seq, f"{seq}-0", EVENT_TYPES[seq * seq % 7], 1, "", "", 0, "", 0,
            "", "", "", "", 1000 + seq // 3, "{}",
        )
        for seq in range(1, 60)
    ]  # fmt: skip
    names, rows = EventRow.__struct_fields__, list(map(astuple, events))
    write_rows(connection, EVENTS, names, rows, "skip")
    assert selects.recent(connection, EVENT_TYPES, since_ms=1005, limit=10) == events[:-11:-1]
    assert selects.recent(connection, EVENT_TYPES, since_ms=1018) == events[-6:][::-1]
