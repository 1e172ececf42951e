"""The parts of the gateway's answers that the command line reads.

Every field has a default and unknown fields are ignored, so that a command line and a gateway
of adjacent versions work together. Times are in milliseconds since 1970.
"""

import msgspec
from msgspec import Struct

from eventstore.language.events import Error


class AgentAnswer(Struct, frozen=True, kw_only=True):
    agent_id: str = ""
    pool_name: str = ""
    role_type: str = ""
    project_id: str = ""
    status: str = ""
    reason: str = ""
    incarnation: int = 0
    version: int = 0
    """How many events it has had."""
    process_id: str = ""
    activity: str = ""
    stop: str = ""
    heartbeat_interval: float = 0.0
    max_idle_time: float | None = None
    labels: dict[str, str] = {}
    input: dict[str, object] = {}
    last_error: Error | None = None
    failures: int = 0
    losses: int = 0
    alone: bool = False
    created_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    changed_at: int = 0
    last_heartbeat: int = 0
    fencing_token: str = ""


class PoolAnswer(Struct, frozen=True, kw_only=True):
    pool_name: str = ""
    role_type: str = ""
    status: str = ""
    process_count: int = 0
    total_capacity: int = 0
    used_capacity: int = 0
    available_capacity: int = 0
    agent_count: int = 0
    pending_count: int = 0
    utilization: float = 0.0
    active_worker_processes: int = 0
    config: dict[str, object] = {}
    created_at: int = 0
    changed_at: int = 0


class WorkerAnswer(Struct, frozen=True, kw_only=True):
    worker_id: str = ""
    pool_name: str = ""
    host: str = ""
    pid: int = 0
    status: str = ""
    reason: str = ""
    agent_count: int = 0
    max_agents: int = 0
    alone: str = ""
    requested_at: int = 0
    started_at: int = 0
    last_heartbeat: int = 0
    loop_lag_ms: float = 0.0


class ParkedAnswer(Struct, frozen=True, kw_only=True):
    id: str = ""
    pool_name: str = ""
    source: str = ""
    subject: str = ""
    reason: str = ""
    content: dict[str, str] = {}
    parked_at: int = 0


class Page(Struct, frozen=True, kw_only=True):
    """Some items of a list, and the link to the next page, if any."""

    items: list[msgspec.Raw]
    next: str | None = None


class AgentPage(Page, frozen=True, kw_only=True):
    items: list[msgspec.Raw] = msgspec.field(name="agents")


class PoolPage(Page, frozen=True, kw_only=True):
    items: list[msgspec.Raw] = msgspec.field(name="pools")


class WorkerPage(Page, frozen=True, kw_only=True):
    items: list[msgspec.Raw] = msgspec.field(name="workers")


class ParkedPage(Page, frozen=True, kw_only=True):
    items: list[msgspec.Raw] = msgspec.field(name="parked")
