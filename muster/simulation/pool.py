"""A simulated pool: agents come and end, workers start and stop, `decide_scale` decides.

Agents are placed as in a real pool without a placer: the fullest worker that has room gets the
next. Decisions are made when an agent finds no slot, and every `POLL_SECONDS`.
"""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf

from eventstore.language.forecast import STEP_MS, Forecast, LoadHistory
from eventstore.language.load_growth import POLL_SECONDS
from eventstore.language.scale_policy import ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Memory, Observation
from muster.simulation.arrivals import Arrival, Load
from muster.simulation.outcome import Curve, Outcome


class SimulatedPool:
    """One pool that begins empty. `start_seconds`: how long a worker takes to start.

    `since`, `until`: what its curves span. Figures are of what comes from `counted` on.
    """

    def __init__(
        self,
        policy: ScalePolicy,
        start_seconds: float,
        since: float,
        until: float,
        counted: float = -inf,
    ) -> None:
        self.outcome = Outcome(workers=Curve(since, until), longest=Curve(since, until))
        self._counted = counted
        self._policy = policy
        self._start_seconds = start_seconds
        self._memory = Memory()
        self._history = LoadHistory()
        self._forecast: Forecast | None = None
        self._forecast_step = 0
        self._slots = policy.slots
        self._by_agents: list[dict[int, None]] = [{} for _ in range(policy.slots + 1)]
        """The workers with so many agents."""
        self._agents: dict[int, int] = {}
        self._held = 0
        self._starting: deque[tuple[float, int]] = deque()
        self._waiting: deque[Arrival] = deque()
        self._ends: list[tuple[float, int]] = []
        """When agents end, and the worker of each; a negative number is in `_moving`."""
        self._moving: dict[int, int] = {}
        """The workers of agents that may move, or have moved."""
        self._emptying: dict[int, list[int]] = {}
        """Workers that are cordoned in order to be emptied, with their agents."""
        self._ordered_count = 0
        self._last_change = 0
        self._changed_at = 0.0

    def run(self, load: Load, report: Callable[[int], None]) -> Outcome:
        """Simulate until the last agent has ended; `report`: the number of arrivals so far."""
        decided_at = load.since
        if decided_at is not None:
            self._begin(decided_at, load.present)
        for number, (at, life) in enumerate(load.arrive()):
            if decided_at is None:
                self._changed_at = decided_at = at
            while decided_at + POLL_SECONDS < at:
                decided_at = self._poll(decided_at)
            if at >= self._counted:
                self._begin_figures(at)
            self._advance(at)
            self._arrive(at, life)
            if number % 100_000 == 0:
                report(number)
        while decided_at is not None and (
            self._ends or self._waiting or decided_at + POLL_SECONDS <= load.until
        ):
            decided_at = self._poll(decided_at)
        self._add_worker_seconds(decided_at or 0.0)
        self.outcome.waits = array("d", sorted(self.outcome.waits))
        return self.outcome

    def _begin_figures(self, at: float) -> None:
        self._counted = inf
        self._add_worker_seconds(at)
        before = self.outcome
        before.waits = array("d", sorted(before.waits))
        self.outcome = Outcome(workers=before.workers, longest=before.longest)
        if before.arrivals:
            self.outcome.before = before

    def _begin(self, at: float, lives: Sequence[float]) -> None:
        """With agents that were there before, on workers that are full."""
        self._changed_at = at
        for first in range(0, len(lives), self._slots):
            worker, some = self._new_worker(), lives[first : first + self._slots]
            self._by_agents[len(some)][worker] = None
            self._agents[worker] = len(some)
            for life in some:
                heappush(self._ends, (at + life, worker))
        self._held = len(lives)
        self._add_worker_seconds(at)

    def _new_worker(self) -> int:
        self._ordered_count += 1
        return self._ordered_count

    def _poll(self, decided_at: float) -> float:
        now = decided_at + POLL_SECONDS
        self._advance(now)
        self._decide(now)
        return now

    def _advance(self, until: float) -> None:
        """Let agents end and workers start."""
        ends, by_agents = self._ends, self._by_agents
        while True:
            end = ends[0][0] if ends else inf
            if self._starting and self._starting[0][0] <= min(end, until):
                self._start(*self._starting.popleft())
            elif end <= until:
                _, worker = heappop(ends)
                cordoned = False
                if worker < 0:  # so are all of a cordoned worker
                    worker = self._moving.pop(worker)
                    cordoned = worker in self._emptying
                if self._waiting and not cordoned:
                    self._claim(worker, end)
                    continue
                agents = self._agents[worker]
                self._agents[worker] = agents - 1
                if not cordoned:
                    del by_agents[agents][worker]
                    by_agents[agents - 1][worker] = None
                self._held -= 1
            else:
                return

    def _arrive(self, at: float, life: float) -> None:
        self.outcome.arrivals += 1
        by_agents = self._by_agents
        for agents in range(self._slots - 1, -1, -1):
            if by_agents[agents]:
                worker, _ = by_agents[agents].popitem()
                by_agents[agents + 1][worker] = None
                self._agents[worker] = agents + 1
                self._held += 1
                heappush(self._ends, (at + life, worker))
                return
        self._waiting.append((at, life))
        self._decide(at)

    def _start(self, now: float, worker: int) -> None:
        agents = min(len(self._waiting), self._slots)
        for _ in range(agents):
            self._claim(worker, now)
        self._held += agents
        self._agents[worker] = agents
        self._by_agents[agents][worker] = None

    def _claim(self, worker: int, now: float) -> None:
        """The agent that has waited the longest."""
        came, life = self._waiting.popleft()
        self.outcome.waits.append(now - came)
        self.outcome.longest.peak(came, now - came)
        heappush(self._ends, (now + life, worker))

    def _decide(self, now: float) -> None:
        workers = len(self._agents) + len(self._starting)
        emptied = [worker for worker in self._emptying if not self._agents[worker]]
        seen = Observation(
            ts=int(now * 1000) + 1,
            held=self._held,
            waiting=len(self._waiting),
            capacity=workers * self._slots,
            workers=workers,
            empty=len(self._by_agents[0]) + len(emptied),
            start_ms=int(self._start_seconds * 1000),
            forecast=self._expect(now),
        )
        decision, self._memory = decide_scale(seen, self._policy, self._memory)
        if change := decision.desired - decision.current:
            self._add_worker_seconds(now)
            self.outcome.turns += change * self._last_change < 0
            self._last_change = change
            self.outcome.starts += decision.order
            self.outcome.stops += decision.remove
            for _ in range(decision.order):
                self._starting.append((now + self._start_seconds, self._new_worker()))
            for _ in range(decision.remove):
                worker = emptied.pop() if emptied else self._by_agents[0].popitem()[0]
                self._emptying.pop(worker, None)
                del self._agents[worker]
            self.outcome.workers.step(now, workers + change)
        self._consolidate(now, decision.surplus)

    def _consolidate(self, now: float, surplus: int) -> None:
        """Where agents are moved."""

    def _expect(self, now: float) -> Forecast | None:
        """A real forecast is published as each of its steps begins."""
        if self._policy.forecast == "off":
            return None
        ts = int(now * 1000)
        self._history.observe(ts, self._held + len(self._waiting))
        if self._forecast_step != (step := ts // STEP_MS):
            self._forecast_step, self._forecast = step, self._history.forecast()
        return self._forecast

    def _add_worker_seconds(self, now: float) -> None:
        workers = len(self._agents) + len(self._starting)
        self.outcome.workers.step(now, workers)
        self.outcome.worker_seconds += workers * (now - self._changed_at)
        self._changed_at = now
