"""What needs attention. An alert says what, since when, about whom, and what to do."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.errors import LogUnreachable
from eventstore.retention import Retention
from gateway.backend.backend import Backend
from gateway.fallback import LISTED_MAX, read_handover_failures
from gateway.following.counters import Reason
from gateway.health.alert_rules import RULES
from gateway.health.facts import (
    RECOVER_ADVICE,
    RedisFacts,
    StoredEvents,
    parked_counts,
    stored_events,
    view_facts,
)
from projector.queries.views import EventRow, PoolRow, Views

WINDOW_MS: Final = 600_000
"""For how long a loss or failure is shown."""
LAG_SECONDS: Final = 5.0
MEMORY_SHARE_MAX: Final = 0.8
UNTRIMMED_FACTOR: Final = 2.0
"""So many times what the retention says, in events or in age, is too much …"""
UNTRIMMED_EVENTS_MARGIN: Final = 100_000
UNTRIMMED_AGE_MARGIN_MS: Final = 600_000
"""… if it is also so much more: what one trim pass may leave to the next."""
EVENTS_MAX: Final = 100
COMMANDS_MAX: Final = 3


class Alert(Struct, frozen=True, kw_only=True):
    """`since` is in milliseconds since 1970, 0 where it is not known."""

    name: str
    severity: str
    subject: str
    message: str
    action: str
    since: int = 0
    pool_name: str = ""


def _alert(name: str, subject: str, *, pool: str = "", since: int = 0, **facts: object) -> Alert:
    rule = RULES[name]
    return Alert(
        name=name,
        severity=rule.severity,
        subject=subject,
        message=rule.message.format(subject=subject, **facts),
        action=rule.action.format(**facts),
        since=since,
        pool_name=pool,
    )


async def current_alerts(backend: Backend, views: Views, redis: RedisFacts) -> list[Alert]:
    """All alerts that apply now, the critical ones first."""
    events = await backend.recent(
        views, ("worker.lost", "agent.failed"), within_ms=WINDOW_MS, limit=EVENTS_MAX
    )
    alerts = [alert for pool in await views.pools() for alert in _full_pool(pool)]
    alerts += [_ended(event) for event in events]
    alerts += [alert async for alert in _views(backend)]
    alerts += [*_redis(redis), *_server_state(backend), *_lost_commands(backend)]
    alerts += [*_fallback(backend), *_not_handed_over(backend)]
    if redis.reachable:
        alerts += [alert async for alert in _untrimmed(backend)]
    parked = await parked_counts(backend, redis)
    alerts += [
        _alert("parked", pool, pool=pool, count=count) for pool, count in parked.items() if count
    ]
    alerts += [
        _alert("tail-stopped", pool or "catalogue", pool=pool, reason=reason)
        for pool, reason in backend.tail.stopped.items()
    ]
    return sorted(alerts, key=lambda alert: (alert.severity != "critical", -alert.since))


def _full_pool(pool: PoolRow) -> Iterator[Alert]:
    maximum, name = pool.config.get("max_workers"), pool.pool_name
    full = isinstance(maximum, int) and pool.process_count >= maximum
    if full and pool.pending_count and not pool.available_capacity:
        pending = pool.pending_count
        yield _alert("pool-at-maximum", name, pool=name, pending=pending, maximum=maximum)


def _ended(event: EventRow) -> Alert:
    reason = msgspec.json.decode(event.data, type=Reason).reason
    name = event.type.replace(".", "-")
    return _alert(name, event.subject, pool=event.pool, since=event.ts, reason=reason)


async def _views(backend: Backend) -> AsyncIterator[Alert]:
    for fact in await view_facts(backend):
        subject, pool = fact.pool or "catalogue", fact.pool
        if fact.status != "ok":
            action = (
                f"{RECOVER_ADVICE}; with --dry-run it only says what is lost"
                if fact.lost
                else "nothing was skipped: do what the message says, then restart the projector"
            )
            stopped = {"seq": fact.seq, "status": fact.status, "action": action}
            yield _alert("projection-stopped", subject, pool=pool, since=fact.since, **stopped)
        elif fact.lag_seconds > LAG_SECONDS:
            events = fact.head - fact.seq
            yield _alert(
                "projection-lag", subject, pool=pool, seconds=fact.lag_seconds, events=events
            )


def _redis(facts: RedisFacts) -> Iterator[Alert]:
    if not facts.reachable:
        yield _alert("redis-unreachable", "redis", error=facts.error)
    elif facts.memory_share > MEMORY_SHARE_MAX:
        limit, action = (
            ("its maxmemory", "raise maxmemory, or end agents: at the limit spawns are refused")
            if facts.memory_limit
            else (
                "the machine's memory",
                "set maxmemory: without it the system ends Redis when memory runs out",
            )
        )
        yield _alert("redis-memory", "redis", share=facts.memory_share, limit=limit, action=action)


def _server_state(backend: Backend) -> Iterator[Alert]:
    """What Redis' INFO, polled in the background, says of its file and its replicas."""
    health, capability = backend.redis_health, backend.capabilities.capability
    if health.aof.needs_rewrite and not health.unreachable:
        yield _alert("redis-rewrite-needed", "redis")
    if capability is not None and (reason := capability.no_writes_reason):
        yield _alert("redis-not-enough-replicas", "redis", reason=reason)


