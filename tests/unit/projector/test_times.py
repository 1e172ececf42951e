"""Times in answers: milliseconds and a date, both null for what has not happened."""

import json
from typing import Any

import msgspec
import pytest

from gateway.alerts.alerts import Alert
from gateway.alerts.facts import ViewFacts
from gateway.health.monitor import AgentHealth
from gateway.resources.parked import ParkedRow
from projector.store.rows import HAPPENED, AgentRow, HostRow, PoolRow, Timed, WorkerRow, times_of

ROWS = (AgentRow, WorkerRow, PoolRow, HostRow, ParkedRow, Alert, ViewFacts, AgentHealth)


def made(shape: type[Timed], milliseconds: int) -> Any:
    """A row whose times are all the same, as JSON."""
    values = {name: milliseconds for name, _ in times_of(shape)}
    others = {
        field.name: {str: "x", int: 1, float: 1.0, bool: True}.get(field.type, {})
        for field in msgspec.structs.fields(shape)
        if field.required and field.name not in values
    }
    return json.loads(msgspec.json.encode(shape(**(others | values))))


@pytest.mark.parametrize("shape", ROWS)
def test_what_has_not_happened_is_null_and_what_has_has_a_date(shape: type[Timed]) -> None:
    never, then = made(shape, 0), made(shape, 1_795_529_010_001)
    assert times_of(shape)
    for name, time_name in times_of(shape):
        assert (never[name], never[time_name]) == (0 if name in HAPPENED else None, None)
        assert then[name] == 1_795_529_010_001
        assert then[time_name] == "2026-11-24T14:03:30.001000Z"


@pytest.mark.parametrize("shape", ROWS)
def test_every_time_in_an_answer_has_a_date_beside_it(shape: type[Timed]) -> None:
    names = shape.__struct_fields__
    times = {name for name in names if name.endswith("_at") or name in ("last_heartbeat", "since")}
    assert times == {name for name, _ in times_of(shape)}


def test_a_time_beyond_all_dates_is_answered_without_one() -> None:
    row = made(WorkerRow, 2**62)
    assert (row["started_at"], row["started_time"]) == (2**62, None)
