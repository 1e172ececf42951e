"""Pools: created, read, changed and deleted.

A pool is deleted in two steps: it is closed, so that it accepts no more spawns, and only then is
its end recorded. A deletion that was interrupted is finished by repeating it, or by the pool's
leader.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from eventstore.errors import LogError, OutcomeUnknown, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Pool
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import ChangeResult
from eventstore.log.commit_retry import reraise_unknown
from eventstore.log.replies import Outcome, Proof
from eventstore.recovery.loss_reports import CREATE_POOL
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.resources import as_of
from gateway.resources.durability import durability_request
from gateway.resources.parked import park_unreadable
from gateway.resources.spawn import require_declared
from gateway.wire import decoding
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import (
    AsOfQuery,
    DeletePoolQuery,
    PauseRequest,
    PoolName,
    PoolPatch,
    PoolQuery,
    PoolRequest,
)
from gateway.wire.responses import AGENTS, PoolDeletion, decode_cursor, page_response
from projector.queries.views import PoolRow, row_of_pool

BATCH_SIZE = 50
"""So many terminations are written at a time."""


async def create_pool(call: Call, body: PoolRequest) -> Answer:
    """Create a pool."""
    backend, name, role = call.backend, body.pool_name, body.role_type
    durability = await durability_request(call)
    require_declared(role, backend.options.roles)
    config = decoding.pool_config(body.config, backend.options.defaults_of(role))
    decoding.check_intervals(config, backend.limits, "config.")
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.create_pool(name, role, config, call.origin)
    )
    if result.outcome is Outcome.CONFLICT:
        detail = f"there is a pool {name!r} already"
        raise Problem(Kind.POOL_EXISTS, detail, field="pool_name")
    remember(backend, CREATE_POOL, name, result)
    durability.start(result.proof)
    row = await row_of(call, result.catalogue.pools[name])
    return await durability.response(row, 201, {"Location": f"{AGENTS}/pools/{name}"})


def remember(backend: Backend, kind: str, name: str, result: ChangeResult) -> None:
    """Remember a change; also one that another process wrote for this command, or before it."""
    if result.proof is not None:
        commands, already = backend.acknowledged_commands, result.outcome is Outcome.ALREADY
        record = commands.record_once if already else commands.record
        record(result.proof, kind, name)


async def list_pools(call: Call, query: PoolQuery) -> Answer:
    """All pools and their capacity, page by page."""
    after = decode_cursor(query.cursor, PoolName)
    own = call.own_pools
    async with as_of.reading(call, query.as_of, call.logs_of(None)) as (views, point):
        if point:
            rows = [row for row in await views.history.pools(point, own) if row.pool_name > after]
        else:
            rows = await views.pools(after=after, limit=query.limit + 1, names=own)
    again = as_of.same_point(call)
    return page_response(call.request, "pools", rows, query.limit, "pool_name", **again)


async def get_pool(call: Call, pool_name: PoolName, query: AsOfQuery) -> Answer:
    """One pool and its capacity."""
    names = [CATALOGUE, pool_name]
    async with as_of.reading(call, query.as_of, names) as (views, point):
        row = await (views.history.pool(point, pool_name) if point else views.pool(pool_name))
    if row is None and point is None:
        row = await _unprojected(call, pool_name)
    if row is None:
        raise call.backend.pool_not_found(pool_name)
    return Answer(row)


async def _unprojected(call: Call, name: str) -> PoolRow | None:
    """A pool that is newer than the views, as the catalogue has it."""
    backend = call.backend
    with suppress(LogError):  # the views answer while Redis is away
        await backend.refresh_known_pools()
    pool = backend.live_pool(name)
    call.read_state.stale |= pool is not None
    return None if pool is None else row_of_pool(pool)


async def change_pool(call: Call, pool_name: PoolName, body: PoolPatch) -> Answer:
    """Change settings of a pool."""
    backend = call.backend
    defaults = backend.options.defaults_of((await backend.pool(pool_name)).role_type)

    def change(config: PoolConfig) -> PoolConfig:
        changed = decoding.pool_config(body.config, defaults, config)
        decoding.check_intervals(changed, backend.limits, "config.")
        return changed

    return await _change(call, pool_name, change)


async def pause_pool(call: Call, pool_name: PoolName, body: PauseRequest) -> Answer:
    """Neither add nor remove workers of a pool until it is resumed."""
    return await _change(call, pool_name, lambda config: replace(config, paused=body.reason))


async def resume_pool(call: Call, pool_name: PoolName) -> Answer:
    """Scale a pool again."""
    return await _change(call, pool_name, lambda config: replace(config, paused=None))


async def _change(call: Call, pool_name: str, change: Callable[[PoolConfig], PoolConfig]) -> Answer:
    backend = call.backend
    durability = await durability_request(call)
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.change_pool(pool_name, change, call.origin)
    )
    if result.outcome is Outcome.ABSENT:
        raise backend.pool_not_found(pool_name)
    remember(backend, "change_pool", pool_name, result)
    durability.start(result.proof)
    return await durability.response(await row_of(call, result.catalogue.pools[pool_name]))


async def row_of(call: Call, pool: Pool) -> PoolRow:
    """A pool as the views have it; if they are unreachable or behind, as the catalogue has it."""
    backend = call.backend
    try:
        async with backend.read_views() as views:
            await backend.catch_up(views, call.read_state, [CATALOGUE])
            row = await views.pool(pool.pool_name)
    except Problem:
        row = None
    if row is not None and row.changed_at >= pool.changed_ms:
        return row
    call.read_state.stale = True
    return row_of_pool(pool)


async def delete_pool(call: Call, pool_name: PoolName, query: DeletePoolQuery) -> Answer:
    """Delete a pool."""
    backend, name, force = call.backend, pool_name, query.force
    durability = await durability_request(call)
    await backend.with_catalogue(lambda catalogue: catalogue.refresh())
    pool = await backend.pool(name)  # as it is now, not an earlier one of that name
    origin = call.origin
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
        remaining = 0
        if force:
            remaining = await _terminate_all(call, pool, durability.deadline, termination_proofs)
        result = await backend.with_catalogue(
            lambda catalogue: catalogue.delete_pool(pool, origin, reason="requested")
        )
    remember(backend, "delete_pool", name, result)
    backend.report_position(call.read_state, CATALOGUE)
    durability.start(*termination_proofs, result.proof)
    deletion = PoolDeletion(name, "deleting" if remaining else "deleted", remaining)
    return await durability.response(deletion, 202 if remaining else 200)


async def _terminate_all(
    call: Call, pool: Pool, deadline: float, termination_proofs: list[Proof]
) -> int:
    """Ask every agent of a pool to end, and wait; returns how many have not ended yet.

    The proofs of what was written are added to `termination_proofs`.
    """
    backend = call.backend
    with backend.waiters.watch(pool=pool.pool_name) as watch:
        live = await backend.log.live(pool.pool_name)
        terminating: set[str] = set()
        for first in range(0, len(live), BATCH_SIZE):
            batch = live[first : first + BATCH_SIZE]
            results = await asyncio.gather(*(_terminate(call, pool, id_) for id_ in batch))
            proofs = {id_: proof for id_, proof in zip(batch, results, strict=True) if proof}
            termination_proofs += proofs.values()
            terminating |= proofs.keys()
        remaining = terminating & set(await backend.log.live(pool.pool_name))
        while remaining and (event := await watch.next(deadline)):
            if event.type in {"agent.terminated", "agent.failed"}:
                remaining.discard(event.subject)
                backend.mark_observed(None, pool.pool_name, event.seq)
        return len(remaining)


async def _terminate(call: Call, pool: Pool, agent_id: str) -> Proof | None:
    """Ask one agent to end; None if the pool was recreated, since the agent may be of the new."""
    backend, name = call.backend, pool.pool_name
    command = Terminate(reason="pool-deleted")
    try:
        result = await backend.log.act(
            name, agent_id, command, call.origin, created_seq=pool.created_seq
        )
    except Unreadable as error:
        raise await park_unreadable(backend, name, error) from error
    if result.outcome is Outcome.FENCED:
        return None
    return result.proof or Proof(name, "ending", agent_id)
