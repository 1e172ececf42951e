"""How soon a supervisor polls a pool again if nothing wakes it.

An idle pool is polled as rarely as the operator configures. In any other one a worker may die, or
the leader, without whom nothing is started there. So the pause is a share of the lease, and a death
is noticed about a lease after it whatever `poll_seconds` is. And it is well below the pause that
would be too long to prove anything (see `liveness`).

Deleted pools stay known, and their number is not bounded: one that is empty is polled once a
minute. Whatever still enters it signals.
"""

from typing import Final

from eventstore.language.catalogue import Pool
from eventstore.log.survey import Survey
from workers.supervisor.liveness import MAX_GAP_SECONDS

LEASE_SHARE: Final = 0.2
MAX_SECONDS: Final = MAX_GAP_SECONDS * 2 / 3
"""The rest is for jitter, and for a poll that comes late."""
IDLE_FACTOR: Final = 2.0
"""The pause at an idle pool, in times of `poll_seconds`."""
DELETED_MIN_SECONDS: Final = 60.0
"""The shortest pause at a deleted pool that is idle."""
IDLE_LEADER_POLLS: Final = 3
"""A leader of an idle pool has so many of them beyond its lease: it polls as rarely."""


def is_idle(survey: Survey, pool: Pool) -> bool:
    """Whether there is no worker to monitor, and nothing to lead."""
    workers = survey.workers or survey.unreadable
    return not (workers or survey.live or _needs_attention(survey, pool))


def poll_interval(survey: Survey, pool: Pool, *, poll_seconds: float, lease_late: bool) -> float:
    """How many seconds after a survey the next one should be made, before jitter.

    `lease_late`: a lease was not renewed for a while, and a death is to be noticed soon.
    """
    if is_idle(survey, pool):
        return idle_poll_interval(pool, poll_seconds=poll_seconds)
    seconds = min(poll_seconds, pool.config.lease_seconds * LEASE_SHARE, MAX_SECONDS)
    return seconds / 4 if lease_late else seconds


def idle_poll_interval(pool: Pool, *, poll_seconds: float) -> float:
    """How many seconds after a poll of an idle pool the next one should be made."""
    return max(poll_seconds * IDLE_FACTOR, DELETED_MIN_SECONDS if pool.deleted else 0.0)


def idle_leader_timeout(pool: Pool, *, poll_seconds: float) -> float:
    """For how many seconds a leader of an idle pool must not renew its lead to count as dead."""
    return pool.config.lease_seconds + IDLE_LEADER_POLLS * idle_poll_interval(
        pool, poll_seconds=poll_seconds
    )


def _needs_attention(survey: Survey, pool: Pool) -> bool:
    """Whether an empty pool is to have workers, or is yet to be deleted."""
    closing = survey.closed == str(pool.created_seq)
    return not pool.deleted and (pool.config.min_workers > 0 or closing)
