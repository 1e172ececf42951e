"""What needs attention. An alert says what, since when, about whom, and what to do."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.errors import LogUnreachable
from gateway.backend.backend import Backend
from gateway.fallback import LISTED_MAX, read_handover_failures
from gateway.following.counters import Reason
from gateway.health import facts
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


class Rule(Struct, frozen=True):
    """`message` and `action` are filled with the facts of each case."""

    severity: str
    """`warning` or `critical`."""
    message: str
    action: str


RULES: Final[Mapping[str, Rule]] = {
    "pool-at-maximum": Rule(
        "warning",
        "{pending} spawns wait; all {maximum} workers are full",
        "raise max_workers of the pool, or end agents that are not needed",
    ),
    "worker-lost": Rule(
        "warning",
        "worker {subject} was lost: {reason}",
        "its agents were started elsewhere; see the worker's log for the cause",
    ),
    "agent-failed": Rule(
        "critical",
        "agent failed: {reason}",
        "see last_error of the agent; spawn it again once the cause is removed",
    ),
    "projection-stopped": Rule(
        "critical", "the views are stopped at seq {seq}: {status}", "{action}"
    ),
    "projection-lag": Rule(
        "warning",
        "the views are {seconds:.1f} s and {events} events behind",
        "check the projector: is it running, and what does its log say?",
    ),
    "redis-unreachable": Rule(
        "critical",
        "{error}",
        "start Redis, make room on its disk, or repair the network; everything resumes by itself",
    ),
    "redis-memory": Rule("critical", "Redis uses {share:.0%} of {limit}", "{action}"),
    "redis-rewrite-needed": Rule(
        "critical",
        "Redis could not write its append-only file for a while, and may be unable to read it at"
        " its next start",
        "run BGREWRITEAOF there now, before it is restarted; `muster up` does so with its own"
        " server",
    ),
    "redis-not-enough-replicas": Rule(
        "critical",
        "Redis accepts no writes: {reason}",
        "bring a replica back, or CONFIG SET min-replicas-to-write lower: workers lose their"
        " leases meanwhile",
    ),
    "commands-unsaved": Rule(
        "critical",
        "{count} acknowledged commands are not in the recovered log: {listed}",
        "`command.lost` in the gateway's log names them all; send them again",
    ),
    "fallback-active": Rule(
        "warning",
        "a {mode} on a log of its own replaces {primary}, which could not be reached at the"
        " start: {reason}",
        "repair that Redis; agents of its log do not run meanwhile",
    ),
    "fallback-can-end": Rule(
        "warning",
        "{primary} answers again, and this is still the fallback",
        "restart `muster up`: the next start hands over to it",
    ),
    "fallback-left-over": Rule(
        "critical",
        "not handed over from a fallback: {listed}",
        "see {path}; ask again for what is still wanted, then remove that file",
    ),
    "stream-not-trimmed": Rule(
        "warning",
        "{entries:,} events are in Redis; what is above {events_max:,}, or older than {hours:g} h,"
        " should have left it",
        "check the projector: only what it has archived can leave",
    ),
    "parked": Rule(
        "critical",
        "{count} in pool {subject} could not be processed and are parked",
        "`muster parked` says what and why; remove the cause, then retry or drop them",
    ),
    "tail-stopped": Rule(
        "critical", "{reason}", "restart this gateway in the version that writes such events"
    ),
}


class Alert(Struct, frozen=True, kw_only=True):
    """`since` is in milliseconds since 1970, 0 where it is not known."""

    name: str
    severity: str
    subject: str
    message: str
    action: str
    since: int = 0
    pool_name: str = ""


def _alert(
    name: str, subject: str = "", *, pool: str = "", since: int = 0, **details: object
) -> Alert:
    """An alert about a pool (empty: the catalogue), or about another subject."""
    rule, subject = RULES[name], subject or pool or "catalogue"
    message, action = rule.message.format(subject=subject, **details), rule.action.format(**details)
    return Alert(
        name=name,
        severity=rule.severity,
        subject=subject,
        message=message,
        action=action,
        since=since,
        pool_name=pool,
    )


async def current_alerts(backend: Backend, views: Views, redis: facts.RedisFacts) -> list[Alert]:
    """All alerts that apply now, the critical ones first."""
    events = await backend.recent(
        views, ("worker.lost", "agent.failed"), within_ms=WINDOW_MS, limit=EVENTS_MAX
    )
    alerts = [alert for pool in await views.pools() for alert in _full_pool(pool)]
    alerts += map(_ended, events)
    alerts += [alert async for alert in _views(backend)]
    alerts += [*_redis(redis), *_server_state(backend)]
    alerts += [*_lost_commands(backend), *_fallback(backend)]
    if redis.reachable:
        alerts += [alert async for alert in _untrimmed(backend)]
    parked = await facts.parked_counts(backend, redis)
    alerts += [_alert("parked", pool=pool, count=count) for pool, count in parked.items() if count]
    stopped = backend.tail.stopped.items()
    alerts += [_alert("tail-stopped", pool=pool, reason=reason) for pool, reason in stopped]
    return sorted(alerts, key=lambda alert: (alert.severity != "critical", -alert.since))


def _full_pool(pool: PoolRow) -> Iterator[Alert]:
    maximum, pending = pool.config.get("max_workers"), pool.pending_count
    full = isinstance(maximum, int) and pool.process_count >= maximum
    if full and pending and not pool.available_capacity:
        yield _alert("pool-at-maximum", pool=pool.pool_name, pending=pending, maximum=maximum)


def _ended(event: EventRow) -> Alert:
    reason = msgspec.json.decode(event.data, type=Reason).reason
    name = event.type.replace(".", "-")
    return _alert(name, event.subject, pool=event.pool, since=event.ts, reason=reason)


async def _views(backend: Backend) -> AsyncIterator[Alert]:
    for fact in await facts.view_facts(backend):
        if fact.status != "ok":
            action = (
                f"{facts.RECOVER_ADVICE}; with --dry-run it only says what is lost"
                if fact.lost
                else "nothing was skipped: do what the message says, then restart the projector"
            )
            stopped: dict[str, Any] = {"seq": fact.seq, "status": fact.status, "action": action}
            yield _alert("projection-stopped", pool=fact.pool, since=fact.since, **stopped)
        elif fact.lag_seconds > LAG_SECONDS:
            seconds, events = fact.lag_seconds, fact.head - fact.seq
            yield _alert("projection-lag", pool=fact.pool, seconds=seconds, events=events)


def _redis(redis: facts.RedisFacts) -> Iterator[Alert]:
    if not redis.reachable:
        yield _alert("redis-unreachable", "redis", error=redis.error)
    elif redis.memory_share > MEMORY_SHARE_MAX:
        limit = "its maxmemory"
        action = "raise maxmemory, or end agents: at the limit spawns are refused"
        if not redis.memory_limit:
            limit = "the machine's memory"
            action = "set maxmemory: without it the system ends Redis when memory runs out"
        yield _alert("redis-memory", "redis", share=redis.memory_share, limit=limit, action=action)


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
    events, age_ms = backend.options.retention.events, backend.options.retention.age_ms
    many = max(events * UNTRIMMED_FACTOR, events + UNTRIMMED_EVENTS_MARGIN)
    old_ms = max(age_ms * UNTRIMMED_FACTOR, age_ms + UNTRIMMED_AGE_MARGIN_MS)
    limits: dict[str, Any] = {"events_max": events, "hours": age_ms / 3_600_000}
    for pool in backend.pools():
        try:
            stored = await facts.stored_events(backend, pool)
        except LogUnreachable:
            return
        entries, oldest_ms = stored.entries, stored.oldest_ms
        if entries > many or (entries > 1 and backend.log.now_ms(pool) - oldest_ms > old_ms):
            yield _alert(
                "stream-not-trimmed", pool=pool, since=oldest_ms, entries=entries, **limits
            )


def _fallback(backend: Backend) -> Iterator[Alert]:
    if (fallback := backend.options.fallback) is not None:
        details = {"mode": fallback.mode, "primary": fallback.primary, "reason": fallback.reason}
        yield _alert("fallback-active", "redis", since=fallback.since_ms, **details)
        if since := fallback.primary_reachable_ms:
            yield _alert("fallback-can-end", "redis", since=since, primary=fallback.primary)
    path = backend.options.handover_failures_path
    if (failures := read_handover_failures(path)) is not None:
        left = failures.left
        listed = "; ".join(one.description for one in left[:LISTED_MAX])
        listed += f"; and {len(left) - LISTED_MAX} more" if len(left) > LISTED_MAX else ""
        since = failures.since_ms
        yield _alert("fallback-left-over", "fallback", since=since, path=path, listed=listed)
