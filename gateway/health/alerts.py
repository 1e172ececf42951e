"""What needs attention. An alert says what, since when, about whom, and what to do."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from eventstore.errors import LogError
from eventstore.language.workers import is_role_problem
from gateway.backend.backend import Backend
from gateway.fallback import LISTED_MAX, read_handover_failures
from gateway.following.counters import Reason
from gateway.health import facts
from gateway.health.alert_rules import Alert, alert_of
from gateway.wire.problems import Problem
from projector.queries.views import EventRow, PoolRow

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


async def current_alerts(backend: Backend, redis: facts.RedisFacts) -> list[Alert]:
    """All alerts that apply now, the critical ones first; also while the database is away."""
    alerts = [*_redis(redis), *_server_state(backend)]
    alerts += [*_lost_commands(backend), *_fallback(backend)]
    try:
        alerts += await _from_views(backend)
        backend.observations.since("the database", "")
    except Problem as problem:
        since = backend.observations.since("the database", "unreachable")
        alerts.append(alert_of("database-unreachable", "database", since=since, reason=problem))
    alerts += [
        alert_of(notice.name, "database", since=notice.since_ms, text=notice.text)
        for notice in await facts.projector_notices(backend)
    ]
    if redis.reachable:
        alerts += [alert async for alert in _untrimmed(backend)]
        alerts += [alert async for alert in _about_workers(backend)]
    parked = await facts.parked_counts(backend, redis)
    alerts += [
        alert_of("parked", pool=pool, count=count) for pool, count in parked.items() if count
    ]
    stopped = backend.tail.stopped.items()
    alerts += [alert_of("tail-stopped", pool=pool, reason=reason) for pool, reason in stopped]
    return sorted(alerts, key=lambda alert: (alert.severity != "critical", -(alert.since or 0)))


async def _from_views(backend: Backend) -> list[Alert]:
    async with backend.read_views() as views:
        events = await facts.recent_events(
            backend, views, ("worker.lost", "agent.failed"), within_ms=WINDOW_MS, limit=EVENTS_MAX
        )
        failed = await views.failed_among([e.subject for e in events if e.type == "agent.failed"])
        pools, lost = await views.pools(), await views.lost_states()
    newest = {(e.type, e.subject): e for e in reversed(events)}.values()
    events = [e for e in newest if e.type != "agent.failed" or e.subject in failed]
    alerts = [alert for pool in pools for alert in _full_pool(pool)]
    alerts += [
        alert_of(
            "state-lost", one.agent_id, pool=one.pool_name, since=one.changed_ms, save=one.save
        )
        for one in lost
    ]
    return [*alerts, *map(_ended, events), *[one async for one in _late_views(backend)]]


def _full_pool(pool: PoolRow) -> Iterator[Alert]:
    maximum, pending = pool.config.get("max_workers"), pool.pending_count
    full = isinstance(maximum, int) and pool.process_count >= maximum
    if full and pending and not pool.available_capacity:
        yield alert_of("pool-at-maximum", pool=pool.pool_name, pending=pending, maximum=maximum)


def _ended(event: EventRow) -> Alert:
    reason = msgspec.json.decode(event.data, type=Reason).reason
    name = event.type.replace(".", "-")
    return alert_of(name, event.subject, pool=event.pool, since=event.ts, reason=reason)


async def _about_workers(backend: Backend) -> AsyncIterator[Alert]:
    """Pools whose agents no worker can run, or have changed what cannot be put back."""
    with suppress(LogError):
        for pool, why in (await backend.log.blocked(backend.pools())).items():
            if is_role_problem(why):
                yield alert_of("role-unavailable", pool=pool, reason=why)
        for pool, what in (await backend.log.damaged(backend.pools())).items():
            yield alert_of("process-damaged", pool=pool, what=what)


async def _late_views(backend: Backend) -> AsyncIterator[Alert]:
    for fact in await facts.view_facts(backend):
        if fact.status != "ok":
            action = (
                f"{facts.RECOVER_ADVICE}; with --dry-run it only says what is lost"
                if fact.lost
                else "nothing was skipped: do what the message says, then restart the projector"
            )
            stopped: dict[str, Any] = {"seq": fact.seq, "status": fact.status, "action": action}
            yield alert_of("projection-stopped", pool=fact.pool, since=fact.since, **stopped)
        elif fact.lag_seconds > LAG_SECONDS:
            events = fact.head - fact.seq
            yield alert_of(
                "projection-lag", pool=fact.pool, seconds=fact.lag_seconds, events=events
            )


def _redis(redis: facts.RedisFacts) -> Iterator[Alert]:
    if not redis.reachable:
        yield alert_of("redis-unreachable", "redis", error=redis.error)
    elif redis.memory_share > MEMORY_SHARE_MAX:
        limit = "its maxmemory"
        action = "raise maxmemory, or end agents: at the limit spawns are refused"
        if not redis.memory_limit:
            limit = "the machine's memory"
            action = "set maxmemory: without it the system ends Redis when memory runs out"
        yield alert_of(
            "redis-memory", "redis", share=redis.memory_share, limit=limit, action=action
        )


def _server_state(backend: Backend) -> Iterator[Alert]:
    """What Redis' INFO, polled in the background, says of its file and its replicas."""
    health, capability = backend.redis_health, backend.capabilities.capability
    if health.aof.needs_rewrite and not health.unreachable:
        yield alert_of("redis-rewrite-needed", "redis")
    if capability is not None and (reason := capability.no_writes_reason):
        yield alert_of("redis-not-enough-replicas", "redis", reason=reason)


