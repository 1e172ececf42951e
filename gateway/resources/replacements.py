"""The replacement of a pool's workers: started, and cancelled. The pool's leader carries it out."""

from eventstore.language.events import PoolReplacementStarted, PoolReplacementStopped
from eventstore.language.workers import WorkerStatus
from eventstore.log.replies import Outcome
from gateway.backend.call import Call
from gateway.resources.durability import durability_request
from gateway.resources.pools import remember, row_of
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import CancelRequest, ReplaceRequest
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import PoolName


async def replace_pool(call: Call, pool_name: PoolName, body: ReplaceRequest) -> Answer:
    """Replace all workers of a pool by new ones, few at a time."""
    backend = call.backend
    await backend.pool(pool_name)
    durability = await durability_request(call)
    epoch = await backend.log.allocate_epoch(pool_name)  # those that start later have a higher one
    survey = await backend.log.survey(pool_name)
    started = PoolReplacementStarted(
        reason=body.reason,
        epoch=epoch,
        workers=sum(
            o.worker.status is WorkerStatus.REQUESTED or (o.worker.alive and not o.worker.draining)
            for o in survey.workers
        ),
        max_unavailable=body.max_unavailable,
        deadline_seconds=body.deadline_seconds,
    )
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.change_replacement(pool_name, started, call.origin)
    )
    if result.outcome is Outcome.ABSENT:
        raise backend.pool_not_found(pool_name)
    if result.outcome is Outcome.CONFLICT:
        detail = f"the workers of pool {pool_name!r} are being replaced; cancel that first"
        raise Problem(Kind.REPLACEMENT_RUNS, detail, field="pool_name")
    remember(backend, "replace_pool", pool_name, result)
    durability.start(result.proof)
    return await durability.response(await row_of(call, result.catalogue.pools[pool_name]), 202)


async def cancel_replacement(call: Call, pool_name: PoolName, body: CancelRequest) -> Answer:
    """Stop the replacement that runs, if any: the old workers that are left get agents again."""
    backend = call.backend
    durability = await durability_request(call)
    stopped = PoolReplacementStopped(reason=body.reason)
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.change_replacement(pool_name, stopped, call.origin)
    )
    if result.outcome is Outcome.ABSENT:
        raise backend.pool_not_found(pool_name)
    durability.start(result.proof)
    return await durability.response(await row_of(call, result.catalogue.pools[pool_name]))
