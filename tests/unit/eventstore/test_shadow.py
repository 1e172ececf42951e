"""What another policy would decide about a live pool."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.scale_policy import PRESETS, Behaviour, ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Observation
from eventstore.language.shadow import Shadow, ShadowDecision, decide_shadow

AT_ONCE = Behaviour(window_seconds=0.0)
REACTIVE = ScalePolicy(down=AT_ONCE, start_seconds=30.0)


@dataclass
class Tried:
    """A policy that is tried on a real pool of ten slots a worker."""

    policy: ScalePolicy = REACTIVE
    shadow: Shadow = field(default_factory=Shadow)

    def decide(self, second: float, load: int, thinness: float = 1.0) -> ShadowDecision:
        seen = Observation(ts=int(second * 1000) + 1, held=load, capacity=1000, workers=100)
        decided, self.shadow = decide_shadow(seen, self.policy, self.shadow, thinness=thinness)
        return decided


def test_it_decides_about_the_workers_that_it_would_have() -> None:
    """Not about the hundred of the real pool: its agents wait for the start of those it orders."""
    tried = Tried()
    first = tried.decide(1, 15)
    assert (first.decision.current, first.decision.desired) == (0, 2)
    assert (first.observed.held, first.observed.waiting) == (0, 15)
    second = tried.decide(20, 15)
    assert (second.decision.current, second.decision.desired) == (2, 2)
    assert (second.observed.held, second.observed.waiting, second.observed.empty) == (0, 15, 0)
    third = tried.decide(32, 15)
    assert (third.observed.held, third.observed.waiting, third.observed.empty) == (15, 0, 0)


def test_a_worker_that_starts_is_not_removed_and_one_that_is_empty_is() -> None:
    tried = Tried(shadow=Shadow(running=1))
    tried.decide(1, 25)
    assert tried.shadow.starting == ((31_001, 2),)
    assert tried.decide(2, 0).decision.desired == 2
    assert tried.shadow == Shadow(running=0, starting=((31_001, 2),), memory=tried.shadow.memory)
    assert tried.decide(40, 0).decision.desired == 0


def test_agents_are_as_thinly_spread_as_they_really_are() -> None:
    """Twenty agents on four workers, where two would do: none of four can be removed."""
    tried = Tried(shadow=Shadow(running=4))
    assert tried.decide(1, 20, thinness=2.0).decision.limit == "occupied"
    assert tried.decide(2, 20, thinness=1.5).decision.desired == 3
    assert tried.decide(3, 20).decision.desired == 2


@given(
    policy=st.sampled_from([REACTIVE, ScalePolicy(buffer_slots=7), PRESETS["proactive"]]),
    steps=st.lists(
        st.tuples(st.floats(0.1, 100.0), st.integers(0, 200), st.floats(1.0, 3.0)), max_size=30
    ),
)
def test_each_decision_can_be_made_again_and_workers_are_never_fewer_than_none(
    policy: ScalePolicy, steps: list[tuple[float, int, float]]
) -> None:
    tried, now, workers = Tried(policy), 0.0, 0
    for seconds, load, thinness in steps:
        now += seconds
        decided = tried.decide(now, load, thinness)
        again, _ = decide_scale(decided.observed, policy, decided.memory)
        assert again == decided.decision
        assert decided.decision.current == workers
        workers = decided.decision.desired
        assert tried.shadow.running >= 0
        assert tried.shadow.running + sum(n for _, n in tried.shadow.starting) == workers
        assert len(tried.shadow.starting) <= len(steps)


@pytest.mark.parametrize(("load", "held"), [(0, 0), (7, 7), (55, 50)])
def test_who_has_no_slot_waits(load: int, held: int) -> None:
    decided = Tried(shadow=Shadow(running=5)).decide(1, load)
    assert (decided.observed.held, decided.observed.waiting) == (held, load - held)


def test_what_is_not_about_workers_is_as_it_really_is() -> None:
    seen = Observation(ts=9, held=3, additional=2, host_room=0, start_ms=7, deleted=True)
    decided, _ = decide_shadow(seen, REACTIVE, Shadow(running=1))
    capacity = {"capacity": 10, "workers": 1, "empty": 0}
    assert decided.observed == replace(seen, **capacity, additional=0, host_room=None)
