"""Reads the archive as one log over all generations: events after or before an id of the stream.

Ids of a stream never go back, not even where a log was recovered under a new generation; there
`seq` continues from the recovery's position. Events of an older generation above it were lost, and
are skipped here. The table has no index on ids. They grow with `seq`, so a position is found by
bisection, with some twenty reads of the primary key.
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Select, func, select

from projector.store.rows import EventRow
from projector.store.tables import EVENTS

E = EVENTS.c


class GenerationRange(Struct, frozen=True):
    """The valid events of one generation of a pool's log: archived rows `first` to `last`."""

    pool: str
    generation: int
    first: int
    last: int

    def rows(self, *columns: Any) -> Select[Any]:
        query = select(*(columns or EVENTS.c))
        return query.where(
            _in_generation(self.pool, self.generation), E.seq.between(self.first, self.last)
        )


def id_order(stream_id: str) -> tuple[int, int]:
    """A key that sorts ids of a stream; `0` is before all ids, `+` after them."""
    if stream_id == "+":
        return 2**64, 0
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


def generation_ranges(
    connection: Connection, pool: str, newest: int | None = None
) -> list[GenerationRange]:
    """The generations of a pool's log, in order; `newest`: as it was in that one."""
    found: list[GenerationRange] = []
    generation = _next_generation(connection, pool, -1)
    while generation is not None and (newest is None or generation <= newest):
        in_generation = _in_generation(pool, generation)
        bounds = select(
            select(func.min(E.seq)).where(in_generation).scalar_subquery(),
            select(func.max(E.seq)).where(in_generation).scalar_subquery(),
        )
        first, last = connection.execute(bounds).one()
        found.append(GenerationRange(pool, generation, first, last))
        generation = _next_generation(connection, pool, generation)
    return [*reversed(_without_superseded(reversed(found)))]


def _without_superseded(newest_first: Iterable[GenerationRange]) -> list[GenerationRange]:
    """Without events at or above the start of a later generation."""
    ranges: list[GenerationRange] = []
    for part in newest_first:
        last = min([part.last, *(later.first - 1 for later in ranges)])
        ranges.append(replace(part, last=last))
    return ranges


def after(
    connection: Connection, pool: str, stream_id: str, *, until: str = "+", count: int
) -> list[EventRow]:
    """Archived events with ids after one and up to another, oldest first."""
    start, end = id_order(stream_id), id_order(until)
    found: list[EventRow] = []
    for part in generation_ranges(connection, pool):
        remaining = count - len(found)
        if remaining <= 0:
            break
        first = _first_seq(connection, part, lambda at: at > start)
        rows = part.rows().where(E.seq >= first).order_by(E.seq).limit(remaining)
        found += [EventRow(**row) for row in connection.execute(rows).mappings()]
    return [row for row in found if id_order(row.stream_id) <= end]


def before(connection: Connection, pool: str, stream_id: str, *, count: int) -> list[EventRow]:
    """Archived events with ids before one, newest first."""
    end = id_order(stream_id)
    found: list[EventRow] = []
    for part in reversed(generation_ranges(connection, pool)):
        remaining = count - len(found)
        if remaining <= 0:
            break
        first = _first_seq(connection, part, lambda at: at >= end)
        rows = part.rows().where(E.seq < first).order_by(E.seq.desc()).limit(remaining)
        found += [EventRow(**row) for row in connection.execute(rows).mappings()]
    return found


def id_before(connection: Connection, pool: str, seq: int) -> str:
    """The id of the last archived event below a seq; `0` if there is none."""
    for part in reversed(generation_ranges(connection, pool)):
        query = part.rows(EVENTS.c.stream_id).where(E.seq < seq).order_by(E.seq.desc()).limit(1)
        if found := connection.execute(query).scalar():
            return str(found)
    return "0"


def _first_seq(
    connection: Connection, part: GenerationRange, reached: Callable[[tuple[int, int]], bool]
) -> int:
    """The first seq whose event's id has reached a point; one past the end if none has."""
    low, high = part.first, part.last + 1
    while low < high:
        middle = (low + high) // 2
        query = part.rows(E.seq, EVENTS.c.stream_id).where(E.seq >= middle).order_by(E.seq).limit(1)
        row = connection.execute(query).first()
        if row is None or reached(id_order(row.stream_id)):
            high = middle
        else:
            low = row.seq + 1
    return low


def _in_generation(pool: str, generation: int) -> ColumnElement[bool]:
    return (EVENTS.c.pool == pool) & (E.generation == generation)


def _next_generation(connection: Connection, pool: str, generation: int) -> int | None:
    query = select(func.min(E.generation)).where(EVENTS.c.pool == pool, E.generation > generation)
    found: int | None = connection.execute(query).scalar()
    return found
