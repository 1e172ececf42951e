"""`?as_of=`: which point in time is requested, and what its answer has to wait for.

A point in time is a time (ISO 8601 with its zone, or ms since 1970), or events (`pool:seq`,
`pool:generation:seq`, several with commas, as in `Muster-Position`), or both. The answer waits, for
a bounded time, for what is later than the archive; then it is refused, or sent with `Muster-Stale`
if it is not known whether more is to come.
"""

import re
import time
from asyncio import sleep, timeout
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from eventstore.connection.calls import execute_many
from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.redis_errors import RedisError
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.wire.problems import Kind, Problem
from projector.queries.views import AgentRow, AsOf, NotYetArchived, PointInTime, Position, Views

TEXT_LENGTH_MAX: Final = 3_000
"""Of the point in time as it is returned; a longer one is reduced to its time."""
CLOCK_TIMEOUT_SECONDS: Final = 2.0
"""How long Redis may take to return the heads of its logs; then only the archive is read."""
_EVENT: Final = re.compile(r"([a-z0-9_-]{0,63}):(?:(\d{1,15}):)?(\d{1,15})")
_MILLISECONDS: Final = re.compile(r"\d{1,15}")
_SPACED_ZONE: Final = re.compile(r" (\d\d:?\d\d)$")


@asynccontextmanager
async def reading(
    call: Call, text: str | None, pools: Collection[str] | None = None
) -> AsyncIterator[tuple[Views, PointInTime | None]]:
    """The views, with all that was acknowledged of some pools (None: of all), or a point in time.

    Raises `Problem` and whatever the history raises.
    """
    backend = call.backend
    if text is None:
        async with backend.read_views() as views:
            await backend.catch_up(views, call.read_state, pools)
            yield views, None
    else:
        async with backend.read_history() as views:
            yield views, await resolve(call, views, text, pools)


def same_point(call: Call) -> dict[str, str]:
    """The parameter with which a next page is about the same point in time, if it is about one."""
    point = call.read_state.as_of
    return {"as_of": point} if point else {}


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
            at_ms = parse_milliseconds(item)
        else:
            raise _invalid_item(item)
    if at_ms is None and not events:
        raise _invalid_item(text)
    return AsOf(at_ms, events)


def parse_milliseconds(text: str, field: str = "as_of") -> int:
    """A time. Raises `Problem`."""
    if _MILLISECONDS.fullmatch(text):
        return int(text)
    try:
        # A plus sign was decoded to a space.
        parsed = datetime.fromisoformat(_SPACED_ZONE.sub(r"+\1", text))
    except ValueError:
        raise _invalid_item(text, field) from None
    if parsed.tzinfo is None:
        raise _invalid(f"{text[:100]!r} has no time zone; add Z or +01:00", field)
    return max(int(parsed.timestamp() * 1000), 0)


def _invalid_item(text: str, field: str = "as_of") -> Problem:
    expected = "a time (2026-11-24T14:03:00Z, or ms since 1970)"
    expected += " or pool:seq" if field == "as_of" else ""
    return _invalid(f"{expected} was expected, not {text[:100]!r}", field)


def _invalid(why: str, field: str = "as_of") -> Problem:
    return Problem(Kind.INVALID_REQUEST, f"{field}: {why}", field=field)


async def resolve(
    call: Call, views: Views, text: str, pools: Collection[str] | None = None
) -> PointInTime:
    """The requested point in time, in some pools or (None) in all; the answer will name it.

    Raises `Problem` and whatever the history raises.
    """
    requested, backend, read_state = parse(text), call.backend, call.read_state
    for pool in requested.events:
        if not call.grant.has_log(pool):
            raise _unknown_pool(backend.pool_not_found(pool))
    deadline = time.monotonic() + backend.limits.catch_up_seconds
    positions = await views.positions()
    for pool, (_, seq) in requested.events.items():
        if pool not in positions and pool != CATALOGUE:
            await _require_known_pool(backend, pool)
        reached = positions.get(pool, Position(pool)).seq
        if reached < seq and await backend.is_in_log(pool, seq):
            await views.wait_for(pool, seq, timeout_seconds=_remaining_seconds(deadline))
    if requested.at_ms is not None:
        every = dict.fromkeys([CATALOGUE, *(backend.known_pools() if pools is None else pools)])
        names = [name for name in every if name not in requested.events]
        await _wait_for_archive(call, views, requested.at_ms, names, deadline)
    point = await views.history.point_in_time(requested, pools)
    read_state.position = {p: place.seq for p, place in point.positions.items() if place.seq}
    # As it can be requested again, without events that came late.
    read_state.as_of = str(point) if len(str(point)) <= TEXT_LENGTH_MAX else str(point.at_ms)
    return point


