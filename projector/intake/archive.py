"""Reads the archive as one log over all generations: events after or before an id of the stream.

Ids of a stream never go back, not even where a log was recovered under a new generation; there
`seq` continues from the recovery's position. Events of an older generation above it were lost, and
are skipped here. The table has no index on ids. They grow with `seq`, so a position is found by
bisection, with some twenty reads of the primary key.

`EventRange` reads the stream, and the archive where it was trimmed, for readers that may have
fallen behind. Only archived events are trimmed, so that the two together have every event, and the
trimming need not know any reader.
"""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Select, func, select

from eventstore.keys import Keys
from eventstore.log.reader import Entry
from projector.intake.entries import entry_of, read_entry
from projector.store.archive_starts import ArchivePruned, read_starts
from projector.store.rows import EventRow
from projector.store.tables import EVENTS

E = EVENTS.c


class GenerationRange(Struct, frozen=True):
    """The valid events of one generation of a pool's log: archived rows `first` to `last`."""

    pool: str
    generation: int
    first: int
    last: int

    def rows(self, *columns: Any, first: int = 0, end: int | None = None) -> Select[Any]:
        """Those from seq `first`, and before `end`; with one bound at each side for the index."""
        last = self.last if end is None else min(self.last, end - 1)
        query = select(*(columns or E)).where(E.pool == self.pool, E.generation == self.generation)
        return query.where(E.seq.between(max(self.first, first), last))


def id_order(stream_id: str) -> tuple[int, int]:
    """A key that sorts ids of a stream; `0` is before all ids, `+` after them."""
    if stream_id == "+":
        return 2**64, 0
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


def stored_ranges(
    connection: Connection, pool: str, newest: int | None = None
) -> list[GenerationRange]:
    """All archived events of a pool, also superseded ones, by generation in order.

    `newest`: up to that one.
    """
    found: list[GenerationRange] = []
    oldest = (
        select(E.generation, E.seq).where(E.pool == pool).order_by(E.generation, E.seq).limit(1)
    )
    start = connection.execute(oldest).first()
    while start is not None and (newest is None or start.generation <= newest):
        last = select(func.max(E.seq)).where(E.pool == pool, E.generation == start.generation)
        last_seq = connection.execute(last).scalar_one()
        found.append(GenerationRange(pool, start.generation, start.seq, last_seq))
        start = connection.execute(oldest.where(E.generation > start.generation)).first()
    return found


def generation_ranges(
    connection: Connection, pool: str, newest: int | None = None
) -> list[GenerationRange]:
    """The generations of a pool's log that have valid events, in order.

    `newest`: as it was in that one.
    """
    found: list[GenerationRange] = []
    for stored in stored_ranges(connection, pool, newest):
        # Events at or above the start of a later generation are superseded.
        found = [replace(part, last=min(part.last, stored.first - 1)) for part in found]
        found.append(stored)
    return [part for part in found if part.first <= part.last]


def after(
    connection: Connection, pool: str, stream_id: str, until: str = "+", count: int = 1000
) -> list[EventRow]:
    """Archived events with ids after one and up to another, oldest first.

    After `0` these are the first that there are. Raises `ArchivePruned` for a later id before which
    the archive was pruned: events after it would be missing.
    """
    start, end = id_order(stream_id), id_order(until)
    pruned = read_starts(connection).get(pool)
    if pruned and (0, 0) < start < id_order(pruned.stream_id):
        raise ArchivePruned(pruned)
    queries = (
        part.rows(first=_first_seq(connection, part, lambda at: at > start)).order_by(E.seq)
        for part in generation_ranges(connection, pool)
    )
    found = _first_rows(connection, queries, count)
    return [row for row in found if id_order(row.stream_id) <= end]


def before(connection: Connection, pool: str, stream_id: str, count: int = 1000) -> list[EventRow]:
    """Archived events with ids before one, newest first."""
    end = id_order(stream_id)
    queries = (
        part.rows(end=_first_seq(connection, part, lambda at: at >= end)).order_by(E.seq.desc())
        for part in reversed(generation_ranges(connection, pool))
    )
    return _first_rows(connection, queries, count)


def _first_rows(
    connection: Connection, queries: Iterable[Select[Any]], count: int
) -> list[EventRow]:
    found: list[EventRow] = []
    for query in queries:
        rows = connection.execute(query.limit(count - len(found))).mappings()
        found += [EventRow(**row) for row in rows]
        if len(found) >= count:
            break
    return found


def id_before(connection: Connection, pool: str, seq: int) -> str:
    """The id of the last archived event below a seq; `0` if there is none."""
    for part in reversed(generation_ranges(connection, pool)):
        query = part.rows(E.stream_id, end=seq).order_by(E.seq.desc()).limit(1)
        if found := connection.execute(query).scalar():
            return str(found)
    return "0"


def _first_seq(
    connection: Connection, part: GenerationRange, reached: Callable[[tuple[int, int]], bool]
) -> int:
    """The first seq whose event's id has reached a point; one past the end if none has."""

    def from_here(seq: int) -> bool:
        query = part.rows(E.stream_id, first=seq).order_by(E.seq).limit(1)
        stream_id = connection.execute(query).scalar()
        return stream_id is None or reached(id_order(stream_id))

    seqs = range(part.first, part.last + 1)
    return part.first + bisect_left(seqs, True, key=from_here)


def first_seq_at(connection: Connection, parts: Sequence[GenerationRange], ms: int) -> int:
    """The first seq of an event at or after a time; one past the end if there is none."""
    for part in parts:
        seq = _first_seq(connection, part, lambda at: at >= (ms, 0))
        if seq <= part.last:
            return seq
    return parts[-1].last + 1 if parts else 1


class ReadRange(Protocol):
    """XRANGE: entries of a stream between two ids, as `Reader.range` reads them."""

    def __call__(
        self, stream: str, first: str, last: str, *, count: int
    ) -> Awaitable[list[Entry]]: ...


ReadArchive: TypeAlias = Callable[[str, str, str, int], Awaitable[Sequence[EventRow]]]
"""Archived events of a pool, after one id and up to another, at most so many."""


class EventRange:
    """Reads one pool at a time, page by page. `read_archive` None: reads streams only."""

    def __init__(self, keys: Keys, read: ReadRange, read_archive: ReadArchive | None) -> None:
        self._keys = keys
        self._read = read
        self._read_archive = read_archive

    async def after(
        self, pool: str, stream_id: str, *, until: str = "+", count: int
    ) -> list[Entry]:
        """Events after an id (`0`: from the start), in order; empty where there are none.

        Raises what reading the stream or the archive raises.
        """
        stream = self._keys.pool(pool, "events")
        start = "-" if stream_id in ("", "0", "0-0") else f"({stream_id}"
        entries = await self._read(stream, start, until, count=count)
        # Checked after the read: events that are not trimmed now were not trimmed then.
        if self._read_archive is None or not await self._trimmed_past(stream, stream_id):
            return entries
        rows = await self._read_archive(pool, stream_id or "0", until, count)
        return [entry_of(row) for row in rows] or entries

    async def _trimmed_past(self, stream: str, stream_id: str) -> bool:
        """Whether events after an id may have been trimmed."""
        oldest = [read_entry("", 0, entry) for entry in await self._read(stream, "-", "+", count=1)]
        start = id_order(stream_id or "0")
        return any(row.seq > 1 and id_order(row.stream_id) > start for row in oldest)
