"""Which workers of a pool are replaced next, and whether those that replace them fail.

Workers with a lower epoch than the replacement's are old. All of them are cordoned first, so that
an agent that is released moves once, to a new worker. Then they drain, at most so many at a time,
those with the fewest agents first. The next ones do so when the new workers have proved themselves:
each is ready, and its first agents run, for a while; one that nothing waits for needs no agents.
Nothing here asks for the time: it is an argument.
"""

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct, field

from eventstore.language.replacement import Replacement
from eventstore.language.workers import Worker, WorkerStatus, is_role_problem
from eventstore.log.survey import ObservedWorker, Survey
from workers.launch.pool_processes import NOT_IMPORTED

PROVEN_SECONDS: Final = 5.0
"""For how long a new worker, or the first of its agents, is to run."""
LAPSED: Final = "it did not start before its deadline"
"""How an order ends that no host has carried out: no fault of the code."""
LOST_MAX: Final = 3
"""So many lost workers stop a replacement: a host may fail, too."""
FAILED_SHARE: Final = 0.5
"""This share of the agents that a new worker got stops it if they fail."""
FAILURES: Final = frozenset({"agent.start_failed", "agent.crashed", "agent.unhealthy"})


class Plan(Struct, frozen=True, kw_only=True):
    """What to do next."""

    finished: bool = False
    cordon: Sequence[Worker] = ()
    retire: Sequence[Worker] = ()
    """These are to drain, at once or at the deadline."""


def plan(
    survey: Survey, replacement: Replacement, proven: Collection[str], workers_max: int
) -> Plan:
    """`proven`: new workers that have proved themselves; `workers_max`: what the pool may have
    now."""
    wanted = min(replacement.workers, workers_max)
    alive = [o for o in survey.workers if o.worker.alive]
    old = [o for o in alive if o.worker.epoch < replacement.epoch]
    staying = [o for o in old if not o.worker.draining]
    new = [o for o in alive if o.worker.epoch >= replacement.epoch and not o.worker.draining]
    ordered = sum(o.worker.status is WorkerStatus.REQUESTED for o in survey.workers)
    unproven = ordered + sum(o.worker.worker_id not in proven for o in new)
    if not old and (not unproven or len(new) + ordered - unproven >= wanted):
        return Plan(finished=True)
    missing = 0  # what nothing waits for was not needed
    if survey.waiting + survey.waiting_isolated > survey.room:
        missing = max(wanted - len(staying) - len(new) - ordered, 0)
    due = sum(o.worker.drain_ms > 0 for o in staying)
    gone = due + max(len(old) - len(staying), unproven + missing)
    candidates = sorted((o for o in staying if not o.worker.drain_ms), key=_cheapest_first)
    count = max(replacement.max_unavailable - gone, 0)
    return Plan(
        cordon=[o.worker for o in candidates[count:] if not o.worker.cordoned],
        retire=[o.worker for o in candidates[:count]],
    )


def _cheapest_first(observed: ObservedWorker) -> tuple[int, str]:
    return observed.agent_count, observed.worker.worker_id


class Happening(Struct, frozen=True):
    """An event of a worker or an agent."""

    kind: str
    subject: str
    worker_id: str
    epoch: int
    why: str
    """Its reason or error."""


class Trial(Struct):
    """What is known of one new worker. Times are in seconds, by one clock."""

    ready_at: float = 0.0
    started_at: float = 0.0
    """When its first agent ran."""
    claimed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    proven: bool = False


class Trials:
    """The new workers of one replacement, as one leader has observed them."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._trials: dict[str, Trial] = {}
        self._lost: set[str] = set()
        self.failure = ""
        """Why the replacement is to stop; empty if it goes on."""

    @property
    def proven(self) -> set[str]:
        return {name for name, trial in self._trials.items() if trial.proven}

    def observe(self, survey: Survey, now: float) -> None:
        """Note which are ready, and since when."""
        for observed in survey.workers:
            worker = observed.worker
            if worker.epoch < self._epoch or not worker.alive:
                continue
            trial = self._trials.setdefault(worker.worker_id, Trial())
            is_ready = worker.status is WorkerStatus.ACTIVE and not observed.stalled
            trial.ready_at = (trial.ready_at or now) if is_ready else 0.0
            since = trial.ready_at
            if trial.claimed:
                since = trial.started_at and trial.ready_at
            elif survey.waiting > 0 and not observed.agent_count:  # it is about to claim
                since = 0.0
            trial.proven |= since > 0 and now - max(since, trial.started_at) >= PROVEN_SECONDS

    def record(self, event: Happening, now: float) -> None:
        """Note an event that was read now."""
        kind, subject = event.kind, event.subject
        if kind == "worker.requested":
            self._trials.setdefault(subject, Trial())
        elif kind in {"worker.lost", "worker.stopped"} and subject in self._trials:
            self._end(event)
        elif kind.startswith("agent.") and event.worker_id and event.epoch >= self._epoch:
            trial = self._trials.setdefault(event.worker_id, Trial())
            if kind == "agent.claimed":
                trial.claimed.add(subject)
            elif kind == "agent.started":
                trial.started_at = trial.started_at or now
            elif kind in FAILURES:
                trial.failed.add(subject)
                failed, claimed = len(trial.failed), len(trial.claimed | trial.failed)
                if failed >= claimed * FAILED_SHARE:
                    self.failure = (
                        f"{failed} of {claimed} agents failed on the new worker {event.worker_id},"
                        f" the last one with {event.why}"
                    )

    def _end(self, event: Happening) -> None:
        del self._trials[event.subject]
        if event.kind == "worker.lost" and event.why != LAPSED:
            self._lost.add(event.subject)
        unusable = is_role_problem(event.why) or event.why.startswith(NOT_IMPORTED)
        if unusable or len(self._lost) >= LOST_MAX:
            self.failure = f"the new worker {event.subject} failed: {event.why}"
