"""Places in a log's history: a `seq` of the archive, and which events came before it.

A log that was rebuilt after a loss goes on counting in a new generation; what the older one has
from there on is void. So the history of a log is a row of spans, one for each generation, the last
of which may be cut: at a `seq`, at a time, or at an older generation as it was before the loss.

`ts` never goes back within a log, so a time is found by halving.

Moments of the past: one place in every log.
"""

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, and_, false, func, or_, select

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from projector.intake.archive import generation_ranges
from projector.intake.source import archive_heads
from projector.store.rows import EventRow
from projector.store.tables import EVENTS


class NotYetArchived(MusterError):
    """The archive does not go as far as that."""


class ArchiveIncomplete(MusterError):
    """The archive lacks events that came before; from seq `complete_from` on it is whole."""

    def __init__(self, pool: str, complete_from: int, ts: int) -> None:
        self.pool, self.complete_from, self.ts = pool, complete_from, ts
        name = f"pool {pool!r}" if pool else "the catalogue"
        super().__init__(f"{name}: the archive is complete from seq {complete_from} on ({ts} ms)")


class Span(Struct, frozen=True):
    """The part of a generation's events that stands, first and last seq included.

    `last` below `first`: the place is before the first event that is archived, and not at a log's
    beginning. Nothing stands of it.
    """

    generation: int
    first: int
    last: int


class LogPosition(Struct, frozen=True):
    """A log's history up to and with `seq`; seq 0: before its first event."""

    pool: str
    spans: tuple[Span, ...]
    ts: int
    """Of the event at `seq`."""
    at_end: bool
    """Whether nothing comes after it as yet."""

    @property
    def seq(self) -> int:
        return self.spans[-1].last if self.spans else 0

    @property
    def generation(self) -> int:
        return self.spans[-1].generation if self.spans else 0

    @property
    def in_archive(self) -> bool:
        """Whether it is at an event that is archived, or before all that ever were."""
        return not self.spans or self.spans[0].first <= self.seq

    @property
    def truncated(self) -> bool:
        """Whether its first events are not archived."""
        return bool(self.spans) and self.spans[0].first > 1

    def includes(self, row: EventRow) -> bool:
        """Whether an event is one of its own."""
        return row.pool == self.pool and any(
            row.generation == span.generation and span.first <= row.seq <= span.last
            for span in self.spans
        )

    def event_filter(self, first: int = 1) -> ColumnElement[bool]:
        """The condition that selects its events, from seq `first` on."""
        e = EVENTS.c
        spans = (
            and_(e.generation == s.generation, e.seq.between(max(s.first, first), s.last))
            for s in self.spans
        )
        return and_(e.pool == self.pool, or_(false(), *spans))


def history_spans(connection: Connection, pool: str, newest: int | None = None) -> tuple[Span, ...]:
    """All that stands of a log; `newest`: as it was in that generation."""
    found = generation_ranges(connection, pool, newest)
    return tuple(Span(s.generation, s.first, s.last) for s in found if s.first <= s.last)


def position_at_event(
    connection: Connection, pool: str, seq: int, generation: int | None = None
) -> LogPosition:
    """The place of an event, in the log of today or in an older generation of it.

    Raises `NotReached`; and `ArchiveIncomplete` before the archive's beginning: when it was is not
    known, so nothing can be told of other logs either.
    """
    spans = history_spans(connection, pool, generation)
    end = spans[-1].last if spans else 0
    if seq > end:
        name = f"pool {pool!r}" if pool else "the catalogue"
        raise NotYetArchived(f"{name}: the archive ends at seq {end}")
    if generation is not None and spans and spans[-1].generation != generation:
        raise NotYetArchived(f"nothing is archived of generation {generation}")
    position = _cut(connection, pool, spans, seq)
    if not position.in_archive:
        require_complete(connection, position)
    return position


def position_at_time(connection: Connection, pool: str, at_ms: int) -> LogPosition:
    """The place after all events with a `ts` up to that time."""
    spans = history_spans(connection, pool)
    low = spans[0].first - 1 if spans else 0
    high = spans[-1].last if spans else 0
    while low < high:
        middle = (low + high + 1) // 2
        if _ts(connection, pool, spans, middle) <= at_ms:
            low = middle
        else:
            high = middle - 1
    return _cut(connection, pool, spans, low)


