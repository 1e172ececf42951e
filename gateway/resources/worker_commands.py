"""Commands on worker processes."""

from msgspec.structs import replace

from eventstore.language.workers import (
    OWN_CORDONS,
    Cordon,
    Drain,
    Uncordon,
    Worker,
    WorkerCommand,
    WorkerStatus,
)
from eventstore.names import unknown_name
from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import CordonRequest, DrainRequest
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import WorkerId
from projector.queries.views import WorkerRow


async def cordon(call: Call, worker_id: WorkerId, body: CordonRequest) -> Answer:
    """Let a worker get no more agents; those that it has run on."""
    _check_reason(body.reason)
    return Answer(await _act(call, worker_id, Cordon(reason=body.reason)))


async def uncordon(call: Call, worker_id: WorkerId, body: CordonRequest) -> Answer:
    """Let a worker get agents again."""
    return Answer(await _act(call, worker_id, Uncordon(reason=body.reason)))


async def drain(call: Call, worker_id: WorkerId, body: DrainRequest) -> Answer:
    """Let a worker release its agents, which run elsewhere then, and end.

    With a deadline it gets no more agents first, and those that it has may end by themselves.
    """
    command: WorkerCommand = Drain(reason=body.reason)
    if body.deadline_seconds:
        _check_reason(body.reason)
        pool = (await _row(call, worker_id)).pool_name
        drain_ms = call.backend.log.now_ms(pool) + max(int(body.deadline_seconds * 1000), 1)
        command = Cordon(reason=body.reason, drain_ms=drain_ms)
    row = await _act(call, worker_id, command)
    return Answer(row, status=202 if row.ended_at is None else 200)


def _check_reason(reason: str) -> None:
    if reason in OWN_CORDONS:
        detail = f"{reason!r} is a reason of Muster's own, which ends such cordons: say another"
        raise Problem(Kind.INVALID_REQUEST, detail, field="reason")


async def _act(call: Call, worker_id: str, command: WorkerCommand) -> WorkerRow:
    """Returns the worker as it is then."""
    backend, row = call.backend, await _row(call, worker_id)
    acted = await backend.log.act_on_worker(row.pool_name, worker_id, command, call.origin)
    if acted.worker is not None and acted.worker.status is WorkerStatus.REQUESTED:
        detail = f"worker {worker_id} has not started yet"
        raise Problem(Kind.WORKER_NOT_STARTED, detail, field="worker_id")
    backend.report_position(call.read_state, row.pool_name)
    try:
        return await _row(call, worker_id)
    except Problem:  # it is done, which is not to be answered as refused
        call.read_state.stale = True
        return row if acted.worker is None else _changed(row, acted.worker)


def _changed(row: WorkerRow, worker: Worker) -> WorkerRow:
    """What the views said before, with what commands change."""
    return replace(
        row,
        status=worker.status,
        reason=worker.reason,
        cordoned=worker.cordoned,
        drain_at=worker.drain_ms or None,
        cordon_kept=worker.cordon_kept,
        version=worker.version,
    )


async def _row(call: Call, worker_id: str) -> WorkerRow:
    async with call.backend.read_views() as views:
        await call.backend.catch_up(views, call.read_state, call.logs_of(None))
        row = await views.worker(worker_id)
    if row is None:
        detail = unknown_name("worker", worker_id)
        raise Problem(Kind.WORKER_NOT_FOUND, detail, field="worker_id")
    return row
