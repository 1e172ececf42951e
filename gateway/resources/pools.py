"""Pools: created, looked at, changed and deleted.

A pool is deleted in two steps: it is closed, so that it takes no more spawns, and only then is
its end recorded. A deletion that was cut short is finished by asking again, or by the pool's
leader.
"""

import asyncio

import msgspec
from aiohttp import web

from eventstore.errors import OutcomeUnknown, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Pool
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import Changed
from eventstore.log.commit_retry import still_unknown
from eventstore.log.replies import Outcome, Proof
from eventstore.recovery.loss_reports import CREATE_POOL
from gateway.backend.app_keys import BACKEND, ORIGIN
from gateway.backend.backend import Backend
from gateway.following.waiters import Watch
from gateway.resources import as_of
from gateway.resources.durability import Assurance, assurance_of
from gateway.resources.parked import put_aside
from gateway.resources.spawn import role_not_found
from gateway.wire.preferences import patience
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import (
    DeletePoolQuery,
    MomentQuery,
    PoolName,
    PoolPatch,
    PoolRequest,
    body,
    part,
    patched,
    pool_config,
    query,
)
from gateway.wire.responses import AGENTS, PoolDeletion, PoolList, answer
from projector.queries.views import PoolRow

AT_ONCE = 50
"""So many terminations are written at a time."""


async def create_pool(request: web.Request) -> web.Response:
    """`POST /api/v1/agents/pools`."""
    backend = request.app[BACKEND]
    assurance = await _assurance(request)
    asked = await body(request, PoolRequest)
    config = pool_config(asked.config, backend.options.pool_defaults)
    if asked.role_type not in backend.options.roles:
        raise role_not_found(asked.role_type, backend.options.roles)
    origin = request[ORIGIN]
    changed = await backend.with_catalogue(
        lambda catalogue: catalogue.create_pool(asked.pool_name, asked.role_type, config, origin)
    )
    if changed.outcome is Outcome.CONFLICT:
        detail = f"there is a pool {asked.pool_name!r} already"
        raise Problem(Kind.POOL_EXISTS, detail, field="pool_name")
    _note(backend, CREATE_POOL, asked.pool_name, changed)
    assurance.begin(*_proofs(changed))
    row = await _row(request, changed.catalogue.pools[asked.pool_name])
    headers = {"Location": f"{AGENTS}/pools/{asked.pool_name}", **await assurance.headers()}
    return assurance.dressed(answer(row, status=201, headers=headers))


async def _assurance(request: web.Request) -> Assurance:
    """What a request on a pool is to be given."""
    limits = request.app[BACKEND].limits
    return await assurance_of(request, patience(request.headers.getall("Prefer", ()), limits))


def _note(backend: Backend, kind: str, name: str, changed: Changed) -> None:
    """Remember a change; also one that somebody else wrote for this command, or before it."""
    if changed.proof is None:
        return
    ledger = backend.ledger
    note = ledger.note_again if changed.outcome is Outcome.ALREADY else ledger.note
    note(changed.proof, kind, name)


def _proofs(changed: Changed) -> list[Proof]:
    return [changed.proof] if changed.proof else []


