"""Gathers what the rules of alerts decide on. What cannot be read is left out, and said so."""

import asyncio
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.language.alerts import Case
from eventstore.log.replies import text_of
from eventstore.log.webhooks import WebhookQueue
from gateway.alerts.facts import REDIS, VIEWS, Facts, PoolFacts, ViewFacts, Waiting
from gateway.backend.agent_rows import with_blocked
from gateway.backend.backend import Backend
from gateway.fallback import read_handover_failures
from gateway.health import facts
from gateway.webhooks.deliveries import decoded
from gateway.wire.problems import Problem

_POOL_COMMANDS: Final = (
    ("HMGET", "meta", "blocked", "halted"),
    ("GET", "damaged"),
    ("HLEN", "parked"),
    ("XLEN", "events"),
    ("XRANGE", "events", "-", "+", "COUNT", 1),
)
_PoolDetails = dict[str, dict[str, Any]]
"""Fields of `PoolFacts`, by pool."""


async def gather(backend: Backend, pools: Collection[str] | None = None) -> Facts:
    """All facts; of these pools only (None: of all, and of the catalogue)."""
    names = {CATALOGUE, *backend.known_pools()}
    asked = names if pools is None else names & set(pools)
    redis = await facts.redis_facts(backend)
    details: _PoolDetails = {name: _incidents(backend, name) for name in asked}
    known = set()
    if redis.reachable and await _add_from_redis(backend, asked, details):
        known.add(REDIS)
    views_error, views = "", list[ViewFacts]()
    try:
        await _add_from_views(backend, None if pools is None else sorted(asked), details)
        views = await facts.view_facts(backend)
        known.add(VIEWS)
    except Problem as problem:
        views_error = str(problem)
    now_ms = backend.log.now_ms
    return replace(
        own_facts(backend),
        known=frozenset(known),
        asked=None if pools is None else frozenset(asked),
        pools={
            name: PoolFacts(now_ms=now_ms(name), **found)
            for name, found in details.items()
            if name in asked
        },
        views=views,
        views_error=views_error,
        views_since_ms=backend.observations.since("the database", views_error and "unreachable"),
        redis=redis,
        redis_since_ms=backend.observations.since("redis", "" if redis.reachable else "silent"),
        notices=await facts.projector_notices(backend) if redis.reachable else (),
        undelivered=await _undelivered(backend) if redis.reachable else {},
        **await asyncio.to_thread(_files, backend),
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
        lost_commands=[f"{one.kind} {one.agent_id}" for one in lost],
        lost_commands_ms=lost[-1].ts if lost else 0,
        fallback=backend.options.fallback,
        retention=backend.options.retention,
    )


async def _undelivered(backend: Backend) -> dict[str, tuple[int, str]]:
    """Dead letters by webhook, and the error of the newest; nothing is asked without webhooks."""
    if not backend.options.webhooks:
        return {}
    queue = WebhookQueue(backend.log.client, backend.log.keys)
    try:
        ids = sorted(await queue.dead_ids())
        counts = Counter(one.partition(":")[0] for one in ids)
        newest = {one.partition(":")[0]: one for one in ids}  # an id has its time
        found = decoded(await queue.dead_ones([*newest.values()]))
    except LogError:
        return {}
    return {one.webhook: (counts[one.webhook], one.error) for one in found}


def _files(backend: Backend) -> dict[str, Any]:
    """What is in files of this host."""
    path, found = backend.options.handover_failures_path, dict[str, Any]()
    found["handover"], found["handover_path"] = read_handover_failures(path), path
    if backend.options.database_url.startswith("sqlite"):
        folder = Path(backend.views.name).absolute().parent
        try:
            found["disk_free"] = shutil.disk_usage(folder).free
        except OSError:  # the views cannot be read then, which is another alert
            found["disk_free"] = None
        found["disk_path"] = str(folder)
    return found


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


async def _add_from_views(
    backend: Backend, pools: list[str] | None, details: Mapping[str, dict[str, Any]]
) -> None:
    """Raises `Problem`."""
    async with backend.read_views() as views:
        waiting = await views.waiting(pools)
        rows = {pool: await views.pool(pool) for pool in waiting}
        lost = await views.lost_states()
    oldest = await with_blocked(backend, [one.oldest for one in waiting.values()])
    reasons = {row.pool_name: row for row in oldest}
    for pool, one in waiting.items():
        found, row = details.get(pool, {}), rows[pool]
        agent = reasons[pool]
        newest = tuple(Case(agent_id, ts) for agent_id, ts in one.newest)
        found["waiting"] = Waiting(
            count=one.count, since_ms=agent.changed_at, reason=agent.reason, newest=newest
        )
        if row is not None:
            found["maximum"] = int(str(row.config.get("max_workers", 0)))
            found["workers"], found["free"] = row.process_count, row.available_capacity
    states = defaultdict[str, list[Case]](list)
    for agent_state in lost:
        text = f"save {agent_state.save}"
        case = Case(agent_state.agent_id, agent_state.changed_ms, text)
        states[agent_state.pool_name].append(case)
    for pool, cases in states.items():
        details.get(pool, {})["lost_states"] = tuple(cases)
