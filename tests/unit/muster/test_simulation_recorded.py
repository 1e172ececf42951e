"""What a pool has gone through, folded from its events in the measures of a simulation."""

import msgspec
import pytest

from eventstore.language.events import AgentReleased, AgentRestartRequested, PoolScalingDecided
from eventstore.language.scale_policy import Behaviour, ScalePolicy
from muster.simulation.pool import SimulatedPool
from muster.simulation.recorded import Recording


def folded(history: str, since: float = 0.0, until: float = 100.0) -> Recording:
    """A line an event: its time, type, subject, and worker."""
    recording = Recording(since, until)
    for line in history.strip().splitlines():
        at, kind, subject, worker_id, *_ = [*line.split(), ""]
        data = ""
        if kind == "pool.scaling_decided":
            current, desired = map(int, worker_id.split(">"))
            decided = PoolScalingDecided("load", current, desired, 0, 0, 0, 0, 0, 9)
            data = msgspec.json.encode(decided).decode()
        elif kind == "agent.released":
            data = msgspec.json.encode(AgentReleased(reason=worker_id, next_incarnation=2)).decode()
        elif kind == "agent.restart_requested":
            requested = AgentRestartRequested(next_incarnation=int(worker_id), reason="")
            data = msgspec.json.encode(requested).decode()
        recording.apply(kind, subject, worker_id, float(at), data)
    recording.finish()
    return recording


def test_an_agent_lives_from_its_first_claim_to_its_end() -> None:
    """A restart does not end it; whoever is withdrawn has waited for as long as it lived."""
    found = folded("""
        1 agent.requested a
        2 agent.requested b
        3 agent.claimed a w
        4 agent.requested c
        5 agent.crashed a w
        6 agent.claimed a w
        8 agent.terminated b
        9 agent.terminated a
        10 agent.claimed c w
    """)
    assert list(found.load.arrive()) == [(1.0, 6.0), (2.0, 6.0), (4.0, 90.0)]
    assert list(found.outcome.waits) == [2.0, 6.0, 6.0]
    assert found.outcome.wait_seconds(0.5) == 6.0


def test_a_restart_of_a_failed_agent_is_another_arrival() -> None:
    found = folded("""
        1 agent.requested a
        2 agent.claimed a w
        3 agent.restart_requested a 0
        5 agent.failed a
        7 agent.restart_requested a 2
        8 agent.claimed a w
        9 agent.terminated a
    """)
    assert list(found.load.arrive()) == [(1.0, 3.0), (7.0, 1.0)]


def test_a_move_is_a_release_for_consolidation() -> None:
    """It ends no life."""
    found = folded("""
        1 agent.requested a
        2 agent.claimed a w
        3 agent.released a moved
        4 agent.claimed a v
        5 agent.released a drain
        6 agent.claimed a v
        9 agent.terminated a
    """)
    assert found.outcome.moves == 1
    assert list(found.load.arrive()) == [(1.0, 7.0)]


HISTORY = """
    1 worker.requested w
    1 agent.requested a
    1 agent.requested gone
    3 worker.started w
    3 agent.claimed a w
    4 agent.terminated gone
    12 agent.requested b
    12 pool.scaling_decided p 1>3
    12 worker.requested v
    12 worker.requested u
    13 pool.scaling_decided p 3>3
    16 worker.started v
    20 worker.started u
    22 agent.claimed b v
    30 agent.terminated a
    40 pool.scaling_decided p 3>2
    41 worker.stopped w
    50 pool.scaling_decided p 2>4
    60 worker.lost u
"""


def test_a_worker_costs_from_its_order_to_its_end() -> None:
    outcome = folded(HISTORY).outcome
    assert (outcome.starts, outcome.stops, outcome.turns) == (3, 2, 2)
    assert outcome.worker_seconds == 40 + 88 + 48


def test_what_was_there_before_the_span_counts_from_its_start() -> None:
    found = folded(HISTORY, since=10.0, until=70.0)
    assert found.load.present == [20.0]
    assert list(found.load.arrive()) == [(12.0, 48.0)]
    assert list(found.outcome.waits) == [10.0]
    assert (found.outcome.starts, found.outcome.stops) == (2, 2)
    assert found.outcome.worker_seconds == 31 + 58 + 48
    assert list(found.load.everyone()) == [(10.0, 20.0), (12.0, 48.0)]


def test_the_start_of_a_worker_ends_where_it_claims_what_has_waited_for_it() -> None:
    """Before that it has set up its role, perhaps."""
    assert folded(HISTORY).start_seconds == 8  # the median of 2, 8 and 10
    assert folded(HISTORY, since=10.0).start_seconds == 9
    assert folded("1 agent.requested a").start_seconds is None


def test_a_simulation_begins_with_what_was_there_and_lasts_for_the_span() -> None:
    found = folded(HISTORY, since=10.0, until=70.0)
    policy = ScalePolicy(slots=1, min_workers=1, down=Behaviour(window_seconds=0.0))
    outcome = SimulatedPool(policy, 2.0, 10.0, 70.0).run(found.load, lambda *_: None)
    assert (outcome.arrivals, list(outcome.waits)) == (1, [2.0])
    assert (outcome.starts, outcome.stops) == (1, 1)
    assert outcome.worker_seconds == pytest.approx(20 + 58, abs=4)
    again = SimulatedPool(policy, 2.0, 0.0, 100.0).run(folded("").load, lambda *_: None)
    assert again.worker_seconds == pytest.approx(100, abs=4)
