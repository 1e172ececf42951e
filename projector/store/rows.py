"""What the views say, as frozen Structs: the shapes that queries answer with.

Times (`…_at`) are milliseconds of log time since 1970, None where a thing has not happened. Each
`…_time` is the same as a date.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final, Self

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr, replace

from eventstore.language.agents import Agent, Status
from eventstore.language.events import Error
from eventstore.language.pool_config import PoolConfig
from eventstore.language.replacement import Replacement
from projector.store.capacity import WAITS_FOR_CLAIM, WAITS_FOR_ISOLATION, PoolCapacity
from projector.store.mapping import AGENT_COLUMNS, Row, agent_of, column_name

PAGE_BYTES: Final = 1024 * 1024
"""Of the rows of a page, as JSON: a page that is longer ends early."""
READ_BYTES: Final = 2 * PAGE_BYTES
"""So much is read for it: some may be shorter once they are answered."""
NOT_SET: Final = {
    name: None for name in PoolConfig.__struct_fields__ if getattr(PoolConfig(), name) is None
}
"""Settings that are None unless they are set: they are not recorded."""
_object: Final = msgspec.json.Decoder(dict[str, object])
_replacement: Final = msgspec.json.Decoder(Replacement | None)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Timed(Struct, frozen=True, kw_only=True):
    """Each `…_time` is the `…_at` (or the field `…`) beside it, in milliseconds, as a date.

    Both are None for what has not happened. A time beyond all dates has none.
    """

    def __post_init__(self) -> None:
        for name, time_name in times_of(type(self)):
            milliseconds = getattr(self, name)
            if milliseconds:
                force_setattr(self, time_name, _date(milliseconds))
            else:
                force_setattr(self, name, 0 if name in HAPPENED else None)
                force_setattr(self, time_name, None)


HAPPENED: Final = ("created_at", "changed_at", "joined_at", "parked_at")
"""Times that nothing is without."""


@cache
def times_of(shape: type[Struct]) -> list[tuple[str, str]]:
    """The fields that are times, each with that of its date."""
    names = shape.__struct_fields__
    stems = [name.removesuffix("_time") for name in names if name.endswith("_time")]
    found = [(f"{one}_at" if f"{one}_at" in names else one, f"{one}_time") for one in stems]
    return [(name, time_name) for name, time_name in found if name in names]


def _stored(shape: type[Struct]) -> list[str]:
    """The fields of a row that a table has."""
    dates = {time_name for _, time_name in times_of(shape)}
    return [name for name in shape.__struct_fields__ if name not in dates]


@lru_cache(maxsize=1024)
def _date(milliseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


class AgentRow(Timed, frozen=True, kw_only=True):
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
    priority: int = 0
    expected_seconds: float | None = None
    labels: dict[str, str]
    input: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    """Lists have it where it was asked for."""
    last_error: Error | None
    failures: int
    """How often in a row it failed."""
    losses: int
    """How often its worker died lately: 2 at most are remembered."""
    alone: bool
    """Whether it is to run in a worker of its own, until it has behaved for a while."""
    created_at: int
    created_time: datetime | None = None
    started_at: int | None
    started_time: datetime | None = None
    ended_at: int | None
    ended_time: datetime | None = None
    changed_at: int
    changed_time: datetime | None = None
    fencing_token: str
    """`generation:seq` of its claim; empty when no worker holds it."""
    activity: str = ""
    """From heartbeats: `idle`, `busy`, or empty when not running or not reported yet."""
    last_heartbeat: int | None = None
    last_heartbeat_time: datetime | None = None
    due_at: int | None = None
    """When it is to run again; None unless it waits for that."""
    due_time: datetime | None = None
    save: int = 0
    """How often it saved its state."""
    state_size: int = 0
    """Bytes of the state that it saved last."""
    saved_at: int | None = None
    """When it saved that; None if it has none."""
    saved_time: datetime | None = None

    @classmethod
    def of(cls, agent: Agent, generation: int, reason: str | None = None) -> Self:
        """An agent as it is answered; what is not named here is copied.

        `reason`: in place of what the agent's own events say.
        """
        if reason is None:
            reason = agent.reason
            if agent.status is Status.PENDING and not reason:
                reason = WAITS_FOR_ISOLATION if agent.alone else WAITS_FOR_CLAIM
        names, values = _copied(cls, type(agent))
        return cls(
            **dict(zip(names, values(agent), strict=True)),
            reason=reason,
            input=_object.decode(agent.input),
            failures=agent.failures_in_row or len(agent.failures),
            losses=len(agent.losses),
            fencing_token=f"{generation}:{agent.claim_seq}" if agent.claim_seq else "",
        )


@cache
def _copied(
    row: type[AgentRow], agent: type[Agent]
) -> tuple[list[str], Callable[[Agent], tuple[Any, ...]]]:
    """Fields of a row that are fields of an agent, and what reads them there."""
    derived = ("reason", "input", "failures", "losses")
    columns = {column_name(field, AGENT_COLUMNS): field for field in agent.__struct_fields__}
    names = [name for name in row.__struct_fields__ if name in columns and name not in derived]
    return names, attrgetter(*(columns[name] for name in names))


class WorkerRow(Timed, frozen=True, kw_only=True):
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
    cordoned: str = ""
    """Why it gets no more agents; empty if it does."""
    drain_at: int | None = None
    drain_time: datetime | None = None
    cordon_kept: str = ""
    """Why a person cordoned it, where `cordoned` is Muster's own reason: it lasts after that."""
    requested_at: int | None
    requested_time: datetime | None = None
    started_at: int | None
    started_time: datetime | None = None
    ended_at: int | None
    ended_time: datetime | None = None
    last_heartbeat: int | None = None
    last_heartbeat_time: datetime | None = None
    loop_lag_ms: float = 0.0
    memory_bytes: int = 0


