"""Where pruned logs start: a position, and all that lived at it, with a checksum.

Events of a pool up to `seq` are in exports only. Whoever folds its log begins with the entries of
the snapshot: each is one thing that lived then, of a kind, as JSON. A kind that a reader does not
know is left out by it, and counts for the checksum. Whatever else must outlast the events that it
was made from, such as sums over them, can be an entry of a kind of its own.

Entries are written before the row that makes them count; those without one are deleted later.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection, select

from eventstore.errors import MusterError
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker
from projector.store.mapping import chunks
from projector.store.tables import ARCHIVE_SNAPSHOTS, ARCHIVE_STARTS, run, write_rows
from projector.store.usage_rows import NAMES, Account, Sums

AGENT: Final = "agent"
WORKER: Final = "worker"
USAGE: Final = "usage"
"""An account of usage, with its sums."""
IDS_MAX: Final = 500
_S: Final = ARCHIVE_SNAPSHOTS.c
decode_agent: Final = msgspec.json.Decoder(Agent).decode
decode_worker: Final = msgspec.json.Decoder(Worker).decode


class SnapshotDamaged(MusterError):
    """The snapshot with which a pruned log starts is not as it was written."""


class ArchivePruned(MusterError):
    """The archive of a log was pruned up to there; only exports have what came before."""

    def __init__(self, start: "ArchiveStart") -> None:
        self.start = start
        super().__init__(
            f"pool {start.pool!r}: the archive was pruned up to seq {start.seq} ({start.ts} ms);"
            " `muster archive import` brings back what an export has"
        )


class ArchiveStart(Struct, frozen=True):
    """The last pruned event of a log, and the checksum of the snapshot after it."""

    pool: str
    generation: int
    seq: int
    stream_id: str
    ts: int
    sha256: str = ""


class Entry(Struct, frozen=True, order=True):
    """One thing that lived: an agent, a worker; `state` is JSON."""

    kind: str
    name: str
    state: str


_START: Final = ArchiveStart.__struct_fields__
_ENTRY: Final = Entry.__struct_fields__


def read_starts(connection: Connection) -> dict[str, ArchiveStart]:
    """Of all pruned logs, by pool."""
    rows = run(connection, f"SELECT {', '.join(_START)} FROM {{}}archive_starts")
    return {row.pool: ArchiveStart(*row) for row in rows}


def checksum(start: ArchiveStart, entries: Iterable[Entry]) -> str:
    """SHA-256 of position and entries."""
    found = hashlib.sha256(msgspec.json.encode(astuple(start)[:-1]))
    for entry in sorted(entries):
        found.update(msgspec.json.encode(astuple(entry)))
    return found.hexdigest()


def write_entries(connection: Connection, start: ArchiveStart, entries: Sequence[Entry]) -> None:
    """Some entries of a snapshot that does not count yet."""
    rows = [(start.pool, start.seq, *astuple(entry)) for entry in entries]
    write_rows(connection, ARCHIVE_SNAPSHOTS, ("pool", "seq", *_ENTRY), rows, "renew")


def begin_at(connection: Connection, start: ArchiveStart) -> None:
    """Let a log start there: its entries are written."""
    write_rows(connection, ARCHIVE_STARTS, _START, [astuple(start)], "renew")


def forget_start(connection: Connection, pool: str) -> None:
    """Let a log start at its first event again: all of them are archived."""
    for table in ("archive_starts", "archive_snapshots"):
        run(connection, f"DELETE FROM {{}}{table} WHERE pool = ?", pool)


def drop_other_entries(connection: Connection, start: ArchiveStart) -> None:
    """Delete those of earlier snapshots, and of ones that never counted."""
    drop = "DELETE FROM {}archive_snapshots WHERE pool = ? AND seq <> ?"
    run(connection, drop, start.pool, start.seq)


def read_entries(connection: Connection, start: ArchiveStart) -> list[Entry]:
    """All entries of a snapshot. Raises `SnapshotDamaged`."""
    query = f"SELECT {', '.join(_ENTRY)} FROM {{}}archive_snapshots WHERE pool = ? AND seq = ?"
    entries = [Entry(*row) for row in run(connection, query, start.pool, start.seq)]
    if (found := checksum(start, entries)) != start.sha256:
        why = f"its SHA-256 is {found}, and {start.sha256} when it was written"
        raise SnapshotDamaged(
            f"pool {start.pool!r}: the snapshot at seq {start.seq} is damaged: {why};"
            " put the tables archive_starts and archive_snapshots back from a backup, or the"
            " events with `muster archive import`"
        )
    return entries


def entries_of_kind(connection: Connection, start: ArchiveStart, kind: str) -> list[Entry]:
    """All entries of a kind; the checksum is not compared."""
    query = f"SELECT {', '.join(_ENTRY)} FROM {{}}archive_snapshots WHERE pool = ? AND seq = ?"
    rows = run(connection, f"{query} AND kind = ?", start.pool, start.seq, kind)
    return [Entry(*row) for row in rows]


def entries_of(
    connection: Connection, start: ArchiveStart, kind: str, names: Iterable[str]
) -> Mapping[str, str]:
    """The states of some entries, by name."""
    found: dict[str, str] = {}
    for some in chunks(sorted(names), IDS_MAX):
        of_start = (_S.pool == start.pool, _S.seq == start.seq, _S.kind == kind)
        query = select(_S.name, _S.state).where(*of_start, _S.name.in_(some))
        found |= {row.name: row.state for row in connection.execute(query)}
    return found


def pool_of(connection: Connection, kind: str, name: str) -> str | None:
    """The pool with an entry of that name."""
    query = select(_S.pool).where(_S.kind == kind, _S.name == name).limit(1)
    pool: str | None = connection.execute(query).scalar()
    return pool


def agents_of(entries: Iterable[Entry]) -> dict[str, Agent]:
    """The agents among the entries of a snapshot."""
    return {e.name: decode_agent(e.state) for e in entries if e.kind == AGENT}


def workers_of(entries: Iterable[Entry]) -> dict[str, Worker]:
    """The workers among the entries of a snapshot."""
    return {e.name: decode_worker(e.state) for e in entries if e.kind == WORKER}


class _Usage(Struct):
    """`rows`: values of the fields `names`, of each row."""

    role_type: str
    project_id: str
    labels: str
    names: tuple[str, ...]
    rows: list[tuple[int, ...]]


_usage: Final = msgspec.json.Decoder(_Usage)


def usage_entry(account: Account, sums: Iterable[Sums]) -> Entry:
    """An account of usage, and all its rows, as an entry."""
    rows = [astuple(row)[2:] for row in sums]
    of = _Usage(account.role_type, account.project_id, account.labels, NAMES[2:], rows)
    return Entry(USAGE, str(account.account), msgspec.json.encode(of).decode())


def usage_of(pool: str, entries: Iterable[Entry]) -> Iterator[tuple[Account, list[Sums]]]:
    """The accounts among the entries of a snapshot, each with its rows."""
    for entry in entries:
        if entry.kind == USAGE:
            of, number = _usage.decode(entry.state), int(entry.name)
            account = Account(pool, number, of.role_type, of.project_id, of.labels)
            named = (dict(zip(of.names, row, strict=True)) for row in of.rows)
            yield account, [Sums(pool, number, **values) for values in named]


def entry_of(state: Agent | Worker) -> Entry:
    """An agent or a worker as an entry."""
    if isinstance(state, Agent):
        return Entry(AGENT, state.agent_id, msgspec.json.encode(state).decode())
    return Entry(WORKER, state.worker_id, msgspec.json.encode(state).decode())