async def wait_until(call: Call, views: Views, at_ms: int, names: Collection[str]) -> None:
    """Wait, for a bounded time, until the views have all events of these logs up to a time."""
    deadline = time.monotonic() + call.backend.limits.catch_up_seconds
    await _wait_for_archive(call, views, at_ms, list(dict.fromkeys(names)), deadline)
    positions = await views.positions()
    call.read_state.position = {n: positions[n].seq for n in names if n in positions}


async def agent_then(
    call: Call, views: Views, agent_id: str, text: str
) -> tuple[PointInTime, AgentRow]:
    """An agent as it was, and when. Raises `Problem` and whatever the history raises."""
    pool = await views.history.pool_of(agent_id)
    known = pool is not None and call.grant.has_log(pool)
    point = await resolve(call, views, text, [pool] if known and pool else call.grant.logs)
    pool = pool or await views.history.pool_of(agent_id)  # it may have been waited for
    row = await views.history.agent(point, agent_id, pool)
    if row is None:
        raise Problem(Kind.AGENT_NOT_FOUND, f"there was no agent {agent_id} then", field="agent_id")
    return point, row


async def _require_known_pool(backend: Backend, pool: str) -> None:
    """Raises `Problem` if there never was such a pool; never while Redis is unreachable."""
    try:
        await backend.require_known_pool(pool)
    except Problem as problem:
        if pool not in backend.known_pools():  # it was read again
            raise _unknown_pool(problem) from problem
    except (RedisError, LogError, OSError, TimeoutError):
        return


def _unknown_pool(problem: Problem) -> Problem:
    hint = "(a time is 2026-11-24T14:03:00Z)"
    detail, nameless = f"as_of: {problem} {hint}", f"as_of: {problem.nameless} {hint}"
    return Problem(Kind.INVALID_REQUEST, detail, field="as_of", nameless=nameless)


async def _wait_for_archive(
    call: Call, views: Views, at_ms: int, names: list[str], deadline: float
) -> None:
    """Wait until the archive of these logs has all that happened up to then."""
    read_state = call.read_state
    heads = await _heads_after(call.backend, at_ms, names, deadline)
    positions = await views.positions()
    for name in names:
        position = positions.get(name, Position(name))
        if position.ts > at_ms:
            continue
        if heads is None:
            read_state.stale = True
        elif position.seq < (seq := heads[name]):
            archived = await views.wait_for(name, seq, timeout_seconds=_remaining_seconds(deadline))
            read_state.stale |= not archived


async def _heads_after(
    backend: Backend, at_ms: int, names: list[str], deadline: float
) -> Mapping[str, int] | None:
    """The last seqs of the logs once their clock has passed a time; None: Redis does not answer."""
    while True:
        try:
            clock, heads = await _heads(backend, names)
        except (RedisError, LogError, OSError, TimeoutError):
            clock, heads = max(map(backend.log.now_ms, (CATALOGUE, *names))), None
        if clock > at_ms:
            return heads
        if (at_ms + 1 - clock) / 1000 > _remaining_seconds(deadline):
            log_time = datetime.fromtimestamp(clock / 1000, UTC).isoformat(timespec="milliseconds")
            detail = f"it is not that late yet: the log's time is {log_time} ({clock} ms)"
            raise NotYetArchived(detail)
        await sleep((at_ms + 1 - clock) / 1000)


async def _heads(backend: Backend, names: list[str]) -> tuple[int, Mapping[str, int]]:
    """Redis' time in ms, never before the last event, and the last seqs of some logs.

    Raises `RedisError`, `LogError`, `OSError` or `TimeoutError` if it does not answer soon.
    """
    metas = [backend.log.keys.pool(name, "meta") for name in names]
    commands = [("TIME",), *(("HMGET", meta, "seq", "ts") for meta in metas)]
    async with timeout(CLOCK_TIMEOUT_SECONDS):
        (seconds, micros), *heads = await execute_many(backend.log.client, commands)
    seqs = {n: int(seq or 0) for n, (seq, _) in zip(names, heads, strict=True)}
    now = int(seconds) * 1000 + int(micros) // 1000
    return max([now, *(int(ts or 0) for _, ts in heads)]), seqs


def _remaining_seconds(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
