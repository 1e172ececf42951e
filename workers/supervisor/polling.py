"""How soon a supervisor polls a pool again, and how it judges whether another process lives.

A lease is a number that its holder changes every few seconds. A supervisor notes since when it has
not changed, on a clock that also runs while the machine sleeps. Time in which the supervisor itself
observed nothing (Redis was unreachable, or it was suspended) counts only up to a bound, so that one
that polls rarely, because it has too much to do, finds the dead later, but does find them.

An idle pool is not polled, and one at rest seldom: of it only the renewals of its workers are read,
of all such pools together (see `resting_pools`). In any other one a worker may die, or the leader,
without whom nothing is started there. So the pause is a share of the lease, and a death is noticed
about a lease after it whatever `poll_seconds` is. And it is well below the pause that would be too
long to prove anything about a lease.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping
from math import inf
from typing import Any, Final, TypeVar

from eventstore.language.catalogue import Pool
from eventstore.language.forecast import grows_soon
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import Survey

MAX_GAP_SECONDS = 3.0
"""Of a longer pause between two observations of leases only so much counts..."""
GAP_SHARE: Final = 0.25
"""...or this share of the lease, if that is longer."""
LEASE_SHARE: Final = 0.2
MAX_SECONDS: Final = MAX_GAP_SECONDS * 2 / 3
"""The rest is for jitter, and for a poll that comes late."""
REST_POLLS: Final = 30
"""A pool at rest is polled so many times less often..."""
TIMED_POLLS: Final = 5
"""...or so many times, where time alone may change what its policy calls for."""

T = TypeVar("T", bound=Hashable)


def is_idle(survey: Survey, pool: Pool) -> bool:
    """Whether there is no worker to monitor, and nothing to lead: to start, or to delete."""
    busy = survey.workers or survey.unreadable or survey.live
    config = pool.config
    decides = config.min_workers > 0 or config.schedules or config.shadow
    grows = config.scale_policy.forecast == "on" and grows_soon(survey.forecast, survey.ts)
    to_lead = decides or grows or survey.closed == str(pool.created_seq)
    to_lead = to_lead or (pool.replacement is not None and pool.replacement.runs)
    return not busy and (pool.deleted or not to_lead)


def is_at_rest(survey: Survey, pool: Pool) -> bool:
    """Whether a supervisor has nothing to do there before an event, or the end of a lease.

    What is too large is found by reading the memory of processes, which no event says.
    """
    waits = survey.waiting or survey.waiting_isolated or survey.restarting or survey.blocked
    steady = not any(
        one.worker.status is not WorkerStatus.ACTIVE
        or one.worker.cordoned
        or one.stalled
        or one.isolated_agent
        or not one.lease_seconds
        for one in survey.workers
    )
    enough = len(survey.workers) >= max(pool.config.min_workers, 1)
    changes = pool.deleted or survey.closed == str(pool.created_seq) or survey.unreadable
    under_way = survey.consolidation or (pool.replacement and pool.replacement.runs)
    observes = pool.config.memory_max_mb or pool.config.placement_policy
    return enough and steady and not (waits or changes or under_way or observes)


def base_interval(pool: Pool, poll_seconds: float) -> float:
    """How often the leases of a pool's workers are observed, in seconds, before jitter."""
    return min(poll_seconds, pool.config.lease_seconds * LEASE_SHARE, MAX_SECONDS)


def poll_interval(
    survey: Survey,
    pool: Pool,
    *,
    poll_seconds: float,
    lease_late: bool,
    strays: Collection[str] = (),
    rests: bool = False,
) -> float:
    """How many seconds after a survey the next should be made, before jitter; infinite if idle.

    `lease_late`: a lease was not renewed for a while, and a death is to be noticed soon. `strays`:
    workers that run on this host, and may be in no survey. `rests`: the pool is at rest.
    """
    if is_idle(survey, pool) and not strays:
        return inf
    seconds = base_interval(pool, poll_seconds)
    if rests:
        config, policy = pool.config, pool.config.scale_policy
        measures = policy.service_level or policy.forecast == "on"
        timed = measures or config.schedules or config.shadow
        return seconds * (TIMED_POLLS if timed else REST_POLLS)
    return seconds / 4 if lease_late else seconds


def max_gap(lease_seconds: float) -> float:
    """How much of a pause between two observations of leases counts, in seconds."""
    return max(MAX_GAP_SECONDS, lease_seconds * GAP_SHARE)


class Stopwatch:
    """For how long each of a changing set of things has been in it: also a lease unrenewed."""

    def __init__(self) -> None:
        self._since: Mapping[Any, float] = {}
        self._observed_at = 0.0

    def observe(
        self, things: Iterable[T], now: float, *, max_gap_seconds: float = inf
    ) -> dict[T, float]:
        """For how many seconds each of these has been among them.

        A longer pause since the last call counts as `max_gap_seconds`.
        """
        gap = now - self._observed_at
        ignored = max(gap - max_gap_seconds, 0.0) if self._observed_at else 0.0
        self._observed_at = now
        since = {thing: self._since.get(thing, now - ignored) + ignored for thing in things}
        self._since = since
        return {thing: now - start for thing, start in since.items()}
