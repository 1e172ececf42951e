"""What a gateway knows about Redis, the database, and how far the views are."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, execute, shielded
from eventstore.connection.requirements import inspect, server_version
from eventstore.errors import LogError, LogUnreachable, MusterError
from eventstore.log import notices, parked
from eventstore.log.notices import Notice
from gateway.backend.backend import Backend
from gateway.following.subscriptions import well_formed
from projector.queries.views import Position, Timed, is_lost

REDIS_TIMEOUT_SECONDS: Final = 2.0
RECOVER_ADVICE: Final = "`muster recover` rebuilds the log from the archive"


class RedisFacts(Struct, frozen=True, kw_only=True):
    """Sizes in bytes; `memory_limit` 0 means none was set, `memory_system` is the machine's."""

    reachable: bool
    kind: str = ""
    version: str = ""
    memory_used: int = 0
    memory_limit: int = 0
    memory_system: int = 0
    clients: int = 0
    append_only: bool = False
    uptime_seconds: int = 0
    error: str = ""

    @property
    def memory_share(self) -> float:
        """Of its limit, or of the machine where none was set."""
        limit = self.memory_limit or self.memory_system
        return self.memory_used / limit if limit else 0.0


class StoredEvents(Struct, frozen=True, kw_only=True):
    """Which of a pool's events are in Redis. `oldest_ms` is log time.

    `first_seq` is 1 if the first entry is no event: how many have left is not known then.
    """

    entries: int = 0
    first_seq: int = 1
    oldest_ms: int = 0


class ViewFacts(Timed, frozen=True, kw_only=True):
    """How far the views of one log are. `pool` is empty for the catalogue."""

    pool: str
    seq: int
    head: int
    lag_seconds: float
    status: str
    since: int | None = None
    """When this gateway first observed that status, in ms; null while they follow."""
    since_time: datetime | None = None
    lost: bool = False
    """Whether they are stopped until the log is recovered."""


async def redis_facts(backend: Backend) -> RedisFacts:
    """What Redis reports of itself, if it answers soon."""
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
            info = await shielded(lambda: inspect(backend.log.client))
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
        append_only=bool(info.get("aof_enabled", 0)),
        uptime_seconds=int(info.get("uptime_in_seconds", 0)),
    )


async def stored_events(backend: Backend, pool: str) -> StoredEvents:
    """How much of a pool's log is in Redis. Raises `LogUnreachable`."""
    stream = backend.log.keys.pool(pool, "events")
    try:
        entries = await execute(backend.log.client, "XLEN", stream)
        oldest = await execute(backend.log.client, "XRANGE", stream, "-", "+", "COUNT", 1)
    except (*UNREACHABLE, RedisError) as error:
        raise LogUnreachable(f"{stream} cannot be read: {error}") from error
    if not oldest:
        return StoredEvents()
    stream_id, fields = oldest[0]
    milliseconds = int(stream_id.partition(b"-")[0])
    first_seq = int(fields[5]) if well_formed(oldest[0]) else 1
    return StoredEvents(entries=int(entries), first_seq=first_seq, oldest_ms=milliseconds)


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
    pools = list(backend.known_pools()) if redis.reachable else []
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
            counts = await asyncio.gather(*(parked.count(backend.log, name) for name in pools))
    except (LogError, TimeoutError):
        return {}
    return dict(zip(pools, counts, strict=True))


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
