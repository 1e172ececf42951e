"""The state from which a log is rewritten: views at the archive's end, and the archive itself."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from eventstore.keys import CATALOGUE
from eventstore.language.agents import TERMINAL, Agent
from eventstore.language.events import AgentRequested, AgentRestartRequested
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.catalogue import UNKNOWN_DECLARATION
from eventstore.log.log import encode_retired
from eventstore.retention import INTERNAL_OPERATION_MS, KEYS_MS_MAX
from projector.fold.projection import Projection
from projector.intake.archive import generation_ranges
from projector.intake.entries import entry_of
from projector.store.mapping import agent_of, worker_of
from projector.store.rows import EventRow, Position
from projector.store.tables import EVENTS, SERVING

A: Final = SERVING.agents.c
W: Final = SERVING.workers.c
OPERATIONS_MAX: Final = 100_000
"""Operation ids that are restored, the newest first."""

REQUESTS: Final = (AgentRequested.type, AgentRestartRequested.type)
"""Events with operation ids."""

Entry: TypeAlias = tuple[str, Sequence[bytes]]


class _Operation(Struct, frozen=True):
    """What events that follow from a request have of it."""

    operation_id: str = ""
    digest: str = ""
    operation_ms: int = 0


_operation = msgspec.json.Decoder(_Operation)


def live_agents(connection: Connection, pool: str) -> list[Agent]:
    """Agents that have not ended, in the order in which to restart them."""
    live = A.status.not_in([status.value for status in TERMINAL])
    query = select(SERVING.agents).where(A.pool_name == pool, live)
    rows = connection.execute(query.order_by(A.process_id == "", A.changed_at, A.agent_id))
    return [agent_of(row) for row in rows.mappings()]


def known_agents(connection: Connection, pool: str, ids: Sequence[str]) -> set[str]:
    """Those of the given ids that are recorded, ended or not."""
    return set(
        connection.scalars(select(A.agent_id).where(A.pool_name == pool, A.agent_id.in_(ids)))
    )


def live_workers(connection: Connection, pool: str) -> list[Worker]:
    """Workers that have not ended, launch orders included."""
    live = W.status.not_in((WorkerStatus.STOPPED.value, WorkerStatus.LOST.value))
    query = select(SERVING.workers).where(W.pool_name == pool, live).order_by(W.worker_id)
    return [worker_of(row) for row in connection.execute(query).mappings()]


def fenced_epochs(connection: Connection, pool: str, agents: Iterable[Agent]) -> dict[str, int]:
    """By worker: the epochs that fenced lost workers whose agents were not reaped yet."""
    worker_ids = {agent.worker_id for agent in agents if agent.held}
    lost = (W.pool_name == pool, W.status == WorkerStatus.LOST.value)
    query = select(W.worker_id, W.epoch).where(*lost, W.worker_id.in_(worker_ids))
    return {row.worker_id: row.epoch for row in connection.execute(query)}


def retirement(at: Position, epoch: int) -> str:
    """From which a log continues whose pool was removed, and is created again."""
    fields = {"generation": at.generation, "seq": at.seq, "ts": at.ts + 1, "epoch": epoch}
    return encode_retired({name: str(value) for name, value in fields.items()})


def highest_epoch(connection: Connection, pool: str) -> int:
    return int(connection.scalar(select(func.max(W.epoch)).where(W.pool_name == pool)) or 0)


def first_seqs(connection: Connection, pool: str) -> dict[int, int]:
    """The first archived `seq` of each generation; earlier generations are valid below it."""
    return {part.generation: part.first for part in generation_ranges(connection, pool)}


def entries(connection: Connection, position: Position, limit: int | None) -> list[Entry]:
    """The last archived events up to a position, as stream entries."""
    query = (
        select(EVENTS)
        .where(EVENTS.c.pool == position.pool, EVENTS.c.seq <= position.seq)
        .order_by(EVENTS.c.generation.desc(), EVENTS.c.seq.desc())
        .limit(limit)
    )
    rows = [EventRow(**row) for row in connection.execute(query).mappings()]
    return [(row.stream_id, entry_of(row)[1]) for row in reversed(rows)]


def operations(connection: Connection, pool: str, now_ms: int) -> list[tuple[str, str, str, int]]:
    """Operation ids of spawns and restarts that have not expired: with digest, answer, and the ms
    that are left."""
    query = (
        select(EVENTS.c.subject, EVENTS.c.ts, EVENTS.c.data)
        .where(EVENTS.c.type.in_(REQUESTS))
        .where(EVENTS.c.ts > now_ms - KEYS_MS_MAX, EVENTS.c.pool == pool)
        .order_by(EVENTS.c.ts.desc())
        .limit(OPERATIONS_MAX)
    )
    found = []
    for subject, ts, data in connection.execute(query):
        of = _operation.decode(data)
        remaining_ms = ts + (of.operation_ms or INTERNAL_OPERATION_MS) - now_ms
        if of.operation_id and remaining_ms > 0:
            found.append((of.operation_id, of.digest, subject, remaining_ms))
    return found


def first_remembered(connection: Connection, pool: str, last: int, now_ms: int) -> int:
    """The seq, up to `last`, of the first request whose operation id has not expired; else 0."""
    query = (
        select(EVENTS.c.seq, EVENTS.c.ts, EVENTS.c.data)
        .where(EVENTS.c.type.in_(REQUESTS), EVENTS.c.ts > now_ms - KEYS_MS_MAX)
        .where(EVENTS.c.pool == pool, EVENTS.c.seq <= last)
        .order_by(EVENTS.c.ts, EVENTS.c.seq)
    )
    for seq, ts, data in connection.execute(query):
        of = _operation.decode(data)
        if of.operation_id and ts + (of.operation_ms or INTERNAL_OPERATION_MS) > now_ms:
            return int(seq)
    return 0


def meta_fields(
    connection: Connection, projection: Projection, pool: str
) -> list[tuple[str, str | int]]:
    """Fields of a log's meta hash, without its counters."""
    catalogue, positions = projection.catalogue, projection.positions
    if pool != CATALOGUE:
        state = catalogue.pools.get(pool)
        return [("closed", state.created_seq)] if state and state.deleted else []
    names = (*catalogue.pools, *catalogue.hosts, *catalogue.tokens)
    retired = {name: projection.position_of(name) for name in projection.removed_pools()}
    created = [name for name in catalogue.pools if name in positions and positions[name].generation]
    return [
        *((f"version:{name}", catalogue.version_of(name)) for name in names),
        *((f"declared:{name}", UNKNOWN_DECLARATION) for name in (*catalogue.pools, *retired)),
        *(
            (f"retired:{name}", retirement(at, highest_epoch(connection, name)))
            for name, at in retired.items()
            if at.generation
        ),
        *((f"made:{name}", 1) for name in created),
    ]