def _lost_commands(backend: Backend) -> Iterator[Alert]:
    """What this gateway acknowledged and a recovery could not save."""
    if lost := list(backend.acknowledged_commands.lost):
        listed = ", ".join(f"{one.kind} {one.agent_id}" for one in lost[:COMMANDS_MAX])
        listed += f" and {len(lost) - COMMANDS_MAX} more" if len(lost) > COMMANDS_MAX else ""
        yield _alert("commands-unsaved", "log", since=lost[-1].ts, count=len(lost), listed=listed)


async def _untrimmed(backend: Backend) -> AsyncIterator[Alert]:
    """Pools whose events pile up in Redis: nothing is trimmed that is not archived."""
    retention = backend.options.retention
    limits = {"events_max": retention.events, "hours": retention.age_ms / 3_600_000}
    for pool in backend.pools():
        try:
            stored = await stored_events(backend, pool)
        except LogUnreachable:
            return
        if _exceeds_retention(stored, retention, backend.log.now_ms(pool)):
            facts = {"entries": stored.entries, **limits}
            yield _alert("stream-not-trimmed", pool, pool=pool, since=stored.oldest_ms, **facts)


def _exceeds_retention(stored: StoredEvents, retention: Retention, now_ms: int) -> bool:
    age_ms = now_ms - stored.oldest_ms
    many = stored.entries > max(
        retention.events * UNTRIMMED_FACTOR, retention.events + UNTRIMMED_EVENTS_MARGIN
    )
    old = stored.entries > 1 and age_ms > max(
        retention.age_ms * UNTRIMMED_FACTOR, retention.age_ms + UNTRIMMED_AGE_MARGIN_MS
    )
    return many or old


def _fallback(backend: Backend) -> Iterator[Alert]:
    if (fallback := backend.options.fallback) is None:
        return
    facts = {"mode": fallback.mode, "primary": fallback.primary, "reason": fallback.reason}
    yield _alert("fallback-active", "redis", since=fallback.since_ms, **facts)
    if since := fallback.primary_reachable_ms:
        yield _alert("fallback-can-end", "redis", since=since, primary=fallback.primary)


def _not_handed_over(backend: Backend) -> Iterator[Alert]:
    path = backend.options.handover_failures_path
    if (failures := read_handover_failures(path)) is not None:
        left = failures.left
        listed = "; ".join(one.description for one in left[:LISTED_MAX])
        listed += f"; and {len(left) - LISTED_MAX} more" if len(left) > LISTED_MAX else ""
        since = failures.since_ms
        yield _alert("fallback-left-over", "fallback", since=since, path=path, listed=listed)
