"""What shadow policies decided: what it would have cost, and how long agents would have waited."""

import pytest

from muster.simulation.arrivals import Arrival, Load
from muster.simulation.outcome import Outcome
from muster.simulation.replayed import ReplayedPool, ShadowStep


def replayed(
    arrivals: list[Arrival], steps: list[ShadowStep], *, present: tuple[float, ...] = ()
) -> Outcome:
    """Of two slots a worker, from second 100 to 200; a start takes ten seconds."""
    load = Load(lambda: iter(arrivals), present, 100.0, 200.0)
    return ReplayedPool(2, 10.0, 100.0, 200.0).replay(load, steps)


def test_what_was_decided_costs_from_the_decision_on() -> None:
    steps = [
        ShadowStep(50.0, 0, 2), ShadowStep(90.0, 2, 1), ShadowStep(120.0, 1, 3),
        ShadowStep(140.0, 3, 1), ShadowStep(230.0, 1, 9),
    ]  # fmt: skip
    outcome = replayed([], steps)
    assert outcome.worker_seconds == 20 * 1 + 20 * 3 + 60 * 1
    assert (outcome.starts, outcome.stops, outcome.turns) == (2, 2, 1)
    assert outcome.workers.values[190:210] == [1] * 10 + [3] * 10
    assert outcome.workers.values[-1] == 1


def test_an_agent_waits_for_a_slot_of_the_workers_that_were_decided_on() -> None:
    """The first two have one; the next two wait for the start, the last for the end of it all."""
    steps = [ShadowStep(100.0, 1, 1), ShadowStep(112.0, 1, 2), ShadowStep(115.0, 2, 1)]
    arrivals = [(110.0, 90.0), (111.0, 90.0), (112.0, 90.0), (120.0, 90.0), (150.0, 5.0)]
    outcome = replayed(arrivals, steps)
    assert list(outcome.waits) == [2.0, 10.0, 50.0]
    assert outcome.arrivals == 5
    assert outcome.wait_seconds(0.4) == 0


def test_those_that_are_there_have_slots_already() -> None:
    outcome = replayed([(101.0, 9.0)], [ShadowStep(100.0, 2, 2)], present=(30.0, 30.0, 30.0))
    assert (outcome.arrivals, list(outcome.waits)) == (1, [])
    assert outcome.worker_seconds == pytest.approx(200)
