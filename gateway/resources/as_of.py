"""`?as_of=`: which point in time is requested, and what its answer has to wait for.

A point in time is a time (ISO 8601 with its zone, or ms since 1970), or events (`pool:seq`,
`pool:generation:seq`, several with commas, as in `Muster-Position`), or both. The answer waits, for
a bounded time, for what is later than the archive; then it is refused, or sent with `Muster-Stale`
if it is not known whether more is to come.
"""

import re
import time
from asyncio import sleep, timeout
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import shielded
from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.backend.reading import READ_STATE, ReadState
from gateway.wire.problems import Kind, Problem
from projector.queries.views import AsOf, NotYetArchived, PointInTime, Position, Views

TEXT_LENGTH_MAX: Final = 3_000
"""Of the point in time as it is returned; a longer one is reduced to its time."""
CLOCK_TIMEOUT_SECONDS: Final = 2.0
"""How long Redis may take to return the heads of its logs; then only the archive is read."""
_EVENT: Final = re.compile(r"([a-z0-9_-]{0,63}):(?:(\d{1,15}):)?(\d{1,15})")
_MILLISECONDS: Final = re.compile(r"\d{1,15}")
_SPACED_ZONE: Final = re.compile(r" (\d\d:?\d\d)$")


class LogHead(Struct, frozen=True):
    """The last event of a log in Redis."""

    seq: int
    ts: int


def parse(text: str) -> AsOf:
    """Raises `Problem`."""
    at_ms: int | None = None
    events: dict[str, tuple[int | None, int]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        if event := _EVENT.fullmatch(item):
            pool, generation, seq = event.groups()
            if pool in events:
                raise _invalid(f"{f'pool {pool!r}' if pool else 'the catalogue'} is named twice")
            events[pool] = (int(generation) if generation else None, int(seq))
        elif at_ms is None:
            at_ms = _parse_milliseconds(item)
        else:
            raise _invalid_item(item)
    if at_ms is None and not events:
        raise _invalid_item(text)
    return AsOf(at_ms, events)


def _parse_milliseconds(text: str) -> int:
    if _MILLISECONDS.fullmatch(text):
        return int(text)
    try:
        parsed = datetime.fromisoformat(
            _SPACED_ZONE.sub(r"+\1", text)
        )  # a plus sign was decoded to a space
    except ValueError:
        raise _invalid_item(text) from None
    if parsed.tzinfo is None:
        raise _invalid(f"{text[:100]!r} has no time zone; add Z or +01:00")
    return max(int(parsed.timestamp() * 1000), 0)


def _invalid_item(text: str) -> Problem:
    return _invalid(
        "a time (2026-11-24T14:03:00Z, or ms since 1970) or pool:seq was expected, not"
        f" {text[:100]!r}"
    )


def _invalid(why: str) -> Problem:
    return Problem(Kind.INVALID_REQUEST, f"as_of: {why}", field="as_of")


async def resolve(
    request: web.Request, views: Views, text: str, pools: Iterable[str] | None = None
) -> PointInTime:
    """The requested point in time, in some pools or (None) in all; the answer will name it.

    Raises `Problem` and whatever the history raises.
    """
    requested, backend, read_state = parse(text), request.app[BACKEND], request[READ_STATE]
    pool_names = None if pools is None else list(pools)
    deadline = time.monotonic() + backend.limits.catch_up_seconds
    positions = await views.positions()
    for pool, (_, seq) in requested.events.items():
        if pool not in positions and pool != CATALOGUE:
            await _require_known_pool(backend, pool)
        if positions.get(pool, Position(pool)).seq < seq:
            await views.wait_for(pool, seq, timeout_seconds=_remaining_seconds(deadline))
    if requested.at_ms is not None:
        await _wait_for_archive(backend, views, read_state, requested, pool_names, deadline)
    point = await views.history.point_in_time(requested, pool_names)
    read_state.position = {p: place.seq for p, place in point.positions.items() if place.seq}
    read_state.as_of = canonical_text(point)
    return point


async def _require_known_pool(backend: Backend, pool: str) -> None:
    """Raises `Problem` if there never was such a pool; never while Redis is unreachable."""
    try:
        await backend.require_known_pool(pool)
    except Problem as problem:
        if pool not in backend.known_pools():  # it was read again
            raise _invalid(
                f"there is no pool {pool!r} (a time is 2026-11-24T14:03:00Z)"
            ) from problem
    except (RedisError, LogError, OSError, TimeoutError):
        return


def canonical_text(point: PointInTime) -> str:
    """The point in time as it can be requested again, without events that came late."""
    text = str(point)
    return text if len(text) <= TEXT_LENGTH_MAX else str(point.at_ms)


async def _wait_for_archive(
    backend: Backend,
    views: Views,
    read_state: ReadState,
    requested: AsOf,
    pools: list[str] | None,
    deadline: float,
) -> None:
    """Wait until every log's archive has all that happened up to then."""
    assert requested.at_ms is not None
    names = [CATALOGUE, *(backend.known_pools() if pools is None else pools)]
    names = [name for name in names if name not in requested.events]
    heads = await _heads_after(backend, requested.at_ms, names, deadline)
    positions = await views.positions()
    for name in names:
        position = positions.get(name, Position(name))
        if position.ts > requested.at_ms:
            continue
        if heads is None:
            read_state.stale = True
        elif position.seq < heads[name].seq:
            remaining_seconds = _remaining_seconds(deadline)
            if not await views.wait_for(name, heads[name].seq, timeout_seconds=remaining_seconds):
                read_state.stale = True


async def _heads_after(
    backend: Backend, at_ms: int, names: list[str], deadline: float
) -> Mapping[str, LogHead] | None:
    """The heads of the logs once their clock has passed a time; None: Redis does not answer."""
    while True:
        try:
            clock, heads = await _heads(backend, names)
        except (RedisError, LogError, OSError, TimeoutError):
            clock, heads = max(map(backend.log.now_ms, names)), None
        if clock > at_ms:
            return heads
        if (at_ms + 1 - clock) / 1000 > _remaining_seconds(deadline):
            log_time = datetime.fromtimestamp(clock / 1000, UTC).isoformat(timespec="milliseconds")
            raise NotYetArchived(
                f"it is not that late yet: the log's time is {log_time} ({clock} ms)"
            )
        await sleep((at_ms + 1 - clock) / 1000)


async def _heads(backend: Backend, names: list[str]) -> tuple[int, Mapping[str, LogHead]]:
    """Redis' time in ms, never before the last event, and the heads of some logs.

    Raises `RedisError`, `LogError`, `OSError` or `TimeoutError` if it does not answer soon.
    """
    keys, client = backend.log.keys, backend.log.client
    metas = [keys.catalogue_meta if n == CATALOGUE else keys.pool(n, "meta") for n in names]

    async def read_heads() -> list[tuple[object, ...]]:
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("TIME")
            for meta in metas:
                pipeline.execute_command("HMGET", meta, "seq", "ts")
            replies: list[tuple[object, ...]] = await pipeline.execute()
            return replies

    backend.redis_health.require_reachable()  # a pipeline does not check that itself
    async with timeout(CLOCK_TIMEOUT_SECONDS):
        (seconds, micros), *heads_found = await shielded(read_heads)
    heads = {
        n: LogHead(_int(seq), _int(ts)) for n, (seq, ts) in zip(names, heads_found, strict=True)
    }
    now = _int(seconds) * 1000 + _int(micros) // 1000
    return max([now, *(head.ts for head in heads.values())]), heads


def _int(value: object) -> int:
    return int(str(value.decode() if isinstance(value, bytes) else value or 0))


def _remaining_seconds(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
