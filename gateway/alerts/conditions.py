"""The conditions of the rules: pure functions of what is known, which name what an alert is about.

A finding says since when its condition holds, as far as that is known: 0 means that it was first
observed now.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct

from eventstore.language.alerts import CASES_MAX, Case
from eventstore.language.workers import is_role_problem
from gateway.alerts.facts import RECOVER_ADVICE, Facts, PoolFacts
from gateway.fallback import LISTED_MAX
from gateway.following.incidents import LEASE
from projector.queries.views import is_lost

LAG_SECONDS: Final = 5.0
MEMORY_SHARE_MAX: Final = 0.8
UNTRIMMED_FACTOR: Final = 2.0
"""So many times what the retention says, in events or in age, is too much …"""
UNTRIMMED_EVENTS_MARGIN: Final = 100_000
UNTRIMMED_AGE_MARGIN_MS: Final = 600_000
"""… if it is also so much more: what one trim pass may leave to the next."""
RATE_MAX: Final = 0.5
RATE_FAILURES_MIN: Final = 10
LEASES_MAX: Final = 2
"""More workers of a pool than this that lost their lease within ten minutes are too many."""
CLOCK_MS_MAX: Final = 10_000
DISK_FREE_MIN: Final = 1024**3
COMMANDS_LISTED: Final = 3


class Finding(Struct, frozen=True, kw_only=True):
    """That a condition holds. `pool`: empty where it is about no pool, or about the catalogue."""

    subject: str
    pool: str = ""
    since_ms: int = 0
    count: int = 1
    newest: tuple[Case, ...] = ()
    details: dict[str, Any] = {}
    held_ms: int = 0
    """For how long it has held, where its rule asks for some time."""


Condition = Callable[[Facts], Iterator[Finding]]


def grouped(pool: str, cases: Sequence[Case], kind: str) -> Iterator[Finding]:
    """One finding of all of them: the count, since the first, and the newest, newest first.

    `kind`: what they are, `agent` or `worker`.
    """
    if not cases:
        return
    ordered = sorted(cases, key=lambda case: case.since)
    last, number = ordered[-1], len(ordered)
    several = f"{number:,} {kind}s" if number > 1 else f"{kind} {last.subject}"
    yield Finding(
        subject=last.subject if number == 1 else pool,
        pool=pool,
        since_ms=ordered[0].since,
        count=number,
        newest=tuple(reversed(ordered[-CASES_MAX:])),
        details={"reason": last.text, "subject": last.subject, "several": several},
    )


# ---- pools and their agents -------------------------------------------------------------------


def pool_at_maximum(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if pool.waiting and 0 < pool.maximum <= pool.workers and not pool.free:
            details = {"pending": pool.waiting.count, "maximum": pool.maximum}
            yield Finding(subject=name, pool=name, details=details)


def pending_too_long(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if (waiting := pool.waiting) is not None:
            yield Finding(
                subject=name,
                pool=name,
                since_ms=waiting.since_ms,
                count=waiting.count,
                newest=waiting.newest,
                held_ms=pool.now_ms - waiting.since_ms,
                details={"reason": waiting.reason, "pending": waiting.count},
            )


def failure_rate(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        tried = max(pool.starts, pool.failures)
        if pool.failures >= RATE_FAILURES_MIN and pool.failures / tried > RATE_MAX:
            details = {"failures": pool.failures, "tried": tried}
            since = pool.failing_since_ms
            yield Finding(subject=name, pool=name, since_ms=since, details=details)


def _cases(of: Callable[[PoolFacts], Sequence[Case]], kind: str, facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        yield from grouped(name, of(pool), kind)


crash_looping: Final[Condition] = partial(_cases, lambda pool: pool.looping, "agent")
agent_failed: Final[Condition] = partial(_cases, lambda pool: pool.failed, "agent")
state_lost: Final[Condition] = partial(_cases, lambda pool: pool.lost_states, "agent")
worker_lost: Final[Condition] = partial(_cases, lambda pool: pool.lost, "worker")


def leases_lost(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        cases = [case for case in pool.lost if case.text.startswith(LEASE)]
        if len(cases) > LEASES_MAX:
            yield from grouped(name, cases, "worker")


def role_unavailable(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if is_role_problem(pool.blocked):
            yield Finding(subject=name, pool=name, details={"reason": pool.blocked})


def process_damaged(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if pool.damaged:
            yield Finding(subject=name, pool=name, details={"what": pool.damaged})


def parked(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if pool.parked:
            yield Finding(subject=name, pool=name, count=pool.parked)


# ---- logs and views -------------------------------------------------------------------


def log_halted(facts: Facts) -> Iterator[Finding]:
    for name, pool in facts.pools.items():
        if pool.halted:
            yield Finding(subject=name or "catalogue", pool=name, details={"reason": pool.halted})


def projection_stopped(facts: Facts) -> Iterator[Finding]:
    for fact in facts.views:
        if fact.status != "ok":
            action = "nothing was skipped: do what the message says, then restart the projector"
            if is_lost(fact.status):
                action = f"{RECOVER_ADVICE}; with --dry-run it only says what is lost"
            details = {"seq": fact.seq, "status": fact.status, "action": action}
            since = fact.since or 0
            yield Finding(
                subject=fact.pool or "catalogue", pool=fact.pool, since_ms=since, details=details
            )


def projection_lag(facts: Facts) -> Iterator[Finding]:
    for fact in facts.views:
        if fact.status == "ok" and fact.lag_seconds > LAG_SECONDS:
            details = {"seconds": fact.lag_seconds, "events": fact.head - fact.seq}
            since = facts.now_ms - int(fact.lag_seconds * 1000)
            yield Finding(
                subject=fact.pool or "catalogue", pool=fact.pool, since_ms=since, details=details
            )


def archive_behind(facts: Facts) -> Iterator[Finding]:
    """Events pile up in Redis: nothing is trimmed that is not archived."""
    events, age_ms = facts.retention.events, facts.retention.age_ms
    many = max(events * UNTRIMMED_FACTOR, events + UNTRIMMED_EVENTS_MARGIN)
    old_ms = max(age_ms * UNTRIMMED_FACTOR, age_ms + UNTRIMMED_AGE_MARGIN_MS)
    for name, pool in facts.pools.items():
        entries, oldest_ms = pool.stored.entries, pool.stored.oldest_ms
        if entries > many or (entries > 1 and pool.now_ms - oldest_ms > old_ms):
            details = {"entries": entries, "events_max": events, "hours": age_ms / 3_600_000}
            yield Finding(subject=name, pool=name, since_ms=oldest_ms, details=details)


def tail_stopped(facts: Facts) -> Iterator[Finding]:
    for name, reason in facts.tail_stopped.items():
        yield Finding(subject=name or "catalogue", pool=name, details={"reason": reason})


def commands_unsaved(facts: Facts) -> Iterator[Finding]:
    if lost := facts.lost_commands:
        listed = ", ".join(lost[:COMMANDS_LISTED])
        more = len(lost) - COMMANDS_LISTED
        listed += f" and {more} more" if more > 0 else ""
        since, details = facts.lost_commands_ms, {"listed": listed}
        yield Finding(subject="log", since_ms=since, count=len(lost), details=details)


def webhook_undelivered(facts: Facts) -> Iterator[Finding]:
    for name, (count, error) in facts.undelivered.items():
        yield Finding(subject=name, count=count, details={"error": error})


# ---- servers -------------------------------------------------------------------


def _notice(name: str, facts: Facts) -> Iterator[Finding]:
    for notice in facts.notices:
        if notice.name == name:
            details = {"text": notice.text}
            yield Finding(subject="database", since_ms=notice.since_ms, details=details)


def notice(name: str) -> Condition:
    """That the projector says something of the database."""
    return partial(_notice, name)


def database_unreachable(facts: Facts) -> Iterator[Finding]:
    if facts.views_error:
        since, details = facts.views_since_ms, {"reason": facts.views_error}
        yield Finding(subject="database", since_ms=since, details=details)


def redis_unreachable(facts: Facts) -> Iterator[Finding]:
    if not facts.redis.reachable:
        details = {"error": facts.redis.error}
        yield Finding(subject="redis", since_ms=facts.redis_since_ms, details=details)


def redis_memory(facts: Facts) -> Iterator[Finding]:
    redis = facts.redis
    if redis.reachable and redis.memory_share > MEMORY_SHARE_MAX:
        limit = "its maxmemory"
        action = "raise maxmemory, or end agents: at the limit spawns are refused"
        if not redis.memory_limit:
            limit = "the machine's memory"
            action = "set maxmemory: without it the system ends Redis when memory runs out"
        details = {"share": redis.memory_share, "limit": limit, "action": action}
        yield Finding(subject="redis", details=details)


def redis_cannot_save(facts: Facts) -> Iterator[Finding]:
    if facts.redis.save_error:
        yield Finding(subject="redis", details={"error": facts.redis.save_error})


def redis_rewrite_needed(facts: Facts) -> Iterator[Finding]:
    if facts.rewrite_needed and facts.redis.reachable:
        yield Finding(subject="redis")


def redis_not_enough_replicas(facts: Facts) -> Iterator[Finding]:
    if facts.no_writes_reason:
        yield Finding(subject="redis", details={"reason": facts.no_writes_reason})


def clock_differs(facts: Facts) -> Iterator[Finding]:
    ahead = facts.clock_ahead_ms
    if abs(ahead) > CLOCK_MS_MAX:
        way = "ahead of" if ahead > 0 else "behind"
        yield Finding(subject="clock", details={"seconds": abs(ahead) / 1000, "way": way})


def disk_nearly_full(facts: Facts) -> Iterator[Finding]:
    free = facts.disk_free
    if free is not None and free < DISK_FREE_MIN:
        details = {"megabytes": free / 1_000_000, "path": facts.disk_path}
        yield Finding(subject="disk", details=details)


def fallback_active(facts: Facts) -> Iterator[Finding]:
    if (one := facts.fallback) is not None:
        details = {"mode": one.mode, "primary": one.primary, "reason": one.reason}
        yield Finding(subject="redis", since_ms=one.since_ms, details=details)


def fallback_can_end(facts: Facts) -> Iterator[Finding]:
    if (one := facts.fallback) is not None and (since := one.primary_reachable_ms):
        yield Finding(subject="redis", since_ms=since, details={"primary": one.primary})


def fallback_left_over(facts: Facts) -> Iterator[Finding]:
    if (failures := facts.handover) is not None:
        left = failures.left
        listed = "; ".join(one.description for one in left[:LISTED_MAX])
        listed += f"; and {len(left) - LISTED_MAX} more" if len(left) > LISTED_MAX else ""
        details = {"path": facts.handover_path, "listed": listed}
        yield Finding(
            subject="fallback", since_ms=failures.since_ms, count=len(left), details=details
        )
