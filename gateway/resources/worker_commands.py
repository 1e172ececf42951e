"""Commands on worker processes."""

from eventstore.language.workers import Drain, WorkerStatus
from eventstore.names import unknown_name
from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import DrainRequest, WorkerId
from projector.queries.views import WorkerRow


async def drain(call: Call, worker_id: WorkerId, body: DrainRequest) -> Answer:
    """Let a worker release its agents, which run elsewhere then, and end."""
    backend, row = call.backend, await _row(call, worker_id)
    command = Drain(reason=body.reason)
    acted = await backend.log.act_on_worker(row.pool_name, worker_id, command, call.origin)
    if acted.worker is not None and acted.worker.status is WorkerStatus.REQUESTED:
        detail = f"worker {worker_id} has not started yet"
        raise Problem(Kind.WORKER_NOT_STARTED, detail, field="worker_id")
    backend.report_position(call.read_state, row.pool_name)
    row = await _row(call, worker_id)
    return Answer(row, status=202 if row.ended_at is None else 200)


async def _row(call: Call, worker_id: str) -> WorkerRow:
    async with call.backend.read_views() as views:
        await call.backend.catch_up(views, call.read_state)
        row = await views.worker(worker_id)
    if row is None:
        detail = unknown_name("worker", worker_id)
        raise Problem(Kind.WORKER_NOT_FOUND, detail, field="worker_id")
    return row