async def list_pools(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/pools`."""
    asked = query(request, MomentQuery)
    backend = request.app[BACKEND]
    if asked.as_of is not None:
        async with backend.looking_back() as views:
            moment = await as_of.moment(request, views, asked.as_of)
            return answer(PoolList(await views.history.pools(moment)))
    async with backend.reading() as views:
        await backend.settle(views, request)
        return answer(PoolList(await views.pools()))


async def get_pool(request: web.Request) -> web.Response:
    """`GET /api/v1/agents/pools/{pool_name}`."""
    asked = query(request, MomentQuery)
    backend = request.app[BACKEND]
    name = part(request, "pool_name", PoolName)
    if asked.as_of is not None:
        async with backend.looking_back() as views:
            moment = await as_of.moment(request, views, asked.as_of, [name])
            row = await views.history.pool(moment, name)
    else:
        async with backend.reading() as views:
            await backend.settle(views, request, [CATALOGUE, name])
            row = await views.pool(name)
    if row is None:
        raise _pool_not_found(name)
    return answer(row)


async def change_pool(request: web.Request) -> web.Response:
    """`PATCH /api/v1/agents/pools/{pool_name}`."""
    backend = request.app[BACKEND]
    name = part(request, "pool_name", PoolName)
    assurance = await _assurance(request)
    asked = await body(request, PoolPatch)
    await backend.pool(name)
    defaults = backend.options.pool_defaults

    def change(config: PoolConfig) -> PoolConfig:
        return patched(config, asked.config, defaults)

    changed = await backend.with_catalogue(
        lambda catalogue: catalogue.change_pool(name, change, request[ORIGIN])
    )
    if changed.outcome is Outcome.ABSENT:
        raise _pool_not_found(name)
    _note(backend, "change_pool", name, changed)
    assurance.begin(*_proofs(changed))
    row = await _row(request, changed.catalogue.pools[name])
    return assurance.dressed(answer(row, headers=await assurance.headers()))


def _pool_not_found(name: str) -> Problem:
    return Problem(Kind.POOL_NOT_FOUND, f"there is no pool {name!r}", field="pool_name")


async def _row(request: web.Request, pool: Pool) -> PoolRow:
    """A pool as the views tell it; where they are away or behind, what the catalogue says."""
    backend = request.app[BACKEND]
    try:
        async with backend.reading() as views:
            await backend.settle(views, request, [CATALOGUE])
            row = await views.pool(pool.pool_name)
    except Problem:
        row = None
    if row is not None and row.changed_at >= pool.changed_ms:
        return row
    backend.mark_stale(request)
    return PoolRow(
        pool_name=pool.pool_name,
        role_type=pool.role_type,
        process_count=0,
        total_capacity=0,
        used_capacity=0,
        available_capacity=0,
        agent_count=0,
        pending_count=0,
        utilization=0.0,
        active_worker_processes=0,
        status="active",
        config=msgspec.to_builtins(pool.config),
        created_at=pool.created_ms,
        changed_at=pool.changed_ms,
    )


async def delete_pool(request: web.Request) -> web.Response:
    """`DELETE /api/v1/agents/pools/{pool_name}`."""
    backend = request.app[BACKEND]
    name = part(request, "pool_name", PoolName)
    force = query(request, DeletePoolQuery).force
    patient = patience(request.headers.getall("Prefer", ()), backend.limits)
    assurance = await assurance_of(request, patient)
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
    ended: list[Proof] = []
    with still_unknown(_closed(name)):
        left = await _end_all(backend, request, pool, patient.seconds, ended) if force else 0
        changed = await backend.with_catalogue(
            lambda catalogue: catalogue.delete_pool(pool, origin, reason="requested")
        )
    _note(backend, "delete_pool", name, changed)
    backend.tell_position(request, CATALOGUE)
    assurance.begin(*ended, *_proofs(changed))
    deletion = PoolDeletion(name, "deleting" if left else "deleted", left)
    headers = {**patient.headers, **await assurance.headers()}
    return assurance.dressed(answer(deletion, status=202 if left else 200, headers=headers))


def _closed(name: str) -> OutcomeUnknown:
    """What a deletion comes to that is cut short: whoever leads the pool may finish it."""
    return OutcomeUnknown(f"pool {name!r} was closed, but its end could not be recorded")


async def _end_all(
    backend: Backend, request: web.Request, pool: Pool, seconds: float, ended: list[Proof]
) -> int:
    """Ask every agent of a pool to end and wait for it; returns how many have not, yet.

    `ended` takes the proofs of what was written for it.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    with backend.waiters.watch_pool(pool.pool_name) as watch:
        living = await backend.log.live(pool.pool_name)
        ending: set[str] = set()
        for first in range(0, len(living), AT_ONCE):
            batch = living[first : first + AT_ONCE]
            found = await asyncio.gather(*(_end(backend, request, pool, id_) for id_ in batch))
            proofs = {id_: proof for id_, proof in zip(batch, found, strict=True) if proof}
            ended += proofs.values()
            ending |= proofs.keys()
        return await _until_vacant(backend, pool.pool_name, ending, watch, deadline)


async def _end(backend: Backend, request: web.Request, pool: Pool, agent_id: str) -> Proof | None:
    """Ask one to end; None where the pool was created again meanwhile: it may be that one's."""
    command, name = Terminate(reason="pool-deleted"), pool.pool_name
    try:
        acted = await backend.log.act(
            name, agent_id, command, request[ORIGIN], created_seq=pool.created_seq
        )
    except Unreadable as error:
        raise await put_aside(backend, name, error) from error
    if acted.outcome is Outcome.FENCED:
        return None
    return acted.proof or Proof(name, "ending", agent_id)


async def _until_vacant(
    backend: Backend, pool: str, ending: set[str], watch: Watch, deadline: float
) -> int:
    """Count those that were told to end down by the ends that the log tells of."""
    living = ending & set(await backend.log.live(pool))
    while living:
        event = await watch.next(deadline)
        if event is None:
            break
        if event.type in {"agent.terminated", "agent.failed"}:
            living.discard(event.subject)
            backend.saw(None, pool, event.seq)
    return len(living)
