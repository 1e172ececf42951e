"""Parked agents: listed, restored, or ended.

A damaged hash is rebuilt from the views, so these must have applied all that is in the log. Of two
equal requests the second is answered that nothing is parked any more.
"""

from collections.abc import Sequence
from typing import TypeAlias

from aiohttp import web
from msgspec import Struct

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.log import parked
from eventstore.log.parked import ParkedEntry
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.backend.reading import READ_STATE
from gateway.wire.decoding import path_parameter, read_body, read_query
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import NoParameters, ParkedId, ParkedQuery, RetryRequest
from gateway.wire.responses import json_response

ParkedRow: TypeAlias = ParkedEntry
"""As it is answered."""


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
    entries = [one for pool in sorted(pools) for one in await parked.read(backend.log, pool)]
    return json_response(ParkedList(entries))


async def retry(request: web.Request) -> web.Response:
    """`POST /api/v1/parked/{parked_id}/retry`."""
    await read_body(request, RetryRequest)
    return await _resolve(request, drop=False)


async def drop(request: web.Request) -> web.Response:
    """`DELETE /api/v1/parked/{parked_id}`."""
    read_query(request, NoParameters)
    return await _resolve(request, drop=True)


async def _resolve(request: web.Request, *, drop: bool) -> web.Response:
    backend, entry, origin = request.app[BACKEND], await _find_parked(request), request[ORIGIN]
    if entry.source == "agent":
        from_views = await _agent_state(request, entry)
        applied = await parked.repair(backend.log, entry, from_views, origin, drop=drop)
    else:
        applied = await parked.forget(backend.log, entry, origin)
    if not applied:
        raise Problem(Kind.BUSY, "it changed meanwhile; list what is parked, and ask again")
    backend.report_position(request, entry.pool_name)
    return json_response(entry)


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


async def _find_parked(request: web.Request) -> ParkedEntry:
    pool, _, key = path_parameter(request, "parked_id", ParkedId).partition(":")
    backend = request.app[BACKEND]
    await backend.require_known_pool(pool)
    entry = await parked.find(backend.log, pool, key)
    if entry is None:
        raise _not_found(f"{pool}:{key}")
    return entry


def _not_found(parked_id: str) -> Problem:
    detail = f"{parked_id!r} is not parked, or no longer"
    return Problem(Kind.PARKED_NOT_FOUND, detail, field="parked_id")


async def _agent_state(request: web.Request, entry: ParkedEntry) -> Agent | None:
    backend = request.app[BACKEND]
    async with backend.read_views() as views:
        await _catch_up(request, entry.pool_name)
        return await views.agent_state(entry.pool_name, entry.subject)


async def _catch_up(request: web.Request, pool: str) -> None:
    """Wait until the views have applied all that is in the log now."""
    backend = request.app[BACKEND]
    await backend.log.survey(pool, schedules_max=1)  # its reply says how far the log is
    await backend.catch_up(backend.views, request, [pool])
    if request[READ_STATE].stale:
        raise Problem(Kind.VIEWS_UNAVAILABLE, f"the views of pool {pool!r} are behind its log")