class PoolRow(Timed, frozen=True, kw_only=True):
    """Capacity of a pool. A worker counts while it lives; its slots, while it is active. Of a
    cordoned one only those that hold agents do."""

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
    replacement: Replacement | None = None
    """Of its workers: the last one."""
    created_at: int
    created_time: datetime | None = None
    changed_at: int
    changed_time: datetime | None = None


class HostRow(Timed, frozen=True, kw_only=True):
    host: str
    hostname: str
    status: str
    reason: str
    joined_at: int
    joined_time: datetime | None = None
    changed_at: int
    changed_time: datetime | None = None


class EventRow(Struct, frozen=True):
    """An archived event, as it was in the stream."""

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
    """0: the log was not read yet."""
    seq: int = 0
    stream_id: str = "0"
    ts: int = 0
    status: str = "ok"
    """`ok`, or why the projector stopped."""


SEARCHED: Final = ("agent_id", "project_id", "role_type", "labels", "reason", "last_error")
"""Columns of an agent that a text is searched in; labels and errors as JSON."""


class AgentFilter(Struct, frozen=True, kw_only=True):
    """Which agents; None means any. `ended` False leaves out terminated and failed ones.

    `pools`, `projects`: only of these, whatever else is asked for.
    """

    pool_name: str | None = None
    role_type: str | None = None
    project_id: str | None = None
    status: tuple[str, ...] = ()
    process_id: str | None = None
    label: tuple[str, str] | None = None
    text: str | None = None
    """Part of one of `SEARCHED`; ASCII letters may be in either case."""
    ended: bool | None = None
    pools: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None


def agent_row(row: Row, capacity: PoolCapacity) -> AgentRow:
    agent = agent_of(row)
    answer = AgentRow.of(agent, row["generation"], capacity.reason_of(agent))
    if agent.status not in (Status.RUNNING, Status.STOPPING) or row["activity"] is None:
        return answer
    return replace(answer, activity=row["activity"], last_heartbeat=row["last_heartbeat"])


def pool_row(row: Row) -> PoolRow:
    """PostgreSQL returns its sums as decimals."""
    config = {**NOT_SET, **_object.decode(row["config"])}
    values: dict[str, Any] = {**row, "status": "active", "config": config}
    for name in ("total_capacity", "used_capacity", "available_capacity"):
        values[name] = int(values[name])
    values["replacement"] = _replacement.decode(row["replacement"] or "null")
    values["utilization"] = float(values["utilization"])
    return PoolRow(**{name: values[name] for name in _stored(PoolRow)})


def worker_row(row: Row) -> WorkerRow:
    """NULL: no heartbeat has come yet."""
    values = {name: row[name] for name in _stored(WorkerRow)}
    return WorkerRow(**{name: value for name, value in values.items() if value is not None})


def page(found: Sequence[Struct], limit: int) -> tuple[list[bytes], bool]:
    """The rows that fit into a page, as JSON, and whether others follow.

    `found`: read until there were more than `limit`, or `READ_BYTES`, or no others.
    """
    encoded: list[bytes] = []
    size = 0
    for row in found[:limit]:
        encoded.append(msgspec.json.encode(row))
        size += len(encoded[-1])
        if size >= PAGE_BYTES:
            return encoded, True
    return encoded, len(found) > limit


def host_row(row: Row) -> HostRow:
    return HostRow(**{name: row[name] for name in _stored(HostRow)})
