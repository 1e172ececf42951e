"""Positions in a log's history: a `seq` of the archive, and the events up to it.

A log that was recovered continues its `seq` in a new generation; events of the older one from there
on are void. So the history of a log is a list of spans, one for each generation. The last one may
be cut: at a `seq`, at a time, or at an older generation as it was before the loss. Where its `last`
is below its `first`, it is empty: the position is before the first archived event, but not at the
start of the log.

`ts` never goes back within a log, so a time is found by bisection.

A point in time is one position in every log.
"""

from bisect import bisect_right
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from projector.intake.archive import GenerationRange, generation_ranges
from projector.intake.source import archived
from projector.store.archive_starts import ArchivePruned, ArchiveStart, read_starts
from projector.store.rows import EventRow
from projector.store.tables import EVENTS


class NotYetArchived(MusterError):
    """The archive does not reach that point yet."""


class ArchiveIncomplete(MusterError):
    """The archive lacks earlier events; it is complete from seq `complete_from` on."""

    def __init__(self, pool: str, complete_from: int, ts: int) -> None:
        self.pool, self.complete_from, self.ts = pool, complete_from, ts
        name = f"pool {pool!r}" if pool else "the catalogue"
        super().__init__(f"{name}: the archive is complete from seq {complete_from} on ({ts} ms)")


class LogPosition(Struct, frozen=True):
    """A log's history up to and including `seq`; seq 0: before its first event."""

    pool: str
    spans: tuple[GenerationRange, ...]
    ts: int
    """Of the event at `seq`."""
    at_end: bool
    """Whether no event follows it yet."""
    start: ArchiveStart | None = None
    """With what it begins, if its log was pruned."""

    @property
    def seq(self) -> int:
        return self.spans[-1].last if self.spans else 0

    @property
    def generation(self) -> int:
        return self.spans[-1].generation if self.spans else 0

    @property
    def truncated(self) -> bool:
        """Whether its first events are not archived, and no snapshot has what they led to."""
        return bool(self.spans) and self.spans[0].first > self.first_seq

    @property
    def first_seq(self) -> int:
        """Of its first event, or of the first one after the snapshot."""
        return self.start.seq + 1 if self.start else 1

    def includes(self, row: EventRow) -> bool:
        """Whether an event belongs to it."""
        return row.pool == self.pool and any(
            row.generation == span.generation
            and max(span.first, self.first_seq) <= row.seq <= span.last
            for span in self.spans
        )

    def event_filter(self, first: int = 1) -> ColumnElement[bool]:
        """The condition that selects its events, from seq `first` on."""
        e = EVENTS.c
        spans = (
            and_(
                e.generation == s.generation,
                e.seq.between(max(s.first, first, self.first_seq), s.last),
            )
            for s in self.spans
        )
        return and_(e.pool == self.pool, or_(false(), *spans))


def position_at_event(
    connection: Connection, pool: str, seq: int, generation: int | None = None
) -> LogPosition:
    """The position of an event, in the current log or in an older generation of it.

    Raises `NotYetArchived`; `ArchivePruned`; and `ArchiveIncomplete` before the archive's first
    event: the time of the event is unknown, and so are the positions of other logs then.
    """
    start = read_starts(connection).get(pool)
    if start and (seq < start.seq or (generation or start.generation) < start.generation):
        raise ArchivePruned(start)
    spans = generation_ranges(connection, pool, generation)
    end = spans[-1].last if spans else 0
    if seq > end:
        name = f"pool {pool!r}" if pool else "the catalogue"
        raise NotYetArchived(f"{name}: the archive ends at seq {end}")
    if generation is not None and spans and spans[-1].generation != generation:
        raise NotYetArchived(f"nothing is archived of generation {generation}")
    position = _cut(connection, pool, spans, seq)
    if position.spans and position.spans[0].first > seq:
        require_complete(connection, position)
    return position


def position_at_time(connection: Connection, pool: str, at_ms: int) -> LogPosition:
    """The position after all events with a `ts` up to that time."""
    spans = generation_ranges(connection, pool)
    seqs = range(spans[0].first, spans[-1].last + 1) if spans else range(1, 1)
    count = bisect_right(seqs, at_ms, key=lambda seq: _ts(connection, spans, seq))
    return _cut(connection, pool, spans, seqs.start + count - 1)


