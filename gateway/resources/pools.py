"""Pools: created, read, changed and deleted.

A pool is deleted in two steps: it is closed, so that it accepts no more spawns, and only then is
its end recorded. A deletion that was interrupted is finished by repeating it, or by the pool's
leader.
"""

import asyncio

from aiohttp import web

from eventstore.errors import OutcomeUnknown, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Catalogue, Pool
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import ChangeResult
from eventstore.log.commit_retry import reraise_unknown
from eventstore.log.replies import Outcome, Proof
from eventstore.recovery.loss_reports import CREATE_POOL
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.backend.reading import READ_STATE
from gateway.following.waiters import Watch
from gateway.resources import as_of
from gateway.resources.durability import durability_request
from gateway.resources.parked import park_unreadable
from gateway.resources.spawn import role_not_found
from gateway.wire import decoding
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import AsOfQuery, DeletePoolQuery, PoolName, PoolPatch, PoolRequest
from gateway.wire.responses import AGENTS, PoolDeletion, PoolList, json_response
from projector.queries.views import PoolRow, rows_of_pools

BATCH_SIZE = 50
"""So many terminations are written at a time."""


async def create_pool(request: web.Request) -> web.Response:
    """`POST /api/v1/agents/pools`."""
    backend = request.app[BACKEND]
    durability = await durability_request(request)
    payload = await decoding.read_body(request, PoolRequest)
    config = decoding.pool_config(payload.config, backend.options.pool_defaults)
    if payload.role_type not in backend.options.roles:
        raise role_not_found(payload.role_type, backend.options.roles)
    origin = request[ORIGIN]
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.create_pool(
            payload.pool_name, payload.role_type, config, origin
        )
    )
    if result.outcome is Outcome.CONFLICT:
        detail = f"there is a pool {payload.pool_name!r} already"
        raise Problem(Kind.POOL_EXISTS, detail, field="pool_name")
    _record(backend, CREATE_POOL, payload.pool_name, result)
    durability.start(result.proof)
    row = await _row(request, result.catalogue.pools[payload.pool_name])
    headers = {"Location": f"{AGENTS}/pools/{payload.pool_name}", **await durability.headers()}
    return durability.adjust_status(json_response(row, status=201, headers=headers))


def _record(backend: Backend, kind: str, name: str, result: ChangeResult) -> None:
    """Remember a change; also one that another process wrote for this command, or before it."""
    if result.proof is None:
        return
    acknowledged_commands = backend.acknowledged_commands
    record = (
        acknowledged_commands.record_once
        if result.outcome is Outcome.ALREADY
        else acknowledged_commands.record
    )
    record(result.proof, kind, name)


