"""Nothing that a fold knows is lost in a row, and a new field needs no change of the store."""

from typing import Final, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import MetaData, Table
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.language.agents import Agent, evolve
from eventstore.language.catalogue import Host, Pool
from eventstore.language.events import AgentBody, AgentRequested, Event
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import Worker
from projector.store import tables
from projector.store.mapping import (
    AGENTS,
    agent_of,
    agent_record,
    host_of,
    host_record,
    pool_of,
    pool_record,
    worker_of,
    worker_record,
)
from tests import later
from tests.states import COUNTS, TEXTS, states

CONFIGS = st.builds(PoolConfig, max_workers=st.integers(1, 99), lease_seconds=st.floats(6, 600))
UNKNOWN = st.dictionaries(TEXTS.filter(lambda name: name.isupper()), COUNTS, max_size=2)


COLUMNS: Final = {
    "temper": ("TEXT", "TEXT", False),
    "tries": ("INTEGER", "INTEGER", False),
    "total": ("BIGINT", "BIGINT", False),
    "weight": ("DOUBLE", "DOUBLE PRECISION", False),
    "limit": ("DOUBLE", "DOUBLE PRECISION", True),
    "loud": ("BOOLEAN", "BOOLEAN", False),
    "tone": ("TEXT", "TEXT", False),
    "seen": ("TEXT", "TEXT", False),
    "moved_at": ("BIGINT", "BIGINT", False),
    "names": ("TEXT", "TEXT", False),
    "document": ("TEXT", "TEXT", False),
    "first_error": ("TEXT", "TEXT", False),
}


@given(states(Agent), COUNTS)
def test_an_agent_survives_a_round_trip_through_its_row(agent: Agent, generation: int) -> None:
    assert agent_of(agent_record(agent, generation)) == agent


@given(states(Agent), st.one_of(*map(states, get_args(AgentBody))))
def test_what_is_written_once_never_changes(agent: Agent, body: AgentBody) -> None:
    """Of an agent that has a row, only the other columns are written."""
    assume(not isinstance(body, AgentRequested))
    changed = evolve(agent, Event(body=body, event_id="e", subject=agent.agent_id, ts=1), "p")
    written_once = AGENTS.columns.keys() - set(AGENTS.changing.names) | set(AGENTS.keys)
    assert len(written_once) == 10
    before, after = agent_record(agent, 1), agent_record(changed, 1)
    assert {n: after[n] for n in written_once} == {n: before[n] for n in written_once}


@given(states(Worker), COUNTS, TEXTS)
def test_a_worker_survives_a_round_trip_through_its_row(
    worker: Worker, count: int, isolated: str
) -> None:
    row = worker_record(worker, count, isolated)
    assert (row["agent_count"], row["alone"]) == (count, isolated)
    assert worker_of(row) == worker


@given(states(Pool, config=CONFIGS, unknown=UNKNOWN))
def test_a_pool_survives_a_round_trip_through_its_row_with_settings_of_a_newer_version(
    pool: Pool,
) -> None:
    assert pool_of(pool_record(pool)) == pool


@given(states(Host))
def test_a_host_survives_a_round_trip_through_its_row(host: Host) -> None:
    assert host_of(host_record(host)) == host


@given(states(later.LaterAgent))
def test_an_agent_with_more_fields_comes_back_with_them(agent: later.LaterAgent) -> None:
    """The answer copies those that it has."""
    row = later.ROW.to_row(agent, 1)
    assert list(row)[-len(COLUMNS) :] == list(COLUMNS)
    assert later.ROW.from_row(row) == agent
    answer = later.LaterRow.of(agent, 1)
    assert (answer.temper, answer.moved_at) == (agent.temper, agent.moved_ms)
    assert (answer.process_id, answer.created_at) == (agent.worker_id, agent.requested_ms)


def test_a_field_that_is_added_has_a_column_of_its_type_after_the_others() -> None:
    table = Table("later", MetaData(), *tables._columns(later.ROW))
    added = list(table.columns)[len(AGENTS.columns) :]
    dialects = (sqlite.dialect(), postgresql.dialect())
    assert {
        column.name: (*(column.type.compile(dialect) for dialect in dialects), column.nullable)
        for column in added
    } == COLUMNS


@pytest.mark.parametrize("name", ["agent_id", "role_type", "project_id", "reason"])
def test_what_postgresql_cannot_store_is_replaced_in_every_text(name: str) -> None:
    agent = Agent(agent_id="a", pool_name="p", role_type="r", project_id="x")
    agent = replace(agent, **{name: "a\0b"})
    assert agent_record(agent, 1)[name] == "a\N{REPLACEMENT CHARACTER}b"
