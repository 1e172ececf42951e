"""Gathers what the rules of alerts decide on. What cannot be read is left out, and said so.

All that is asked of Redis goes out in one write, with what else is asked of it at that time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.log.replies import text_of
from eventstore.log.webhooks import WebhookQueue
from gateway.alerts.facts import DATABASE, REDIS, VIEWS, Facts, PoolFacts
from gateway.backend.backend import Backend
from gateway.health import facts
from gateway.health.recent_facts import RecentFacts
from gateway.webhooks.deliveries import decoded

_POOL_COMMANDS: Final = (
    ("HMGET", "meta", "blocked", "halted"),
    ("GET", "damaged"),
    ("HLEN", "parked"),
    ("XLEN", "events"),
    ("XRANGE", "events", "-", "+", "COUNT", 1),
)
_PoolDetails = dict[str, dict[str, Any]]
"""Fields of `PoolFacts`, by pool."""


async def gather(
    backend: Backend, pools: Collection[str] | None = None, recent: RecentFacts | None = None
) -> Facts:
    """All facts; of these pools only (None: of all, and of the catalogue).

    `recent`: what it still knows is not read again.
    """
    recent = recent or RecentFacts(0.0)
    names = {CATALOGUE, *backend.known_pools()}
    asked = names if pools is None else names & set(pools)
    details: _PoolDetails = {name: _incidents(backend, name) for name in asked}
    redis, answered, notices, undelivered = await asyncio.gather(
        facts.redis_facts(backend),
        _add_from_redis(backend, asked, details),
        facts.projector_notices(backend),
        _undelivered(backend),
    )
    seen = {name: dict(found) for name, found in details.items()}
    views = await recent.views(backend, None if pools is None else sorted(asked), seen, notices)
    for name, found in views.pools.items():
        details.get(name, {}).update(found)
    now_ms, (database_known, slow) = backend.log.now_ms, await recent.slow(backend)
    known = {
        REDIS: redis.reachable and answered,
        VIEWS: not views.error,
        DATABASE: database_known and not views.error,
    }
    return replace(
        own_facts(backend),
        known=frozenset(name for name, is_known in known.items() if is_known),
        asked=None if pools is None else frozenset(asked),
        pools={name: PoolFacts(now_ms=now_ms(name), **found) for name, found in details.items()},
        views=views.logs,
        views_error=views.error,
        views_since_ms=backend.observations.since("the database", views.error and "unreachable"),
        redis=redis,
        redis_since_ms=backend.observations.since("redis", "" if redis.reachable else "silent"),
        notices=notices if redis.reachable else (),
        undelivered=undelivered if redis.reachable else {},
        **slow,
    )


def own_facts(backend: Backend) -> Facts:
    """What this gateway knows without asking anyone."""
    capability, lost = backend.capabilities.capability, list(backend.acknowledged_commands.lost)
    now_ms = int(time.time() * 1000)
    return Facts(
        now_ms=now_ms,
        rewrite_needed=backend.redis_health.aof.needs_rewrite,
        no_writes_reason=capability.no_writes_reason if capability else "",
        clock_ahead_ms=backend.log.now_ms(CATALOGUE) - now_ms,
        tail_stopped=dict(backend.tail.stopped),
        certificates=backend.certificates.facts(),
        lost_commands=[f"{one.kind} {one.agent_id}" for one in lost],
        lost_commands_ms=lost[-1].ts if lost else 0,
        fallback=backend.options.fallback,
        retention=backend.options.retention,
    )


async def _undelivered(backend: Backend) -> dict[str, tuple[int, str]]:
    """Dead letters by webhook, and the error of the newest."""
    queue = WebhookQueue(backend.log.client, backend.log.keys)
    try:
        async with asyncio.timeout(facts.REDIS_TIMEOUT_SECONDS):
            ids = sorted(await queue.dead_ids())
            counts = Counter(one.partition(":")[0] for one in ids)
            newest = {one.partition(":")[0]: one for one in ids}  # an id has its time
            found = decoded(await queue.dead_ones([*newest.values()]))
    except (LogError, TimeoutError):
        return {}
    return {one.webhook: (counts[one.webhook], one.error) for one in found}


def _incidents(backend: Backend, pool: str) -> dict[str, Any]:
    """What went wrong in a pool of late, by its events."""
    found = backend.incidents.of(pool, backend.log.now_ms(pool))
    return {
        "lost": tuple(found.lost.values()),
        "failed": tuple(found.failed.values()),
        "looping": tuple(case for case, _ in found.looping.values()),
        "starts": sum(one.starts for one in found.attempts),
        "failures": sum(one.failures for one in found.attempts),
        "failing_since_ms": found.failing_since_ms,
    }


async def _add_from_redis(
    backend: Backend, pools: Iterable[str], details: Mapping[str, dict[str, Any]]
) -> bool:
    """Whether Redis could be asked."""
    try:
        async with asyncio.timeout(facts.REDIS_TIMEOUT_SECONDS):
            replies = await backend.log.ask_about_pools(pools, _POOL_COMMANDS)
    except (LogError, TimeoutError):
        return False
    live = backend.pools()
    for pool, (meta, damaged, parked, entries, oldest) in replies.items():
        found = details[pool]
        found["blocked"], found["halted"] = (text_of(one or b"") for one in meta)
        found["damaged"], found["parked"] = text_of(damaged or b""), int(parked)
        if pool in live:  # the catalogue, and what was deleted, are trimmed otherwise
            found["stored"] = facts.stored(int(entries), oldest)
    return True
