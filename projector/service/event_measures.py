"""Counts what events say, for Prometheus: each once, by the projector that has written it.

So figures of several projectors may be added up. What a rebuild or a recovery writes is of the
past, and is not counted.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.language import events
from eventstore.language.agents import Agent
from eventstore.metrics.families import CATALOGUE_LABEL
from eventstore.metrics.measures import Measures
from projector.fold.projection import AppliedBatch
from projector.store.rows import EventRow

TRACKED_MAX: Final = 50_000
"""Of so many agents that have not started is remembered when they were requested or claimed."""
OTHER: Final = "other"
"""In place of a reason that someone wrote, of which there is no end."""
END_REASONS: Final = frozenset({
    "requested", "pool-deleted", "completed", "idle", "pending-timeout", "dropped",
    "ended-in-fallback", "restart-budget-spent", "start-budget-spent",
})  # fmt: skip
RESTART_REASONS: Final = frozenset({
    "start_failed", "crashed", "unhealthy", "unavailable", "lost", "state-found", "moved",
    "requested", "restart-requested", "drain", "signal", "stuck", "owner-gone", "stop", "memory",
    "age", "quit", "empty", "pool-deleted", "host-shutdown", "replaced", "code-changed",
    "process-state", "import-failed", "setup-failed", "role-not-declared",
})  # fmt: skip
SCALING_REASONS: Final = frozenset({
    "pending-spawns", "buffer", "service-level", "forecast", "min-workers", "schedule", "empty",
    "pool-deleted",
})  # fmt: skip
LOSS_CAUSES: Final[Mapping[str, str]] = {
    "its lease was not renewed": "lease",
    "exited with code 75": "lease",
    "exited with code": "exited",
    "its process is gone": "exited",
    "killed by signal": "killed",
    "its memory": "memory",
    "it did not start before its deadline": "not-started",
}
"""How the reason of a `worker.lost` begins, and which cause that is; the first one that fits."""


FROM_ZERO: Final = (
    ("muster_spawns_total", ()),
    *(
        ("muster_agents_ended_total", ("failed", f"{kind}-budget-spent"))
        for kind in ("start", "restart")
    ),
    *(
        ("muster_restarts_total", (why,))
        for why in ("crashed", "start_failed", "unhealthy", "lost")
    ),
    *(("muster_workers_lost_total", (cause,)) for cause in ("lease", "killed", "exited")),
)
"""What each pool has from its beginning: Prometheus does not see how a counter came to be 1."""


class _Reason(Struct, frozen=True):
    """What is read of the events whose reason is counted."""

    reason: str = ""
    next_incarnation: int = 0
    current: int = 0
    desired: int = 0


_decoder: Final = msgspec.json.Decoder(_Reason)


class EventMeasures:
    """Measures of the events of all pools."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self.desired_workers: dict[str, int] = {}
        """What the last scaling decision of each pool wanted."""
        self._requested_ms: OrderedDict[str, int] = OrderedDict()
        self._claimed_ms: OrderedDict[str, int] = OrderedDict()
        self._counted: Mapping[str, Callable[[EventRow], None]] = {
            events.AgentRequested.type: self._requested,
            events.AgentClaimed.type: self._claimed,
            events.AgentTerminated.type: self._ended,
            events.AgentFailed.type: self._ended,
            events.AgentRestarting.type: self._restarted,
            events.AgentReleased.type: self._restarted,
            events.AgentRestartRequested.type: self._restart_requested,
            events.WorkerLost.type: self._worker_lost,
            events.PoolScalingDecided.type: self._scaled,
        }

    def count(self, applied: AppliedBatch, now_ms: int) -> None:
        """Count what was committed, at that log time."""
        pool = applied.position.pool
        if applied.rows:
            lag_seconds = max(now_ms - applied.rows[0].ts, 0) / 1000
            name = pool or CATALOGUE_LABEL
            self._measures.observe("muster_projection_lag_seconds", lag_seconds, name)
        for row in applied.rows if pool else ():
            if row.type == events.AgentStarted.type:
                self._started(row, applied.state.agents.get(row.subject))
            elif (count := self._counted.get(row.type)) is not None:
                count(row)

    def start_from_zero(self, pools: Iterable[str]) -> None:
        """Report counters of these pools that alerts are made of before they count anything."""
        for pool in pools:
            for name, labels in FROM_ZERO:
                self._measures.count(name, pool, *labels, by=0)

    def retain_pools(self, pools: Collection[str]) -> None:
        """Forget what was decided for any other pool."""
        for gone in self.desired_workers.keys() - pools:
            del self.desired_workers[gone]

    def _requested(self, row: EventRow) -> None:
        self._measures.count("muster_spawns_total", row.pool)
        _remember(self._requested_ms, row)

    def _claimed(self, row: EventRow) -> None:
        _remember(self._claimed_ms, row)

    def _started(self, row: EventRow, agent: Agent | None) -> None:
        requested_ms = self._requested_ms.pop(row.subject, 0)
        if not requested_ms and row.incarnation == 1 and agent is not None:  # an earlier projector
            requested_ms = agent.requested_ms
        for name, since_ms in (
            ("muster_spawn_schedule_to_start_seconds", requested_ms),
            ("muster_agent_start_seconds", self._claimed_ms.pop(row.subject, 0)),
        ):
            if since_ms:
                self._measures.observe(name, (row.ts - since_ms) / 1000, row.pool)

    def _ended(self, row: EventRow) -> None:
        self._requested_ms.pop(row.subject, None)
        self._claimed_ms.pop(row.subject, None)
        reason, state = _known(_read(row).reason, END_REASONS), row.type.removeprefix("agent.")
        self._measures.count("muster_agents_ended_total", row.pool, state, reason)

    def _restarted(self, row: EventRow) -> None:
        reason = _known(_read(row).reason.partition(":")[0], RESTART_REASONS)
        self._measures.count("muster_restarts_total", row.pool, reason)

    def _restart_requested(self, row: EventRow) -> None:
        if _read(row).next_incarnation:  # else its worker is to release it
            self._measures.count("muster_restarts_total", row.pool, "restart-requested")

    def _worker_lost(self, row: EventRow) -> None:
        self._measures.count(
            "muster_workers_lost_total", row.pool, cause_of_loss(_read(row).reason)
        )

    def _scaled(self, row: EventRow) -> None:
        found = _read(row)
        direction = "held"
        if found.desired != found.current:
            direction = "up" if found.desired > found.current else "down"
        reason = _known(found.reason, SCALING_REASONS)
        self._measures.count("muster_scaling_decisions_total", row.pool, direction, reason)
        self.desired_workers[row.pool] = found.desired


def cause_of_loss(reason: str) -> str:
    """Why a worker was declared lost, in one of a few words."""
    causes = (cause for start, cause in LOSS_CAUSES.items() if reason.startswith(start))
    return next(causes, OTHER)


def desired_workers(row: EventRow) -> int:
    """What a scaling decision wanted."""
    return _read(row).desired


def _read(row: EventRow) -> _Reason:
    with suppress(msgspec.DecodeError, RecursionError):  # what was written is not to stop for it
        return _decoder.decode(row.data)
    return _Reason()


def _known(reason: str, reasons: frozenset[str]) -> str:
    return reason if reason in reasons else OTHER


def _remember(times: OrderedDict[str, int], row: EventRow) -> None:
    times[row.subject] = row.ts
    if len(times) > TRACKED_MAX:
        times.popitem(last=False)
