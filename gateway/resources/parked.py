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
from eventstore.log.parked import ParkedEntry
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.backend.reading import READ_STATE
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import (
    NoParameters,
    ParkedId,
    ParkedQuery,
    RetryRequest,
    path_parameter,
    read_body,
    read_query,
)
from gateway.wire.responses import json_response


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
    params = read_query(request, ParkedQuery)
    if params.pool_name is not None:
        await backend.require_known_pool(params.pool_name)
        pools = {params.pool_name}
    else:
        pools = set(backend.known_pools()) or await backend.refresh_known_pools()
    entries = [one for pool in sorted(pools) for one in await parking.read(backend.log, pool)]
    return json_response(ParkedList([_row(one) for one in entries]))


async def retry(request: web.Request) -> web.Response:
    """`POST /api/v1/parked/{parked_id}/retry`."""
    await read_body(request, RetryRequest)
    backend, entry, origin = request.app[BACKEND], await _find_parked(request), request[ORIGIN]
    match entry.source:
        case "agent":
            applied = await parking.retry_agent(
                backend.log, entry, await _agent_state(request, entry), origin
            )
        case "worker":
            applied = await parking.retry_worker(
                backend.log, entry, await _worker_state(request, entry), origin
            )
        case _:
            applied = await parking.retry_other(backend.log, entry, origin)
    return _response(backend, request, entry, applied=applied)


async def drop(request: web.Request) -> web.Response:
    """`DELETE /api/v1/parked/{parked_id}`."""
    read_query(request, NoParameters)
    backend, entry, origin = request.app[BACKEND], await _find_parked(request), request[ORIGIN]
    match entry.source:
        case "agent":
            applied = await parking.drop_agent(
                backend.log, entry, await _agent_state(request, entry), origin
            )
        case "worker":
            applied = await parking.drop_worker(
                backend.log, entry, await _worker_state(request, entry), origin
            )
        case _:
            applied = await parking.drop_other(backend.log, entry, origin)
    return _response(backend, request, entry, applied=applied)


async def park_unreadable(backend: Backend, pool: str, unreadable: Unreadable) -> Problem:
    """Park an agent whose state cannot be read, so that somebody can decide; answers how."""
    await backend.log.park(pool, unreadable)
    detail = (
        f"what Redis holds of agent {unreadable.subject} is damaged, or of a newer version:"
        f" {unreadable.reason}; it is parked:"
        f" `muster parked retry {pool}:agent:{unreadable.subject}` makes"
        " it anew from its events, `drop` in its place ends it"
    )
    return Problem(Kind.CANNOT_BE_READ, detail, agent_id=unreadable.subject)


async def _find_parked(request: web.Request) -> ParkedEntry:
    pool, _, key = path_parameter(request, "parked_id", ParkedId).partition(":")
    backend = request.app[BACKEND]
    await backend.require_known_pool(pool)
    entry = await parking.find(backend.log, pool, key)
    if entry is None:
        raise _not_found(f"{pool}:{key}")
    return entry


def _not_found(parked_id: str) -> Problem:
    detail = f"{parked_id!r} is not parked (any more)"
    return Problem(Kind.PARKED_NOT_FOUND, detail, field="parked_id")


async def _agent_state(request: web.Request, entry: ParkedEntry) -> Agent | None:
    backend = request.app[BACKEND]
    async with backend.read_views() as views:
        await _catch_up(request, entry.pool)
        return await views.agent_state(entry.pool, entry.subject)


async def _worker_state(request: web.Request, entry: ParkedEntry) -> Worker | None:
    backend = request.app[BACKEND]
    async with backend.read_views() as views:
        await _catch_up(request, entry.pool)
        return await views.worker_state(entry.pool, entry.subject)


async def _catch_up(request: web.Request, pool: str) -> None:
    """The views must tell all that the log holds now."""
    backend = request.app[BACKEND]
    await backend.log.survey(pool, schedules_max=1)  # its reply says how far the log is
    await backend.catch_up(backend.views, request, [pool])
    if request[READ_STATE].stale:
        raise Problem(Kind.VIEWS_UNAVAILABLE, f"the views of pool {pool!r} are behind its log")


def _response(
    backend: Backend, request: web.Request, entry: ParkedEntry, *, applied: bool
) -> web.Response:
    if not applied:
        detail = "it changed meanwhile; look again, and ask again"
        raise Problem(Kind.BUSY, detail)
    backend.report_position(request, entry.pool)
    return json_response(_row(entry))


def _row(entry: ParkedEntry) -> ParkedRow:
    return ParkedRow(
        id=entry.id,
        pool_name=entry.pool,
        source=entry.source,
        subject=entry.subject,
        reason=entry.reason,
        content=entry.content,
        parked_at=entry.at_ms,
    )
