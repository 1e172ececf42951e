"""Historical state knows live subjects only by start and end events: none may be missing."""

from typing import Any, get_args

import msgspec
import pytest

from eventstore.language import agents, workers
from eventstore.language.events import (
    AgentBody,
    AgentRequested,
    AgentRestartRequested,
    Count,
    Error,
    Event,
    Name,
    Number,
    WorkerBody,
    WorkerRequested,
)
from projector.history.replay import LIFECYCLE_EVENTS

SAMPLES: dict[Any, Any] = {
    str: "x",
    Name: "x",
    Number: 1,
    Count: 1,
    float: 1.0,
    bool: False,
    Error: Error(type="ValueError"),
    msgspec.Raw: msgspec.Raw(b"{}"),
}


def sample(body: Any) -> Any:
    """A body with only what it must have."""
    needed = [f for f in msgspec.structs.fields(body) if f.required]
    return body(**{field.name: SAMPLES[field.type] for field in needed})


def event(body: Any) -> Event:
    return Event(body=sample(body), event_id="e", subject="s", worker_id="w", seq=1, ts=1)


@pytest.mark.parametrize("body", get_args(AgentBody), ids=lambda body: body.type)
def test_an_agent_starts_and_ends_only_with_these_events(body: Any) -> None:
    before = agents.evolve(None, event(AgentRequested), "p")
    after = agents.evolve(before, event(body), "p")
    starts = body in {AgentRequested, AgentRestartRequested}
    assert (after.ended or starts) == (body.type in LIFECYCLE_EVENTS)


@pytest.mark.parametrize("body", get_args(WorkerBody), ids=lambda body: body.type)
def test_a_worker_starts_and_ends_only_with_these_events(body: Any) -> None:
    before = workers.evolve(None, event(WorkerRequested), "p")
    after = workers.evolve(before, event(body), "p")
    assert (after.ended or body is WorkerRequested) == (body.type in LIFECYCLE_EVENTS)
