"""A field that is added to one definition arrives wherever it is to be seen.

`docs/how-to-add.md` lists the changes; each test here fails if one was forgotten.
"""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import fields, replace

from eventstore.language.agents import Agent, shared_fields
from eventstore.language.events import AgentRequested, AgentSpec
from gateway.server.openapi import describe
from gateway.server.routes import OPERATIONS
from gateway.wire.idempotency import digest_of_meaning
from gateway.wire.requests import SpawnRequest
from projector.store.rows import AgentRow, HostRow, PoolRow, WorkerRow
from projector.store.tables import SERVING, VIEW_VERSION
from tests import later
from tests.states import states

NOT_ANSWERED = {
    "agents": {
        "claim_seq",
        "generation",
        "expires_at",
        "correlation_id",
        "last_event_id",
        "has_run",
        "well_at",
        "failures_in_row",
        "losses_in_row",
        "restart",
        "state_sha256",
        "state_lost",
        "discards",
    },
    "workers": {"start_time", "draining", "deadline_at", "last_event_id"},
    "pools": {"deleted", "version", "created_seq"},
    "hosts": {"pid", "version", "last_event_id"},
}
"""Columns that no answer has: a new one is named here, or is a field of the row."""


def test_all_that_an_agent_is_can_be_asked_for() -> None:
    """A field of `AgentSpec` that is none of `SpawnRequest` could never be set."""
    assert set(AgentSpec.__struct_fields__) <= set(SpawnRequest.__struct_fields__)


@given(states(AgentRequested))
def test_all_that_is_asked_for_is_copied_to_the_agent(request: AgentRequested) -> None:
    agent = Agent(agent_id="a", pool_name="p", **shared_fields(request, Agent))
    for name in (*AgentSpec.__struct_fields__, "input", "labels", "expires_ms"):
        assert getattr(agent, name) == getattr(request, name)
    again = AgentRequested(**shared_fields(agent, AgentRequested))
    assert shared_fields(again, Agent) == shared_fields(request, Agent)


def test_every_field_of_a_request_has_somewhere_to_go() -> None:
    known = {*AgentRequested.__struct_fields__, "pool_name"}
    assert set(SpawnRequest.__struct_fields__) <= known


class LaterSpawn(SpawnRequest, frozen=True):
    temper: str = "calm"


def test_a_key_that_an_older_version_remembered_counts_for_a_request_without_the_new_field() -> (
    None
):
    named: dict[str, Any] = {"project_id": "p", "role_type": "r", "pool_name": "n"}
    known = digest_of_meaning(SpawnRequest(**named, labels={"b": "1", "a": "2"}))
    assert digest_of_meaning(LaterSpawn(**named, labels={"a": "2", "b": "1"})) == known
    assert (
        digest_of_meaning(LaterSpawn(**named, labels={"a": "2", "b": "1"}, temper="hot")) != known
    )


@pytest.mark.parametrize(
    ("table", "row"),
    [("agents", AgentRow), ("workers", WorkerRow), ("pools", PoolRow), ("hosts", HostRow)],
)
def test_every_column_is_answered_or_said_not_to_be(table: str, row: type[msgspec.Struct]) -> None:
    columns = {column.name for column in getattr(SERVING, table).columns}
    assert columns - set(row.__struct_fields__) == NOT_ANSWERED[table]


def test_the_version_of_the_views_goes_up_with_their_columns() -> None:
    """Else no projector rebuilds them. Raise `VIEW_VERSION`, then write both here."""
    columns = [f"{t.name}.{c.name} {c.type}" for t in SERVING.all() for c in t.columns]
    digest = hashlib.sha256("\n".join(columns).encode()).hexdigest()[:12]
    assert (VIEW_VERSION, digest) == (14, "6d19249f06c5")


@given(states(later.LaterAgent))
def test_a_new_field_is_in_the_json_of_an_answer(agent: later.LaterAgent) -> None:
    document = msgspec.json.decode(msgspec.json.encode(later.LaterRow.of(agent, 1)))
    assert (document["temper"], document["names"]) == (agent.temper, agent.names)


def test_a_new_field_is_in_the_document_of_the_api() -> None:
    operations = [
        replace(op, shape=later.LaterRow) if op.shape is AgentRow else op for op in OPERATIONS
    ]
    schemas = describe(operations, "0", token=False)["components"]["schemas"]
    shown = schemas["LaterRow"]["properties"]
    assert shown["temper"] == {"type": "string"}
    assert {field.name for field in fields(AgentRow)} < set(shown)
