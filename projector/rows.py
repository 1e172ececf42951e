"""What the views say, as frozen Structs: the shapes that queries answer with.

Times are milliseconds of log time since 1970, 0 where a thing has not happened.
"""

from msgspec import Struct

from eventstore.events import Error


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
