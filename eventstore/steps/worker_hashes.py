"""The hash of a worker: how its state is stored in Redis."""

from collections.abc import Mapping

from eventstore.errors import Unreadable
from eventstore.language.workers import Worker, _from_hash


def to_hash(worker: Worker) -> dict[str, str]:
    """The write side's form. `agent_count`, `renewal`, `last_heartbeat` are kept by scripts."""
    return {
        "pid": str(worker.pid),
        "pool_name": worker.pool_name,
        "host": worker.host,
        "status": worker.status.value,
        "max_agents": str(worker.max_agents),
        "epoch": str(worker.epoch),
        "version": str(worker.version),
        "start_time": str(worker.start_time),
        "deadline_ms": str(worker.deadline_ms),
        "draining": "1" if worker.draining else "",
        "reason": worker.reason,
    }


def from_hash(worker_id: str, fields: Mapping[str, str]) -> Worker:
    """The inverse of `to_hash`; fields that a newer version added are passed over, and stay.

    Raises `Unreadable`.
    """
    try:
        return _from_hash(worker_id, fields)
    except KeyError as error:
        raise Unreadable("worker", worker_id, f"its hash has no field {error}") from error
    except ValueError as error:
        raise Unreadable("worker", worker_id, str(error)) from error