def _cut(connection: Connection, pool: str, spans: tuple[Span, ...], seq: int) -> LogPosition:
    cut_spans = tuple(
        Span(span.generation, span.first, min(span.last, seq))
        for span in spans
        if span.first <= seq
    )
    ts = _ts(connection, pool, cut_spans, seq) if cut_spans else 0
    if not cut_spans and spans and seq:
        cut_spans = (Span(spans[0].generation, spans[0].first, seq),)
    return LogPosition(pool, cut_spans, ts, at_end=not spans or seq >= spans[-1].last)


def _ts(connection: Connection, pool: str, spans: tuple[Span, ...], seq: int) -> int:
    """Of the event at a seq, or where that is missing of the one before it."""
    span = [span for span in spans if span.first <= seq][-1]
    query = (
        select(EVENTS.c.ts)
        .where(EVENTS.c.pool == pool, EVENTS.c.generation == span.generation)
        .where(EVENTS.c.seq.between(span.first, min(seq, span.last)))
        .order_by(EVENTS.c.seq.desc())
        .limit(1)
    )
    return int(connection.execute(query).scalar() or 0)


def require_complete(connection: Connection, position: LogPosition, first: int = 1) -> None:
    """Raises `ArchiveIncomplete` unless every event from `first` to the place is archived."""
    expected = position.seq - first + 1
    if expected <= 0:
        return
    counted = select(func.count()).select_from(EVENTS).where(position.event_filter(first))
    if connection.execute(counted).scalar_one() == expected:
        return
    # Of an ascending row without gaps, seq less its rank is the same everywhere.
    rank = func.row_number().over(order_by=EVENTS.c.seq.desc())
    ranked = select(EVENTS.c.seq, EVENTS.c.ts, rank.label("rank")).where(
        position.event_filter(first)
    )
    rows = ranked.subquery()
    unbroken = (
        select(rows.c.seq, rows.c.ts)
        .where(rows.c.seq + rows.c.rank == position.seq + 1)
        .order_by(rows.c.seq)
        .limit(1)
    )
    row = (
        connection.execute(unbroken).first() or connection.execute(_next_archived(position)).first()
    )
    raise ArchiveIncomplete(
        position.pool, row.seq if row else position.seq + 1, row.ts if row else 0
    )


def _next_archived(position: LogPosition) -> Select[tuple[int, int]]:
    """The first archived event after a place that is not archived itself."""
    e = EVENTS.c
    later = and_(e.pool == position.pool, e.generation >= position.generation, e.seq > position.seq)
    return select(e.seq, e.ts).where(later).order_by(e.seq).limit(1)


class AsOf(Struct, frozen=True):
    """Which moment: that of a time, of events (`pool` to generation and seq), or both.

    Logs of which no event is named are taken at the time, or else at that of the latest event.
    """

    at_ms: int | None = None
    events: Mapping[str, tuple[int | None, int]] = {}


class PointInTime(Struct, frozen=True):
    """A place in every log that is looked at."""

    at_ms: int
    positions: Mapping[str, LogPosition]
    named_pools: frozenset[str] = frozenset()
    """Logs of which an event was named: others of its time may come after it."""

    def position_of(self, pool: str) -> LogPosition:
        return self.positions.get(pool, LogPosition(pool, (), 0, at_end=True))

    def __str__(self) -> str:
        """The same moment in every log, also when more events of its time are archived."""
        pinned = [
            f"{pool}:{place.generation}:{place.seq}" if place.spans else f"{pool}:0"
            for pool, place in self.positions.items()
            if pool in self.named_pools or (place.at_end and place.spans)
        ]
        return ",".join([str(self.at_ms), *pinned])


def find_point(connection: Connection, as_of: AsOf, pool_names: set[str] | None) -> PointInTime:
    """The place of every log (`named`: of these) in a moment. Raises `NotReached`."""
    fixed = {
        pool: position_at_event(connection, pool, seq, generation)
        for pool, (generation, seq) in as_of.events.items()
    }
    at_ms = as_of.at_ms
    if at_ms is None:
        at_ms = max((place.ts for place in fixed.values()), default=0)
    pools = {CATALOGUE, *archive_heads(connection)} if pool_names is None else pool_names
    positions = {
        pool: fixed[pool] if pool in fixed else position_at_time(connection, pool, at_ms)
        for pool in sorted(pools)
    }
    return PointInTime(at_ms, positions, frozenset(fixed))
