"""A pool whose decisions were recorded: how long agents would have waited with its workers."""

from array import array
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from eventstore.language.scale_policy import ScalePolicy
from muster.simulation.arrivals import Load
from muster.simulation.outcome import Curve, Outcome
from muster.simulation.pool import SimulatedPool


class ShadowStep(Struct, frozen=True):
    """At a time, in seconds, a policy would have gone from so many workers to so many."""

    at: float
    current: int
    desired: int


class ReplayedPool(SimulatedPool):
    """Has the workers that were decided on, `start_seconds` after they were.

    A worker that the decision assumed to be empty may have agents here. It ends later, with another
    decision: that matters for waits only, and costs what was decided.
    """

    def __init__(self, slots: int, start_seconds: float, since: float, until: float) -> None:
        super().__init__(ScalePolicy(slots=slots), start_seconds, since, until)
        self._since, self._until = since, until

    def replay(self, load: Load, steps: Sequence[ShadowStep]) -> Outcome:
        """`steps`: the last before the span says with how many workers it begins."""
        before = [step for step in steps if step.at <= self._since]
        later = [step for step in steps if self._since < step.at <= self._until]
        workers = before[-1].desired if before else 0
        coming = deque(later)
        self._begin(self._since, load.present)
        self._have(self._since, workers, 0.0)
        for at, life in load.arrive():
            self._have_until(at, coming)
            self._arrive(at, life)
        self._have_until(self._until, coming)
        outcome = self.outcome
        waited = [*outcome.waits, *(self._until - came for came, _ in self._waiting)]
        outcome.waits = array("d", sorted(waited))
        _sum(outcome, self._since, workers, [*later, ShadowStep(self._until, 0, 0)])
        return outcome

    def _have_until(self, until: float, coming: deque[ShadowStep]) -> None:
        while coming and coming[0].at <= until:
            step = coming.popleft()
            self._advance(step.at)
            self._have(step.at, step.desired, self._start_seconds)
        self._advance(until)

    def _have(self, now: float, desired: int, start_seconds: float) -> None:
        change = desired - len(self._agents) - len(self._starting)
        for _ in range(change):
            self._starting.append((now + start_seconds, self._new_worker()))
        for _ in range(min(-change, len(self._by_agents[0]))):
            worker, _ = self._by_agents[0].popitem()
            del self._agents[worker]

    def _decide(self, now: float) -> None:
        """That was done already."""


def _sum(outcome: Outcome, since: float, workers: int, steps: Sequence[ShadowStep]) -> None:
    """What was decided; the last step is the end."""
    outcome.workers = Curve(outcome.workers.since, outcome.workers.until)
    outcome.workers.step(since, workers)
    outcome.worker_seconds, last_change = 0.0, 0
    for step in steps:
        outcome.worker_seconds += workers * (step.at - since)
        outcome.workers.step(step.at, step.desired if step is not steps[-1] else workers)
        since, workers = step.at, step.desired
        change = step.desired - step.current
        outcome.starts += max(change, 0)
        outcome.stops += max(-change, 0)
        outcome.turns += change * last_change < 0
        last_change = change or last_change
