"""What a pool has gone through, folded from its recorded events, in the measures of a simulation.

An agent lives from its first claim to its end: a restart in between takes a slot again. It waits
from its request to that claim. A worker costs from its order to its end. An agent that was there
before the span counts as a life from its start, and not as an arrival.
"""

from array import array
from collections import Counter
from statistics import median

import msgspec
from msgspec import Struct

from eventstore.language.consolidation import MOVED
from eventstore.language.events import AgentReleased, AgentRestartRequested, PoolScalingDecided
from muster.simulation.arrivals import Load
from muster.simulation.outcome import Curve, Outcome

ENDS = ("agent.terminated", "agent.failed")
WORKER_ENDS = ("worker.stopped", "worker.lost")
KINDS = (
    "agent.requested", "agent.claimed", "agent.released", "agent.restart_requested", *ENDS,
    "worker.requested", "worker.started", *WORKER_ENDS, "pool.scaling_decided",
)  # fmt: skip
"""The types of events that matter here..."""
WITH_DATA = ("agent.released", "agent.restart_requested", "pool.scaling_decided")
"""...and those of which more than the type does."""


class _Agent(Struct):
    """One that has not ended. Times in seconds."""

    arrival: int
    """Which of the arrivals it is; -1: it was there before."""
    requested: float
    begin_at: float = 0.0
    """When its life began; 0: it waits for its first slot."""


class _Worker(Struct):
    """One that has not ended. Times in seconds."""

    requested: float
    started: float = 0.0
    measured: bool = False


class Recording:
    """The fold. What it stores is 24 bytes for each arrival, and what is alive."""

    def __init__(self, since: float, until: float) -> None:
        self.outcome = Outcome(workers=Curve(since, until), longest=Curve(since, until))
        self._since, self._until = since, until
        self._agents: dict[str, _Agent] = {}
        self._workers: dict[str, _Worker] = {}
        self._arrivals, self._lives, self._waits = array("d"), array("d"), array("d")
        self._present: list[float] = []
        """The lives from the start on of those that were there before."""
        self._starts = array("d")
        self._last_change = 0

    def apply(self, kind: str, subject: str, worker_id: str, at: float, data: str) -> None:
        """One event, in the order of the log. `data`: only of those that are `WITH_DATA`."""
        match kind:
            case "agent.requested":
                self._request(subject, at)
            case "agent.claimed":
                self._claim(subject, worker_id, at)
            case "agent.released" if at >= self._since:
                released = msgspec.json.decode(data, type=AgentReleased)
                self.outcome.moves += released.reason == MOVED
            case "agent.restart_requested" if subject not in self._agents:  # it had failed
                if msgspec.json.decode(data, type=AgentRestartRequested).next_incarnation:
                    self._request(subject, at)
            case "agent.terminated" | "agent.failed":
                if (agent := self._agents.pop(subject, None)) is not None:
                    self._end(agent, at)
            case "worker.requested":
                self._workers[subject] = _Worker(at)
                self._count(at)
                self.outcome.starts += at >= self._since
            case "worker.started":
                if (worker := self._workers.get(subject)) is not None:
                    worker.started = at
            case "worker.stopped" | "worker.lost":
                if (worker := self._workers.pop(subject, None)) is not None:
                    self._stop(worker, at)
                    self.outcome.stops += at >= self._since
            case "pool.scaling_decided" if at >= self._since:
                decided = msgspec.json.decode(data, type=PoolScalingDecided)
                self._turn(decided.desired - decided.current)
            case _:
                pass

    def finish(self) -> None:
        """The span ends: what is alive then has lived so long."""
        for agent in self._agents.values():
            self._end(agent, self._until)
        for worker in self._workers.values():
            self._stop(worker, self._until)
        outcome = self.outcome
        outcome.arrivals = len(self._arrivals)
        for at, wait in zip(self._arrivals, self._waits, strict=True):
            outcome.longest.peak(at, wait)
        counts = Counter(round(wait * 1000) for wait in self._waits)  # fewer than there are waits
        for wait_ms in sorted(counts):
            outcome.waits.extend(array("d", [wait_ms / 1000]) * counts[wait_ms])
        self._waits = array("d")

    @property
    def span(self) -> tuple[float, float]:
        return self._since, self._until

    @property
    def load(self) -> Load:
        """The arrivals and lives, for a simulation; once it is finished."""
        arrivals, lives = self._arrivals, self._lives
        arrive = lambda: zip(arrivals, lives, strict=True)  # noqa: E731
        return Load(arrive, self._present, self._since, self._until)

    @property
    def start_seconds(self) -> float | None:
        """The median of how long a worker took from its order on; None if none has started."""
        return median(self._starts) if self._starts else None

    def _request(self, agent_id: str, at: float) -> None:
        arrival = -1
        if at >= self._since:
            arrival = len(self._arrivals)
            self._arrivals.append(at)
            self._lives.append(0.0)
            self._waits.append(0.0)
        self._agents[agent_id] = _Agent(arrival, at)

    def _claim(self, agent_id: str, worker_id: str, at: float) -> None:
        agent = self._agents.get(agent_id)
        if agent is None or agent.begin_at:
            return
        agent.begin_at = at
        if agent.arrival >= 0:
            self._waits[agent.arrival] = at - agent.requested
        if (worker := self._workers.get(worker_id)) is not None:
            # Waited for, it was ready only now: the set-up of its role comes before.
            self._measure(worker, at if agent.requested < worker.started else worker.started)

    def _end(self, agent: _Agent, at: float) -> None:
        begin_at = agent.begin_at or agent.requested
        if agent.arrival < 0:
            if at > self._since:
                self._present.append(at - self._since)
            return
        self._lives[agent.arrival] = at - begin_at
        if not agent.begin_at:
            self._waits[agent.arrival] = at - begin_at

    def _stop(self, worker: _Worker, at: float) -> None:
        self._measure(worker, worker.started)
        if at > self._since:
            self.outcome.worker_seconds += at - max(worker.requested, self._since)
        self._count(at)

    def _measure(self, worker: _Worker, ready: float) -> None:
        """How long its start took, once."""
        if not worker.measured and worker.started >= self._since:
            self._starts.append(ready - worker.requested)
        worker.measured = True

    def _count(self, at: float) -> None:
        self.outcome.workers.step(at, len(self._workers))

    def _turn(self, change: int) -> None:
        self.outcome.turns += change * self._last_change < 0
        self._last_change = change or self._last_change
