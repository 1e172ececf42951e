"""Heartbeats: written to the live tables only, which are neither folded nor compared.

They are collected for a few seconds before they are written: a hundred idle agents cost one small
transaction in that time, and a system without workers none.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, delete

from eventstore.errors import UnknownEvent
from eventstore.language.events import require_version
from eventstore.language.upcasts import upcast
from eventstore.log.reader import Entry
from projector.intake.entries import require_short_names, rows_of
from projector.store.tables import AGENT_LIVE, WORKER_LIVE, run, write_rows

RETENTION_MS: Final = 900_000
"""Rows of the live tables are deleted after so long without a heartbeat."""

NAME_MAX: Final = 256
"""Characters that are logged of the worker's name in a damaged heartbeat."""
LOG_SECONDS: Final = 60.0

log = structlog.get_logger("muster.projector")


class Heartbeat(Struct, frozen=True):
    """The body of `worker.heartbeat`."""

    type: ClassVar[str] = "worker.heartbeat"
    version: ClassVar[int] = 1
    agents: dict[str, Literal["idle", "busy"]] = {}
    loop_lag_ms: float = 0.0
    agent_count: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    memory_bytes: Annotated[int, Meta(ge=0, le=2**53)] = 0


class UnreadableHeartbeat(Struct, frozen=True):
    """An entry that is no heartbeat, or one of a newer version."""

    pool: str
    worker_id: str
    stream_id: str
    reason: str


class HeartbeatBatch(Struct, frozen=True):
    """The newest heartbeats of some workers, as rows of the live tables, and the last id read by
    pool."""

    agents: list[tuple[Any, ...]]
    workers: list[tuple[Any, ...]]
    positions: dict[str, str]
    unreadable: list[UnreadableHeartbeat] = []


_READ_UP_TO: Final = "UPDATE {}checkpoints SET heartbeat_id = ? WHERE pool = ?"
_decoder = msgspec.json.Decoder(Heartbeat)


def decode_heartbeat(kind: str, version: int, data: bytes | str) -> Heartbeat:
    """Decode a heartbeat, by the rules of `decode_body` in `eventstore/language/events.py`."""
    require_version(kind, version, Heartbeat.version if kind == Heartbeat.type else None)
    if version < Heartbeat.version:
        data = upcast(kind, version, Heartbeat.version, data)
    return _decoder.decode(data)


def gather(entries: Mapping[str, Sequence[Entry]]) -> HeartbeatBatch:
    """Entries by pool. An unreadable one does not affect the others."""
    unreadable: list[UnreadableHeartbeat] = []
    agents: dict[tuple[str, str], tuple[Any, ...]] = {}
    workers: dict[tuple[str, str], tuple[Any, ...]] = {}
    for pool, pool_entries in entries.items():
        for row in rows_of(pool, 0, pool_entries):
            worker_id, ts = row.subject, row.ts
            try:
                heartbeat = decode_heartbeat(row.type, row.version, row.data)
                require_short_names(worker_id, *heartbeat.agents)
            except (UnknownEvent, ValueError, RecursionError) as error:
                name, reason = worker_id[:NAME_MAX], str(error)
                unreadable.append(UnreadableHeartbeat(pool, name, row.stream_id, reason))
                continue
            measured = (heartbeat.agent_count, heartbeat.loop_lag_ms, heartbeat.memory_bytes)
            workers[pool, worker_id] = (worker_id, pool, *measured, ts)
            for agent_id, activity in heartbeat.agents.items():
                agent_id = agent_id.replace("\0", "")
                agents[pool, agent_id] = (agent_id, pool, worker_id, activity, ts)
    last = {pool: some[-1][0].decode() for pool, some in entries.items() if some}
    return HeartbeatBatch([*agents.values()], [*workers.values()], last, unreadable)


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
    """Replace older heartbeats."""
    for table, rows in ((AGENT_LIVE, batch.agents), (WORKER_LIVE, batch.workers)):
        write_rows(connection, table, tuple(table.columns.keys()), rows, "renew")
    for pool, stream_id in batch.positions.items():
        run(connection, _READ_UP_TO, stream_id, pool)


def read_positions(connection: Connection) -> dict[str, str]:
    """The id of the last heartbeat that was read, by pool."""
    rows = run(connection, "SELECT pool, heartbeat_id FROM {}checkpoints WHERE heartbeat_id <> ''")
    return {row.pool: row.heartbeat_id for row in rows}


def delete_old(connection: Connection, now_ms: int) -> None:
    """Delete rows without a recent heartbeat, by log time."""
    for table in (AGENT_LIVE, WORKER_LIVE):
        connection.execute(delete(table).where(table.c.last_heartbeat < now_ms - RETENTION_MS))