async def list_pools(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/pools`."""
    params = decoding.read_query(request, AsOfQuery)
    backend = request.app[BACKEND]
    if params.as_of is not None:
        async with backend.read_history() as views:
            point = await as_of.resolve(request, views, params.as_of)
            return json_response(PoolList(await views.history.pools(point)))
    async with backend.read_views() as views:
        await backend.catch_up(views, request)
        return json_response(PoolList(await views.pools()))


async def get_pool(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/pools/{pool_name}`."""
    params = decoding.read_query(request, AsOfQuery)
    backend = request.app[BACKEND]
    name = decoding.path_parameter(request, "pool_name", PoolName)
    if params.as_of is not None:
        async with backend.read_history() as views:
            point = await as_of.resolve(request, views, params.as_of, [name])
            row = await views.history.pool(point, name)
    else:
        async with backend.read_views() as views:
            await backend.catch_up(views, request, [CATALOGUE, name])
            row = await views.pool(name)
    if row is None:
        raise _pool_not_found(name)
    return json_response(row)


async def change_pool(request: web.Request) -> web.Response:
    """`PATCH /api/v1/agents/pools/{pool_name}`."""
    backend = request.app[BACKEND]
    name = decoding.path_parameter(request, "pool_name", PoolName)
    durability = await durability_request(request)
    payload = await decoding.read_body(request, PoolPatch)
    await backend.pool(name)
    defaults = backend.options.pool_defaults

    def change(config: PoolConfig) -> PoolConfig:
        return decoding.patch_pool_config(config, payload.config, defaults)

    result = await backend.with_catalogue(
        lambda catalogue: catalogue.change_pool(name, change, request[ORIGIN])
    )
    if result.outcome is Outcome.ABSENT:
        raise _pool_not_found(name)
    _record(backend, "change_pool", name, result)
    durability.start(result.proof)
    row = await _row(request, result.catalogue.pools[name])
    return durability.adjust_status(json_response(row, headers=await durability.headers()))


def _pool_not_found(name: str) -> Problem:
    return Problem(Kind.POOL_NOT_FOUND, f"there is no pool {name!r}", field="pool_name")


async def _row(request: web.Request, pool: Pool) -> PoolRow:
    """A pool as the views have it; if they are unreachable or behind, as the catalogue has it."""
    backend = request.app[BACKEND]
    try:
        async with backend.read_views() as views:
            await backend.catch_up(views, request, [CATALOGUE])
            row = await views.pool(pool.pool_name)
    except Problem:
        row = None
    if row is not None and row.changed_at >= pool.changed_ms:
        return row
    request[READ_STATE].stale = True
    [row] = rows_of_pools(Catalogue(pools={pool.pool_name: pool}), {})
    return row


async def delete_pool(request: web.Request) -> web.Response:
    """`DELETE /api/v1/agents/pools/{pool_name}`."""
    backend = request.app[BACKEND]
    name = decoding.path_parameter(request, "pool_name", PoolName)
    force = decoding.read_query(request, DeletePoolQuery).force
    durability = await durability_request(request)
    preference = durability.preference
    await backend.with_catalogue(lambda catalogue: catalogue.refresh())
    pool = await backend.pool(name)  # as it is now, not an earlier one of that name
    origin = request[ORIGIN]
    closed = await backend.with_catalogue(
        lambda catalogue: catalogue.close_pool(pool, origin, vacant=not force)
    )
    if not closed:
        count = len(await backend.log.live(name))
        detail = f"pool {name!r} has {count} live agents; ?force=true ends them"
        raise Problem(Kind.POOL_NOT_EMPTY, detail, field="pool_name")
    termination_proofs: list[Proof] = []
    # It may be finished by the pool's leader.
    incomplete = OutcomeUnknown(f"pool {name!r} was closed, but its end could not be recorded")
    with reraise_unknown(incomplete):
        remaining = (
            await _terminate_all(backend, request, pool, preference.seconds, termination_proofs)
            if force
            else 0
        )
        result = await backend.with_catalogue(
            lambda catalogue: catalogue.delete_pool(pool, origin, reason="requested")
        )
    _record(backend, "delete_pool", name, result)
    backend.report_position(request, CATALOGUE)
    durability.start(*termination_proofs, result.proof)
    deletion = PoolDeletion(name, "deleting" if remaining else "deleted", remaining)
    headers = {**preference.headers, **await durability.headers()}
    return durability.adjust_status(
        json_response(deletion, status=202 if remaining else 200, headers=headers)
    )


async def _terminate_all(
    backend: Backend,
    request: web.Request,
    pool: Pool,
    seconds: float,
    termination_proofs: list[Proof],
) -> int:
    """Ask every agent of a pool to end, and wait; returns how many have not ended yet.

    The proofs of what was written are added to `termination_proofs`.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    with backend.waiters.watch_pool(pool.pool_name) as watch:
        live = await backend.log.live(pool.pool_name)
        terminating: set[str] = set()
        for first in range(0, len(live), BATCH_SIZE):
            batch = live[first : first + BATCH_SIZE]
            results = await asyncio.gather(
                *(_terminate(backend, request, pool, id_) for id_ in batch)
            )
            proofs = {id_: proof for id_, proof in zip(batch, results, strict=True) if proof}
            termination_proofs += proofs.values()
            terminating |= proofs.keys()
        return await _wait_until_empty(backend, pool.pool_name, terminating, watch, deadline)


async def _terminate(
    backend: Backend, request: web.Request, pool: Pool, agent_id: str
) -> Proof | None:
    """Ask one agent to end; None if the pool was recreated, since the agent may be of the new."""
    command, name = Terminate(reason="pool-deleted"), pool.pool_name
    try:
        result = await backend.log.act(
            name, agent_id, command, request[ORIGIN], created_seq=pool.created_seq
        )
    except Unreadable as error:
        raise await park_unreadable(backend, name, error) from error
    if result.outcome is Outcome.FENCED:
        return None
    return result.proof or Proof(name, "ending", agent_id)


async def _wait_until_empty(
    backend: Backend, pool: str, terminating: set[str], watch: Watch, deadline: float
) -> int:
    """Wait for the ends in the log of those that were asked to end; returns how many remain."""
    live = terminating & set(await backend.log.live(pool))
    while live:
        event = await watch.next(deadline)
        if event is None:
            break
        if event.type in {"agent.terminated", "agent.failed"}:
            live.discard(event.subject)
            backend.mark_observed(None, pool, event.seq)
    return len(live)
