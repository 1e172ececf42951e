"""What the events that a projector has written add to its metrics."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.language import events
from eventstore.language.catalogue import Catalogue
from eventstore.metrics.exposition import expose
from eventstore.metrics.measures import Measures
from projector.fold.projection import AppliedBatch
from projector.service.event_measures import TRACKED_MAX, EventMeasures, cause_of_loss
from projector.store.rows import EventRow, Position
from tests.metrics import Samples, read
from workers.process.lease import EXIT_LEASE_LOST
from workers.supervisor.replacing import LAPSED


def row(
    kind: str, *, ts: int = 0, subject: str = "a1", incarnation: int = 1, **data: Any
) -> EventRow:
    text = msgspec.json.encode(data).decode()
    return EventRow(
        "p", 1, 1, "1-1", kind, 1, "e", subject, incarnation, "w1", 1, "", "", "", "", ts, text
    )


def counted(*rows: EventRow, now_ms: int = 0) -> Samples:
    measures = Measures()
    _count(EventMeasures(measures), rows, now_ms)
    return read(expose(measures).decode())


def _count(events_of: EventMeasures, rows: Any, now_ms: int = 0) -> None:
    events_of.count(AppliedBatch(Position("p"), Catalogue(), rows=list(rows)), now_ms)


def test_an_agent_is_counted_from_its_request_to_its_end() -> None:
    samples = counted(
        row("agent.requested", ts=1_000),
        row("agent.claimed", ts=3_000),
        row("agent.started", ts=3_500),
        row("agent.terminated", ts=9_000, reason="idle"),
        now_ms=9_250,
    )
    assert samples["muster_spawns_total"] == {("p",): 1}
    assert samples["muster_spawn_schedule_to_start_seconds_sum"] == {("p",): 2.5}
    assert samples["muster_agent_start_seconds_sum"] == {("p",): 0.5}
    assert samples["muster_agents_ended_total"] == {("p", "idle", "terminated"): 1}
    assert samples["muster_projection_lag_seconds_sum"] == {("p",): 8.25}


def test_only_the_first_start_ends_the_wait_of_a_spawn_and_every_start_is_measured() -> None:
    samples = counted(
        row("agent.requested", ts=1_000),
        row("agent.claimed", ts=2_000),
        row("agent.started", ts=3_000),
        row("agent.crashed", ts=4_000),
        row("agent.restarting", ts=5_000, reason="crashed", next_incarnation=2),
        row("agent.claimed", ts=6_000, incarnation=2),
        row("agent.started", ts=8_000, incarnation=2),
    )
    assert samples["muster_spawn_schedule_to_start_seconds_count"] == {("p",): 1}
    assert samples["muster_agent_start_seconds_sum"] == {("p",): 3.0}
    assert samples["muster_restarts_total"] == {("p", "crashed"): 1}


@pytest.mark.parametrize(
    ("kind", "data", "name", "labels"),
    [
        ("agent.failed", {"reason": "start-budget-spent"}, "muster_agents_ended_total",
         ("p", "start-budget-spent", "failed")),
        ("agent.terminated", {"reason": "our own words"}, "muster_agents_ended_total",
         ("p", "other", "terminated")),
        ("agent.released", {"reason": "upgrade of Monday"}, "muster_restarts_total",
         ("p", "other")),
        ("agent.restarting", {"reason": "unavailable: no quota"}, "muster_restarts_total",
         ("p", "unavailable")),
        ("agent.restart_requested", {"reason": "please", "next_incarnation": 2},
         "muster_restarts_total", ("p", "restart-requested")),
        ("pool.scaling_decided", {"reason": "buffer", "current": 1, "desired": 3},
         "muster_scaling_decisions_total", ("up", "p", "buffer")),
        ("pool.scaling_decided", {"reason": "empty", "current": 2, "desired": 1},
         "muster_scaling_decisions_total", ("down", "p", "empty")),
        ("pool.scaling_decided", {"reason": "alone", "current": 2, "desired": 2},
         "muster_scaling_decisions_total", ("held", "p", "other")),
        ("worker.lost", {"reason": "killed by signal 9"}, "muster_workers_lost_total",
         ("killed", "p")),
    ],
)  # fmt: skip
def test_a_reason_is_one_of_a_few(kind: str, data: Any, name: str, labels: tuple[str, ...]) -> None:
    assert counted(row(kind, **data))[name] == {labels: 1}


def test_a_restart_that_a_worker_is_to_carry_out_is_not_counted_twice() -> None:
    requested = row("agent.restart_requested", reason="", next_incarnation=0)
    released = row("agent.released", reason="restart-requested", next_incarnation=2)
    assert counted(requested, released)["muster_restarts_total"] == {("p", "restart-requested"): 1}


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("its lease was not renewed for 10 s; stalled in a.py:1 run", "lease"),
        (f"exited with code {EXIT_LEASE_LOST}; stalled in a.py:1 run", "lease"),
        ("exited with code 70", "exited"),
        ("its memory, 310 MB, was above 1.5 times memory_max_mb", "memory"),
        (LAPSED, "not-started"),
        ("its hash cannot be read: x", "other"),
    ],
)
def test_why_a_worker_was_lost(reason: str, cause: str) -> None:
    assert cause_of_loss(reason) == cause


def test_what_cannot_be_read_is_counted_and_stops_nothing() -> None:
    damaged = EventRow(*(*msgspec.structs.astuple(row("agent.failed"))[:-1], "{"))
    assert counted(damaged)["muster_agents_ended_total"] == {("p", "other", "failed"): 1}


def test_of_agents_that_wait_a_bounded_number_is_remembered(monkeypatch: Any) -> None:
    monkeypatch.setattr("projector.service.event_measures.TRACKED_MAX", 10)
    assert TRACKED_MAX > 10
    measures = EventMeasures(Measures())
    _count(measures, [row(events.AgentRequested.type, subject=str(n)) for n in range(100)])
    _count(measures, [row(events.AgentClaimed.type, subject=str(n)) for n in range(100)])
    assert (len(measures._requested_ms), len(measures._claimed_ms)) == (10, 10)


@given(kind=st.sampled_from(sorted(events.EVENT_TYPES)), data=st.text() | st.just("[" * 10_000))
def test_whatever_is_written_stops_nothing(kind: str, data: str) -> None:
    damaged = EventRow(*(*msgspec.structs.astuple(row(kind))[:-1], data))
    counted(damaged)
