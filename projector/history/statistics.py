"""A pool's numbers at a position in its history, and the rows that are answered from them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from eventstore.language.agents import Status
from eventstore.language.catalogue import Catalogue
from eventstore.language.workers import Worker, WorkerStatus
from projector.store.mapping import pool_record, worker_record
from projector.store.rows import PoolCapacity, PoolRow, WorkerRow, pool_row, worker_row

LIVE_WORKER_STATUSES: Final = (WorkerStatus.ACTIVE, WorkerStatus.SUSPECT, WorkerStatus.DRAINING)


class PoolStatistics(Struct, frozen=True):
    """Counted over live agents and workers."""

    statuses: Mapping[str, int] = {}
    """Agents by status."""
    agent_counts: Mapping[str, int] = {}
    """Agents by worker."""
    isolated: Mapping[str, str] = {}
    """The agent of each worker that has one isolated agent."""
    workers: Sequence[Worker] = ()

    def _used(self, worker: Worker) -> int:
        """Slots that no other agent can have."""
        is_isolated = worker.worker_id in self.isolated
        return worker.max_agents if is_isolated else self.agent_counts.get(worker.worker_id, 0)

    def capacity(self) -> dict[str, Any]:
        """As the SQL view `pool_capacity` counts it."""
        active = [w for w in self.workers if w.status is WorkerStatus.ACTIVE]
        total = sum(worker.max_agents for worker in active)
        used = sum(map(self._used, active))
        ordered = sum(worker.status is WorkerStatus.REQUESTED for worker in self.workers)
        return {
            "process_count": sum(worker.status in LIVE_WORKER_STATUSES for worker in self.workers),
            "active_worker_processes": len(active),
            "ordered_worker_processes": ordered,
            "total_capacity": total,
            "used_capacity": used,
            "available_capacity": total - used,
            "agent_count": sum(self.statuses.values()),
            "pending_count": self.statuses.get(Status.PENDING.value, 0),
            "utilization": int(used * 10_000 / total + 0.5) / 10_000 if total else 0.0,
        }


def row_of_worker(worker: Worker, statistics: PoolStatistics) -> WorkerRow:
    name, live = worker.worker_id, {"last_heartbeat": 0, "loop_lag_ms": 0.0}
    record = worker_record(
        worker, statistics.agent_counts.get(name, 0), statistics.isolated.get(name, "")
    )
    return worker_row({**record, **live})


def rows_of_pools(catalogue: Catalogue, statistics: Mapping[str, PoolStatistics]) -> list[PoolRow]:
    """Pools that were not deleted, in the order of their names."""
    empty = PoolStatistics()
    return [
        pool_row({**pool_record(pool), **statistics.get(name, empty).capacity()})
        for name, pool in sorted(catalogue.live_pools().items())
    ]


def capacity_of(catalogue: Catalogue, pool: str, statistics: PoolStatistics) -> PoolCapacity:
    """What a pool's pending agents waited for depends on this."""
    counts, pool_state = statistics.capacity(), catalogue.pools.get(pool)
    if pool_state is None or pool_state.deleted:
        return PoolCapacity()
    return PoolCapacity(
        free_slots=counts["available_capacity"],
        workers=counts["process_count"],
        ordered_workers=counts["ordered_worker_processes"],
        max_workers=pool_state.config.max_workers,
        isolated_workers=len(statistics.isolated),
    )
