"""What a gateway knows about Redis, the database, and how far the views are."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from eventstore.connection.requirements import server_version
from eventstore.errors import LogError, MusterError
from eventstore.keys import CATALOGUE
from eventstore.log import notices
from eventstore.log.notices import Notice
from eventstore.log.reader import Entry
from gateway.alerts.facts import RedisFacts, StoredEvents, ViewFacts
from gateway.backend.backend import Backend
from gateway.following.subscriptions import well_formed
from projector.queries.views import EventRow, Position, Views, is_lost

REDIS_TIMEOUT_SECONDS: Final = 2.0


async def redis_facts(backend: Backend) -> RedisFacts:
    """What Redis reports of itself, if it answers soon."""
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
            info = await backend.capabilities.server_info()
    except MusterError as error:
        return RedisFacts(reachable=False, error=str(error))
    except TimeoutError:
        detail = f"Redis does not answer within {REDIS_TIMEOUT_SECONDS:g} s"
        return RedisFacts(reachable=False, error=detail)
    kind, version = server_version(info)
    return RedisFacts(
        reachable=True,
        kind=kind,
        version=".".join(map(str, version)),
        memory_used=int(info.get("used_memory", 0)),
        memory_limit=int(info.get("maxmemory", 0)),
        memory_system=int(info.get("total_system_memory", 0)),
        clients=int(info.get("connected_clients", 0)),
        append_only=bool(int(info.get("aof_enabled", 0))),
        uptime_seconds=int(info.get("uptime_in_seconds", 0)),
        save_error=_save_error(info),
    )


def _save_error(info: Mapping[str, str]) -> str:
    """What it could not write the last time that it tried."""
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the last write to its append-only file failed"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot (BGSAVE) failed"
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return "the last rewrite of its append-only file failed"
    return ""


def stored(entries: int, oldest: Sequence[Entry]) -> StoredEvents:
    """Of the length of a stream, and its first entry if it has one."""
    if not oldest:
        return StoredEvents()
    stream_id, fields = oldest[0]
    milliseconds = int(stream_id.partition(b"-")[0])
    first_seq = int(fields[5]) if well_formed(oldest[0]) else 1
    return StoredEvents(entries=entries, first_seq=first_seq, oldest_ms=milliseconds)


async def view_facts(backend: Backend, timeout_seconds: float | None = None) -> list[ViewFacts]:
    """Every log that this gateway follows, against what the database says. Raises `Problem`."""
    async with backend.read_views(timeout_seconds):
        positions = await backend.positions()
    facts = []
    for pool, head in backend.tail.heads.items():
        position = positions.get(pool, Position(pool))
        seq, status = position.seq, position.status
        since = head.behind_since(seq)
        lag = max(backend.log.now_ms(pool) - since, 0) / 1000 if since else 0.0
        facts.append(
            ViewFacts(
                pool=pool,
                seq=seq,
                head=max(head.seq, seq),
                lag_seconds=round(lag, 3),
                status=status,
                since=backend.observations.since(f"views:{pool}", "" if status == "ok" else status),
                lost=is_lost(status),
            )
        )
    return facts


async def parked_counts(backend: Backend, redis: RedisFacts) -> dict[str, int]:
    """How many things are parked, by pool; empty if Redis does not answer."""
    if not redis.reachable:
        return {}
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
            known = backend.known_pools()
            counts = await backend.log.ask_about_pools(known, [("HLEN", "parked")])
    except (LogError, TimeoutError):
        return {}
    return {pool: int(count) for pool, [count] in counts.items()}


async def projector_notices(
    backend: Backend, timeout_seconds: float | None = None
) -> Sequence[Notice]:
    """What the projector says of its database; empty if that cannot be read in time."""
    try:
        async with asyncio.timeout(timeout_seconds or REDIS_TIMEOUT_SECONDS):
            return await notices.read(backend.log.client, backend.log.keys)
    except (LogError, TimeoutError, msgspec.MsgspecError):
        return []


def fallback_description(backend: Backend) -> str:
    """Empty, or a sentence: the log replaces another."""
    fallback = backend.options.fallback
    return fallback.description if fallback else ""


async def recent_events(
    backend: Backend,
    views: Views,
    types: Sequence[str],
    *,
    within_ms: int,
    limit: int,
    pools: Sequence[str] | None = None,
) -> list[EventRow]:
    """The newest events of some types, newest first, each by the time of its own log.

    `pools`: only of these.
    """
    now_ms = backend.log.now_ms
    since = min(map(now_ms, (CATALOGUE, *backend.known_pools()))) - within_ms
    events = await views.recent(types, since_ms=since, limit=limit, pools=pools)
    return [one for one in events if one.ts > now_ms(one.pool) - within_ms]