def _cut(connection: Connection, pool: str, spans: list[GenerationRange], seq: int) -> LogPosition:
    cut = [replace(span, last=min(span.last, seq)) for span in spans if span.first <= seq]
    ts = _ts(connection, cut, seq) if cut else 0
    if not cut and spans and seq:
        cut = [replace(spans[0], last=seq)]
    start = read_starts(connection).get(pool)
    if start and start.seq == seq:
        ts = start.ts
    at_end = not spans or seq >= spans[-1].last
    return LogPosition(pool, tuple(cut), ts, at_end, start)


def _ts(connection: Connection, spans: list[GenerationRange], seq: int) -> int:
    """Of the event at a seq, or of the one before it where that one is missing."""
    span = [span for span in spans if span.first <= seq][-1]
    query = span.rows(EVENTS.c.ts, end=seq + 1).order_by(EVENTS.c.seq.desc())
    return int(connection.execute(query.limit(1)).scalar() or 0)


def require_complete(connection: Connection, position: LogPosition, first: int = 1) -> None:
    """Raises `ArchiveIncomplete` unless every event from `first` to the position is archived.

    What a snapshot covers is not needed.
    """
    first = max(first, position.first_seq)
    expected = position.seq - first + 1
    if expected <= 0:
        return
    counted = select(func.count()).select_from(EVENTS).where(position.event_filter(first))
    if connection.execute(counted).scalar_one() == expected:
        return
    # In an unbroken run up to the position, seq plus its rank from the end is constant.
    e = EVENTS.c
    rank = func.row_number().over(order_by=e.seq.desc())
    ranked = select(e.seq, e.ts, rank.label("rank")).where(position.event_filter(first)).subquery()
    unbroken = select(ranked.c.seq, ranked.c.ts).where(
        ranked.c.seq + ranked.c.rank == position.seq + 1
    )
    # Where the position itself is not archived: the first archived event after it.
    following = select(e.seq, e.ts).where(
        e.pool == position.pool, e.generation >= position.generation, e.seq > position.seq
    )
    for query in (unbroken, following):
        if row := connection.execute(query.order_by("seq").limit(1)).first():
            raise ArchiveIncomplete(position.pool, row.seq, row.ts)
    raise ArchiveIncomplete(position.pool, position.seq + 1, 0)


class AsOf(Struct, frozen=True):
    """A point in time, given by a time, by events (`pool` to generation and seq), or by both.

    Logs of which no event is named are at that time, or else at the time of the latest event.
    """

    at_ms: int | None = None
    events: Mapping[str, tuple[int | None, int]] = {}


class PointInTime(Struct, frozen=True):
    """A position in every log that is queried."""

    at_ms: int
    positions: Mapping[str, LogPosition]
    named_pools: frozenset[str] = frozenset()
    """Logs of which an event was named: others with the same `ts` may follow it."""

    def position_of(self, pool: str) -> LogPosition:
        return self.positions.get(pool, LogPosition(pool, (), 0, at_end=True))

    def __str__(self) -> str:
        """Names the same point in every log, also once more events with its `ts` are archived."""
        pinned = [
            f"{pool}:{position.generation}:{position.seq}" if position.spans else f"{pool}:0"
            for pool, position in self.positions.items()
            if pool in self.named_pools or (position.at_end and position.spans)
        ]
        return ",".join([str(self.at_ms), *pinned])


def find_point(connection: Connection, as_of: AsOf, pool_names: set[str] | None) -> PointInTime:
    """The position of every log (None) or of some at a point.

    Raises `NotYetArchived`, and `ArchivePruned` before the start of a pruned log.
    """
    fixed = {
        pool: position_at_event(connection, pool, seq, generation)
        for pool, (generation, seq) in as_of.events.items()
    }
    at_ms = as_of.at_ms
    if at_ms is None:
        at_ms = max((position.ts for position in fixed.values()), default=0)
    pools = {CATALOGUE, *archived(connection)} if pool_names is None else pool_names
    positions = {
        pool: fixed.get(pool) or position_at_time(connection, pool, at_ms) for pool in sorted(pools)
    }
    for pool, position in positions.items():
        if position.start and pool not in fixed and at_ms < position.start.ts:
            raise ArchivePruned(position.start)
    return PointInTime(at_ms, positions, frozenset(fixed))
