"""Parked agents: listed, restored, or ended.

A damaged hash is rebuilt from the views, so these must have applied all that is in the log. Of two
equal requests the second is answered that nothing is parked any more.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import asdict

from eventstore.errors import Unreadable
from eventstore.log import parked
from eventstore.log.parked import ParkedEntry
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import ParkedId, ParkedQuery, PlaceOfParked, RetryRequest
from gateway.wire.responses import decode_cursor, page_response
from projector.queries.views import Timed


class ParkedRow(ParkedEntry, Timed, frozen=True, kw_only=True):
    """An agent that cannot be read, as it is answered."""

    parked_time: datetime | None = None


def _row(entry: ParkedEntry) -> ParkedRow:
    return ParkedRow(**asdict(entry))


class ParkedList(Struct, frozen=True):
    """The oldest of each pool first. `next` is the address of the next page, if any."""

    parked: Sequence[ParkedRow]
    next: str | None = None


async def list_parked(call: Call, query: ParkedQuery) -> Answer:
    """Agents that cannot be read, and why."""
    backend = call.backend
    if query.pool_name is not None:
        await backend.require_known_pool(query.pool_name)
        pools = {query.pool_name}
    else:
        pools = set(backend.known_pools()) or await backend.refresh_known_pools()
        pools = {*call.grant.own_pools(pools)}
    after, found = decode_cursor(query.cursor, PlaceOfParked), list[ParkedRow]()
    for pool in sorted(pools):
        missing = query.limit + 1 - len(found)
        if missing:
            entries = await parked.read(backend.log, pool, after=after, limit=missing)
            found += map(_row, entries)
    return page_response(call.request, "parked", found, query.limit, "place")


async def retry(
    call: Call,
    parked_id: ParkedId,
    body: RetryRequest,  # noqa: ARG001 - it is checked, and is empty
) -> Answer:
    """Restore it."""
    return await _resolve(call, parked_id, drop=False)


async def drop(call: Call, parked_id: ParkedId) -> Answer:
    """End it for good."""
    return await _resolve(call, parked_id, drop=True)


async def _resolve(call: Call, parked_id: str, *, drop: bool) -> Answer:
    backend, origin = call.backend, call.origin
    pool, _, key = parked_id.partition(":")
    await backend.require_known_pool(pool)
    entry = await parked.find(backend.log, pool, key)
    if entry is None:
        detail = f"{parked_id!r} is not parked, or no longer"
        raise Problem(Kind.PARKED_NOT_FOUND, detail, field="parked_id")
    from_views = None
    if entry.source == "agent":
        async with backend.read_views() as views:
            await catch_up_with_log(call, pool)
            from_views = await views.agent_state(pool, entry.subject)
    if not await parked.repair(backend.log, entry, from_views, origin, drop=drop):
        raise Problem(Kind.BUSY, "it changed meanwhile; list what is parked, and ask again")
    backend.report_position(call.read_state, pool)
    return Answer(_row(entry))


async def park_unreadable(backend: Backend, pool: str, unreadable: Unreadable) -> Problem:
    """Park an agent whose state cannot be read; the problem says how to resolve that."""
    await backend.log.park(pool, unreadable)
    detail = (
        f"in Redis the state of agent {unreadable.subject} is damaged, or of a newer version:"
        f" {unreadable.reason}; it is parked:"
        f" `muster parked retry {pool}:agent:{unreadable.subject}` rebuilds"
        " it from its events, `drop` instead of `retry` ends it"
    )
    return Problem(Kind.CANNOT_BE_READ, detail, agent_id=unreadable.subject)


async def catch_up_with_log(call: Call, pool: str) -> None:
    """Wait until the views have applied all that is in the log now."""
    backend = call.backend
    await backend.log.survey(pool, schedules_max=1)  # its reply says how far the log is
    await backend.catch_up(backend.views, call.read_state, [pool])
    if call.read_state.stale:
        raise Problem(Kind.VIEWS_UNAVAILABLE, f"the views of pool {pool!r} are behind its log")
