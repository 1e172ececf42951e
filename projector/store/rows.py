"""What the views say, as frozen Structs: the shapes that queries answer with.

Times are milliseconds of log time since 1970, 0 where a thing has not happened.
"""

import msgspec
from msgspec import Struct

from eventstore.language.agents import Status
from eventstore.language.events import Error
from projector.store.mapping import Row, labels, last_error, times


class AgentRow(Struct, frozen=True, kw_only=True):
    agent_id: str
    pool_name: str
    role_type: str
    project_id: str
    status: str
    reason: str
    """Why it is in its status; for a pending one, what it waits for."""
    incarnation: int
    version: int
    process_id: str
    """The worker that holds it; empty if none does."""
    epoch: int
    stop: str
    heartbeat_interval: float
    max_idle_time: float | None
    labels: dict[str, str]
    input: dict[str, object]
    last_error: Error | None
    failures: int
    losses: int
    """How often its worker died lately: 2 at most are remembered."""
    alone: bool
    """Whether it is to run in a worker of its own, until it has behaved for a while."""
    created_at: int
    started_at: int
    ended_at: int
    changed_at: int
    fencing_token: str
    """`generation:seq` of its claim; empty when no worker holds it."""
    activity: str = ""
    """From heartbeats: `idle`, `busy`, or empty when not running or not told yet."""
    last_heartbeat: int = 0


class WorkerRow(Struct, frozen=True, kw_only=True):
    worker_id: str
    pool_name: str
    host: str
    pid: int
    status: str
    reason: str
    epoch: int
    version: int
    agent_count: int
    max_agents: int
    alone: str
    """The agent that has it for itself, if one does: then no slot of it is free."""
    requested_at: int
    started_at: int
    ended_at: int
    last_heartbeat: int = 0
    loop_lag_ms: float = 0.0


class PoolRow(Struct, frozen=True, kw_only=True):
    """Capacity of a pool. A worker counts while it lives; its slots, while it is active."""

    pool_name: str
    role_type: str
    process_count: int
    total_capacity: int
    used_capacity: int
    available_capacity: int
    agent_count: int
    pending_count: int
    utilization: float
    active_worker_processes: int
    status: str
    config: dict[str, object]
    created_at: int
    changed_at: int


class HostRow(Struct, frozen=True, kw_only=True):
    host: str
    hostname: str
    status: str
    reason: str
    joined_at: int
    changed_at: int


class EventRow(Struct, frozen=True, kw_only=True):
    """An archived event, as it stood in the stream."""

    pool: str
    """Empty for the catalogue."""
    generation: int
    seq: int
    stream_id: str
    type: str
    version: int
    event_id: str
    subject: str
    incarnation: int
    worker_id: str
    epoch: int
    correlation_id: str
    causation_id: str
    traceparent: str
    actor: str
    ts: int
    data: str


class Position(Struct, frozen=True):
    """How far a pool's views are (pool '' is the catalogue)."""

    pool: str
    generation: int = 0
    """0: the log has not been seen yet."""
    seq: int = 0
    stream_id: str = "0"
    ts: int = 0
    status: str = "ok"
    """`ok`, or why the projector stopped."""


class AgentFilter(Struct, frozen=True, kw_only=True):
    """Which agents; None means any. `ended` False leaves out terminated and failed ones."""

    pool_name: str | None = None
    role_type: str | None = None
    project_id: str | None = None
    status: tuple[str, ...] = ()
    process_id: str | None = None
    label: tuple[str, str] | None = None
    ended: bool | None = None


_object = msgspec.json.Decoder(dict[str, object])


class PoolCapacity(Struct, frozen=True):
    """What decides on what a pool's pending agents wait for."""

    free_slots: int = 0
    workers: int = 0
    ordered_workers: int = 0
    max_workers: int = 0
    isolated_workers: int = 0
    """Workers that are each taken by one agent."""

    def reason(self, recorded: str, *, isolated: bool = False) -> str:
        """What a pending agent waits for, and in brackets why it was put back in the queue."""
        if isolated:
            waiting_for = "needs a worker of its own"
            waiting_for += f"; {self._full_reason()}" if self.workers >= self.max_workers else ""
        elif self.free_slots <= 0 and self.workers >= self.max_workers:
            waiting_for = self._full_reason()
        elif self.free_slots <= 0 and self.ordered_workers:
            waiting_for = "a worker is starting"
        else:
            waiting_for = "waiting to be claimed"
        return f"{waiting_for} ({recorded})" if recorded else waiting_for

    def _full_reason(self) -> str:
        isolated = (
            f", {self.isolated_workers} of them for one agent alone"
            if self.isolated_workers
            else ""
        )
        return f"pool is at its maximum of {self.max_workers} workers{isolated}"


def agent_row(row: Row, capacity: PoolCapacity) -> AgentRow:
    pending = row["status"] == Status.PENDING
    running = row["status"] in (Status.RUNNING, Status.STOPPING)
    return AgentRow(
        agent_id=row["agent_id"],
        pool_name=row["pool_name"],
        role_type=row["role_type"],
        project_id=row["project_id"],
        status=row["status"],
        reason=capacity.reason(row["reason"], isolated=row["alone"]) if pending else row["reason"],
        incarnation=row["incarnation"],
        version=row["version"],
        process_id=row["process_id"],
        epoch=row["epoch"],
        stop=row["stop"],
        heartbeat_interval=row["heartbeat_interval"],
        max_idle_time=row["max_idle_time"],
        labels=labels(row),
        input=_object.decode(row["input"]),
        last_error=last_error(row),
        failures=len(times(row["failures"])),
        losses=len(times(row["losses"])),
        alone=row["alone"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        changed_at=row["changed_at"],
        fencing_token=f"{row['generation']}:{row['claim_seq']}" if row["claim_seq"] else "",
        activity=(row["activity"] or "") if running else "",
        last_heartbeat=(row["last_heartbeat"] or 0) if running else 0,
    )


def pool_row(row: Row) -> PoolRow:
    return PoolRow(
        pool_name=row["pool_name"],
        role_type=row["role_type"],
        process_count=row["process_count"],
        total_capacity=int(row["total_capacity"]),
        used_capacity=int(row["used_capacity"]),
        available_capacity=int(row["available_capacity"]),
        agent_count=row["agent_count"],
        pending_count=row["pending_count"],
        utilization=float(row["utilization"]),
        active_worker_processes=row["active_worker_processes"],
        status="active",
        config=_object.decode(row["config"]),
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )


def worker_row(row: Row) -> WorkerRow:
    same = ("worker_id", "pool_name", "host", "pid", "status", "reason", "epoch", "version")
    counts = ("agent_count", "max_agents", "alone", "requested_at", "started_at", "ended_at")
    return WorkerRow(
        **{name: row[name] for name in (*same, *counts)},
        last_heartbeat=row["last_heartbeat"] or 0,
        loop_lag_ms=row["loop_lag_ms"] or 0.0,
    )