def _lost_commands(backend: Backend) -> Iterator[Alert]:
    """What this gateway acknowledged and a recovery could not save."""
    if lost := list(backend.acknowledged_commands.lost):
        listed = ", ".join(f"{one.kind} {one.agent_id}" for one in lost[:COMMANDS_MAX])
        listed += f" and {len(lost) - COMMANDS_MAX} more" if len(lost) > COMMANDS_MAX else ""
        yield alert_of("commands-unsaved", "log", since=lost[-1].ts, count=len(lost), listed=listed)


async def _untrimmed(backend: Backend) -> AsyncIterator[Alert]:
    """Pools whose events pile up in Redis: nothing is trimmed that is not archived."""
    events, age_ms = backend.options.retention.events, backend.options.retention.age_ms
    many = max(events * UNTRIMMED_FACTOR, events + UNTRIMMED_EVENTS_MARGIN)
    old_ms = max(age_ms * UNTRIMMED_FACTOR, age_ms + UNTRIMMED_AGE_MARGIN_MS)
    limits: dict[str, Any] = {"events_max": events, "hours": age_ms / 3_600_000}
    try:
        stored = await facts.stored_events(backend)
    except LogError:
        return
    for pool, found in stored.items():
        entries, oldest_ms = found.entries, found.oldest_ms
        if entries > many or (entries > 1 and backend.log.now_ms(pool) - oldest_ms > old_ms):
            yield alert_of(
                "stream-not-trimmed", pool=pool, since=oldest_ms, entries=entries, **limits
            )


def _fallback(backend: Backend) -> Iterator[Alert]:
    if (fallback := backend.options.fallback) is not None:
        details = {"mode": fallback.mode, "primary": fallback.primary, "reason": fallback.reason}
        yield alert_of("fallback-active", "redis", since=fallback.since_ms, **details)
        if since := fallback.primary_reachable_ms:
            yield alert_of("fallback-can-end", "redis", since=since, primary=fallback.primary)
    path = backend.options.handover_failures_path
    if (failures := read_handover_failures(path)) is not None:
        left = failures.left
        listed = "; ".join(one.description for one in left[:LISTED_MAX])
        listed += f"; and {len(left) - LISTED_MAX} more" if len(left) > LISTED_MAX else ""
        since = failures.since_ms
        yield alert_of("fallback-left-over", "fallback", since=since, path=path, listed=listed)
