"""What could not be processed: listed, put back, given up.

An agent or worker whose state in Redis is damaged is made anew from its events, so the views must
have taken all that the log holds. Whoever decides twice is told that the first was enough.
"""

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker
from eventstore.log import parked as parking
from eventstore.log.parked import Parked
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.backend.reading import READING
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import Nothing, ParkedId, ParkedQuery, RetryRequest, body, part, query
from gateway.wire.responses import answer


class ParkedRow(Struct, frozen=True, kw_only=True):
    """Something that could not be processed."""

    id: str
    pool_name: str
    source: str
    """`agent`, `worker`, `command` or `heartbeat`."""
    subject: str
    """The agent, worker or entry that it is about."""
    reason: str
    content: dict[str, str]
    """What stood there, by field."""
    parked_at: int


class ParkedList(Struct, frozen=True):
    parked: Sequence[ParkedRow]


async def list_parked(request: web.Request) -> web.Response:
    """`GET /api/v1/parked`."""
    backend = request.app[BACKEND]
    asked = query(request, ParkedQuery)
    if asked.pool_name is not None:
        await backend.pool_or_past(asked.pool_name)
        pools = {asked.pool_name}
    else:
        pools = set(backend.known_pools()) or await backend.pools_by_now()
    found = [one for pool in sorted(pools) for one in await parking.read(backend.log, pool)]
    return answer(ParkedList([_row(one) for one in found]))


async def retry(request: web.Request) -> web.Response:
    """`POST /api/v1/parked/{parked_id}/retry`."""
    await body(request, RetryRequest)
    backend, one, origin = request.app[BACKEND], await _named(request), request[ORIGIN]
    match one.source:
        case "agent":
            done = await parking.retry_agent(backend.log, one, await _agent(request, one), origin)
        case "worker":
            done = await parking.retry_worker(backend.log, one, await _worker(request, one), origin)
        case _:
            done = await parking.retry_other(backend.log, one, origin)
    return _told(backend, request, one, done=done)


async def drop(request: web.Request) -> web.Response:
    """`DELETE /api/v1/parked/{parked_id}`."""
    query(request, Nothing)
    backend, one, origin = request.app[BACKEND], await _named(request), request[ORIGIN]
    match one.source:
        case "agent":
            done = await parking.drop_agent(backend.log, one, await _agent(request, one), origin)
        case "worker":
            done = await parking.drop_worker(backend.log, one, await _worker(request, one), origin)
        case _:
            done = await parking.drop_other(backend.log, one, origin)
    return _told(backend, request, one, done=done)


async def put_aside(backend: Backend, pool: str, damage: Unreadable) -> Problem:
    """Park an agent whose state cannot be read, so that somebody can decide; answers how."""
    await backend.log.park(pool, damage)
    detail = (
        f"what Redis holds of agent {damage.subject} is damaged, or of a newer version:"
        f" {damage.why}; it is parked: `muster parked retry {pool}:agent:{damage.subject}` makes it"
        " anew from its events, `drop` in its place ends it"
    )
    return Problem(Kind.CANNOT_BE_READ, detail, agent_id=damage.subject)


async def _named(request: web.Request) -> Parked:
    pool, _, key = part(request, "parked_id", ParkedId).partition(":")
    backend = request.app[BACKEND]
    await backend.pool_or_past(pool)
    found = await parking.find(backend.log, pool, key)
    if found is None:
        raise _not_found(f"{pool}:{key}")
    return found


def _not_found(parked_id: str) -> Problem:
    detail = f"{parked_id!r} is not parked (any more)"
    return Problem(Kind.PARKED_NOT_FOUND, detail, field="parked_id")


async def _agent(request: web.Request, one: Parked) -> Agent | None:
    backend = request.app[BACKEND]
    async with backend.reading() as views:
        await _catch_up(request, one.pool)
        return await views.agent_state(one.pool, one.subject)


async def _worker(request: web.Request, one: Parked) -> Worker | None:
    backend = request.app[BACKEND]
    async with backend.reading() as views:
        await _catch_up(request, one.pool)
        return await views.worker_state(one.pool, one.subject)


async def _catch_up(request: web.Request, pool: str) -> None:
    """The views must tell all that the log holds now."""
    backend = request.app[BACKEND]
    await backend.log.survey(pool, schedules_max=1)  # its reply says how far the log is
    await backend.settle(backend.views, request, [pool])
    if request[READING].stale:
        raise Problem(Kind.VIEWS_UNAVAILABLE, f"the views of pool {pool!r} are behind its log")


def _told(backend: Backend, request: web.Request, one: Parked, *, done: bool) -> web.Response:
    if not done:
        detail = "it changed meanwhile; look again, and ask again"
        raise Problem(Kind.BUSY, detail)
    backend.tell_position(request, one.pool)
    return answer(_row(one))


def _row(one: Parked) -> ParkedRow:
    return ParkedRow(
        id=one.id,
        pool_name=one.pool,
        source=one.source,
        subject=one.subject,
        reason=one.reason,
        content=one.content,
        parked_at=one.at_ms,
    )
