"""What somebody should look at. An alert says what, since when, about whom, and what to do."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.errors import LogUnreachable
from eventstore.retention import Retention
from gateway.backend.backend import Backend
from gateway.fallback import LISTED_MAX, Fallback, HandoverFailures, read_handover_failures
from gateway.health.facts import (
    RECOVER_ADVICE,
    RedisFacts,
    StoredEvents,
    ViewFacts,
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
"""… if it is also so much more: what one sweep may leave to the next."""
EVENTS_MAX: Final = 100


class Alert(Struct, frozen=True, kw_only=True):
    """`since` is in milliseconds since 1970, 0 where it is not known."""

    name: str
    severity: str
    """`warning` or `critical`."""
    subject: str
    message: str
    action: str
    since: int = 0
    pool_name: str = ""


async def current_alerts(backend: Backend, views: Views, redis: RedisFacts) -> list[Alert]:
    """All alerts that stand now, the critical ones first."""
    alerts = [alert for pool in await views.pools() if (alert := _at_maximum(pool))]
    events = await backend.recent(
        views, ("worker.lost", "agent.failed"), within_ms=WINDOW_MS, limit=EVENTS_MAX
    )
    alerts += [_event_alert(event) for event in events]
    alerts += await _lagging(backend)
    alerts += _redis(redis)
    alerts += _aof_rewrite(backend)
    alerts += _lost_commands(backend)
    alerts += _replicas(backend)
    alerts += _fallback(backend.options.fallback)
    alerts += _handover_failures(
        read_handover_failures(backend.options.handover_failures_path),
        backend.options.handover_failures_path,
    )
    if redis.reachable:
        alerts += await _untrimmed(backend)
    alerts += await _parked(backend, redis)
    alerts += _tail_stopped(backend)
    return sorted(alerts, key=lambda alert: (alert.severity != "critical", -alert.since))


def _at_maximum(pool: PoolRow) -> Alert | None:
    maximum = pool.config.get("max_workers")
    full = isinstance(maximum, int) and pool.process_count >= maximum
    if not (full and pool.pending_count and not pool.available_capacity):
        return None
    return Alert(
        name="pool-at-maximum",
        severity="warning",
        subject=pool.pool_name,
        pool_name=pool.pool_name,
        message=f"{pool.pending_count} spawns wait; all {maximum} workers are full",
        action="raise max_workers of the pool, or end agents that are not needed",
    )


class _Reason(Struct, frozen=True):
    reason: str = ""


def _event_alert(event: EventRow) -> Alert:
    reason = msgspec.json.decode(event.data, type=_Reason).reason
    lost = event.type == "worker.lost"
    return Alert(
        name="worker-lost" if lost else "agent-failed",
        severity="warning" if lost else "critical",
        subject=event.subject,
        pool_name=event.pool,
        message=f"worker {event.subject} was lost: {reason}" if lost else f"agent failed: {reason}",
        action="its agents were started elsewhere; see the worker's log for the cause"
        if lost
        else "see last_error of the agent; spawn it again once the cause is mended",
        since=event.ts,
    )


async def _parked(backend: Backend, redis: RedisFacts) -> list[Alert]:
    return [
        Alert(
            name="parked",
            severity="critical",
            subject=pool,
            pool_name=pool,
            message=f"{count} in pool {pool} could not be processed and stand aside",
            action="`muster parked` says what and why; mend the cause, then retry or drop them",
        )
        for pool, count in (await parked_counts(backend, redis)).items()
        if count
    ]


def _tail_stopped(backend: Backend) -> list[Alert]:
    return [
        Alert(
            name="tail-stopped",
            severity="critical",
            subject=pool or "catalogue",
            pool_name=pool,
            message=why,
            action="start this gateway again in the version that writes such events",
        )
        for pool, why in backend.tail.stopped.items()
    ]


def _stalled(fact: ViewFacts) -> Alert:
    return Alert(
        name="projection-stopped",
        severity="critical",
        subject=fact.pool or "catalogue",
        pool_name=fact.pool,
        message=f"the views stand still at seq {fact.seq}: {fact.status}",
        action=f"{RECOVER_ADVICE}; with --dry-run it only says what is lost"
        if fact.lost
        else "nothing was skipped: do what the message says, then start the projector again",
        since=fact.since,
    )


async def _lagging(backend: Backend) -> Sequence[Alert]:
    facts = await view_facts(backend)
    return [_stalled(fact) for fact in facts if fact.status != "ok"] + [
        Alert(
            name="projection-lag",
            severity="warning",
            subject=fact.pool or "catalogue",
            pool_name=fact.pool,
            message=f"the views are {fact.lag_seconds:.1f} s and {fact.head - fact.seq} events"
            " behind",
            action="look at the projector: is it running, and what does its log say?",
        )
        for fact in facts
        if fact.status == "ok" and fact.lag_seconds > LAG_SECONDS
    ]


def _lost_commands(backend: Backend) -> Sequence[Alert]:
    """What this gateway acknowledged and a recovery could not save."""
    lost = backend.acknowledged_commands.lost
    if not lost:
        return []
    listed = ", ".join(f"{one.kind} {one.agent_id}" for one in list(lost)[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return [
        Alert(
            name="commands-unsaved",
            severity="critical",
            subject="log",
            message=f"{len(lost)} acknowledged commands are not in the recovered log:"
            f" {listed}{more}",
            action="`command.lost` in the gateway's log names them all; send them again",
            since=lost[-1].ts,
        )
    ]


async def _untrimmed(backend: Backend) -> Sequence[Alert]:
    """Pools whose events pile up in Redis: nothing is trimmed that is not archived."""
    alerts = []
    for pool in backend.pools():
        try:
            stored = await stored_events(backend, pool)
        except LogUnreachable:
            return []
        if _exceeds_retention(stored, backend.options.retention, backend.log.now_ms(pool)):
            alerts.append(_untrimmed_alert(pool, stored, backend.options.retention))
    return alerts


def _exceeds_retention(stored: StoredEvents, retention: Retention, now_ms: int) -> bool:
    age_ms = now_ms - stored.oldest_ms
    many = stored.entries > max(
        retention.events * UNTRIMMED_FACTOR, retention.events + UNTRIMMED_EVENTS_MARGIN
    )
    old = stored.entries > 1 and age_ms > max(
        retention.age_ms * UNTRIMMED_FACTOR, retention.age_ms + UNTRIMMED_AGE_MARGIN_MS
    )
    return many or old


def _untrimmed_alert(pool: str, stored: StoredEvents, retention: Retention) -> Alert:
    return Alert(
        name="stream-not-trimmed",
        severity="warning",
        subject=pool,
        pool_name=pool,
        message=f"{stored.entries:,} events stand in Redis; what is above {retention.events:,}, or"
        f" older than {retention.age_ms / 3_600_000:g} h, should have left it",
        action="look at the projector: only what it has archived can leave",
        since=stored.oldest_ms,
    )


def _replicas(backend: Backend) -> Sequence[Alert]:
    capability = backend.capabilities.capability
    if capability is None or not capability.no_writes_reason:
        return []
    return [
        Alert(
            name="redis-not-enough-replicas",
            severity="critical",
            subject="redis",
            message=f"Redis takes no writes: {capability.no_writes_reason}",
            action="bring a replica back, or CONFIG SET min-replicas-to-write lower: workers lose"
            " their leases meanwhile",
        )
    ]


def _redis(facts: RedisFacts) -> Sequence[Alert]:
    if not facts.reachable:
        return [
            Alert(
                name="redis-unreachable",
                severity="critical",
                subject="redis",
                message=facts.error,
                action="start Redis, make room on its disk, or mend the network; everything"
                " resumes by itself",
            )
        ]
    if facts.memory_share > MEMORY_SHARE_MAX:
        return [
            Alert(
                name="redis-memory",
                severity="critical",
                subject="redis",
                message=f"Redis uses {facts.memory_share:.0%} of"
                + (" its maxmemory" if facts.memory_limit else " the machine's memory"),
                action="raise maxmemory, or end agents: at the limit spawns are refused"
                if facts.memory_limit
                else "set maxmemory: without it the system ends Redis when memory runs out",
            )
        ]
    return []


def _aof_rewrite(backend: Backend) -> Sequence[Alert]:
    if not backend.redis_health.aof.needs_rewrite or backend.redis_health.unreachable:
        return []
    return [
        Alert(
            name="redis-rewrite-needed",
            severity="critical",
            subject="redis",
            message="Redis could not write its append-only file for a while, and may be unable to"
            " read it at its next start",
            action="run BGREWRITEAOF there now, before it is restarted; `muster up` does so with"
            " its own server",
        )
    ]


def _fallback(fallback: Fallback | None) -> Sequence[Alert]:
    if fallback is None:
        return []
    active = Alert(
        name="fallback-active",
        severity="warning",
        subject="redis",
        message=f"a {fallback.mode} on a log of its own stands in for {fallback.primary}, which"
        f" could not be reached at the start: {fallback.reason}",
        action="mend that Redis; agents of its log do not run meanwhile",
        since=fallback.since_ms,
    )
    if not fallback.primary_reachable_ms:
        return [active]
    can_end = Alert(
        name="fallback-can-end",
        severity="warning",
        subject="redis",
        message=f"{fallback.primary} answers again, and this is still the fallback",
        action="restart `muster up`: the next start changes over",
        since=fallback.primary_reachable_ms,
    )
    return [active, can_end]


def _handover_failures(failures: HandoverFailures | None, path: str) -> Sequence[Alert]:
    if failures is None:
        return []
    listed = "; ".join(one.description for one in failures.left[:LISTED_MAX])
    more = (
        f"; and {len(failures.left) - LISTED_MAX} more" if len(failures.left) > LISTED_MAX else ""
    )
    return [
        Alert(
            name="fallback-left-over",
            severity="critical",
            subject="fallback",
            message=f"not handed over from a fallback: {listed}{more}",
            action=f"see {path}; ask again for what is still wanted, then remove that file",
            since=failures.since_ms,
        )
    ]
