"""What heartbeats tell: kept in the live tables only, apart from what is folded and compared.

Heartbeats are gathered for a moment before they are written: a hundred idle agents cost one small
transaction a second, and a system without workers none.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, delete, select, update

from eventstore.errors import UnknownEvent
from eventstore.language.events import ENTRY_FIELDS, require_version
from eventstore.language.upcasts import upcast
from eventstore.log.reader import Entry
from projector.intake.entries import number_of, require_short_names, text_of
from projector.store.tables import AGENT_LIVE, SERVING, WORKER_LIVE
from projector.store.upserts import write_rows

RETENTION_MS: Final = 900_000
"""What was not heard of for so long leaves the live tables."""

NAME_MAX: Final = 256
"""How much is logged of what a damaged heartbeat calls its worker."""
LOG_SECONDS: Final = 60.0

log = structlog.get_logger("muster.projector")


class Heartbeat(Struct, frozen=True):
    """The body of `worker.heartbeat`."""

    type: ClassVar[str] = "worker.heartbeat"
    version: ClassVar[int] = 1
    agents: dict[str, Literal["idle", "busy"]] = {}
    loop_lag_ms: float = 0.0
    agent_count: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class UnreadableHeartbeat(Struct, frozen=True):
    """A heartbeat that is none, or a newer version's."""

    pool: str
    worker_id: str
    stream_id: str
    reason: str


class HeartbeatBatch(Struct, frozen=True):
    """The newest heartbeats of some workers, as rows, and the last id read by pool."""

    agents: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    positions: dict[str, str]
    unreadable: list[UnreadableHeartbeat] = []


_decoder = msgspec.json.Decoder(Heartbeat)
_TYPE, _VERSION, _SUBJECT, _TS, _DATA = 1, 3, 9, 25, 27


def decode_heartbeat(kind: str, version: int, data: bytes) -> Heartbeat:
    """Read a heartbeat back, by the rules of `eventstore.events.decode_body`."""
    require_version(kind, version, Heartbeat.version if kind == Heartbeat.type else None)
    if version < Heartbeat.version:
        data = upcast(kind, version, Heartbeat.version, data)
    return _decoder.decode(data)


def gather(entries: Mapping[str, Sequence[Entry]]) -> HeartbeatBatch:
    """Entries by pool. One that cannot be read holds up none of the others."""
    unreadable: list[UnreadableHeartbeat] = []
    agents: dict[tuple[str, str], dict[str, Any]] = {}
    workers: dict[tuple[str, str], dict[str, Any]] = {}
    for pool, pool_entries in entries.items():
        for stream_id, fields in pool_entries:
            try:
                worker_id, ts = text_of(fields[_SUBJECT]), number_of(text_of(fields[_TS]))
                kind, version = text_of(fields[_TYPE]), number_of(text_of(fields[_VERSION]))
                heartbeat = decode_heartbeat(kind, version, fields[_DATA])
                require_short_names(worker_id, *heartbeat.agents)
            except (UnknownEvent, IndexError, ValueError, RecursionError) as error:
                unreadable.append(_unreadable(pool, stream_id, fields, error))
                continue
            workers[pool, worker_id] = {
                "worker_id": worker_id,
                "pool_name": pool,
                "agent_count": heartbeat.agent_count,
                "loop_lag_ms": heartbeat.loop_lag_ms,
                "last_heartbeat": ts,
            }
            for agent_id, activity in heartbeat.agents.items():
                agent_id = agent_id.replace("\0", "")
                agents[pool, agent_id] = {
                    "agent_id": agent_id,
                    "pool_name": pool,
                    "process_id": worker_id,
                    "activity": activity,
                    "last_heartbeat": ts,
                }
    last = {pool: beats[-1][0].decode() for pool, beats in entries.items() if beats}
    return HeartbeatBatch([*agents.values()], [*workers.values()], last, unreadable)


def _unreadable(
    pool: str, stream_id: bytes, fields: Sequence[bytes], error: Exception
) -> UnreadableHeartbeat:
    worker_id = fields[_SUBJECT].decode(errors="replace") if len(fields) > _DATA else ""
    reason = str(error)
    if isinstance(error, IndexError):
        reason = f"an event has {len(ENTRY_FIELDS)} fields, this entry has {len(fields) // 2}"
    return UnreadableHeartbeat(pool, worker_id[:NAME_MAX], stream_id.decode(), reason)


class UnreadableLog:
    """Logs heartbeats that cannot be read: their number, and one of each pool a minute."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def report(self, found: Iterable[UnreadableHeartbeat]) -> None:
        for one in found:
            self._counts[one.pool] += 1
            logged_at = self._logged_at.get(one.pool)
            if logged_at is None or time.monotonic() - logged_at >= LOG_SECONDS:
                self._logged_at[one.pool] = time.monotonic()
                count = self._counts[one.pool]
                log.error("heartbeat.unreadable", **asdict(one), count=count)


def write(connection: Connection, batch: HeartbeatBatch) -> None:
    """Put the newest heartbeats in the place of older ones."""
    write_rows(connection, AGENT_LIVE, batch.agents, "replace")
    write_rows(connection, WORKER_LIVE, batch.workers, "replace")
    checkpoints = SERVING.checkpoints
    for pool, stream_id in batch.positions.items():
        connection.execute(
            update(checkpoints).where(checkpoints.c.pool == pool).values(heartbeat_id=stream_id)
        )


def read_positions(connection: Connection) -> dict[str, str]:
    """The last heartbeat that was read of every pool."""
    checkpoints = SERVING.checkpoints
    rows = connection.execute(select(checkpoints.c.pool, checkpoints.c.heartbeat_id))
    return {row.pool: row.heartbeat_id for row in rows if row.heartbeat_id}


def delete_old(connection: Connection, now_ms: int) -> None:
    """Clear away what was not heard of for long, by log time."""
    for table in (AGENT_LIVE, WORKER_LIVE):
        connection.execute(delete(table).where(table.c.last_heartbeat < now_ms - RETENTION_MS))
