"""The archive read as one log: what comes after or before an id of a stream, over generations.

Ids of a stream never go back, also not where a log was recovered under a new generation; there
`seq` goes on from where the recovery began. What an older generation holds above that was lost, and
is passed over here. The table has no index on ids: they grow with `seq`, so a place is found by
halving, in some twenty looks at the primary key.
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Select, func, select

from projector.store.rows import EventRow
from projector.store.tables import EVENTS

E = EVENTS.c


class Stretch(Struct, frozen=True):
    """What counts of one generation of a pool's log: the archive's rows from `first` to `last`."""

    pool: str
    generation: int
    first: int
    last: int

    def rows(self, *columns: Any) -> Select[Any]:
        chosen = select(*(columns or EVENTS.c))
        return chosen.where(_of(self.pool, self.generation), E.seq.between(self.first, self.last))


def id_order(stream_id: str) -> tuple[int, int]:
    """A key that sorts ids of a stream; `0` is before, `+` after all of them."""
    if stream_id == "+":
        return 2**64, 0
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


def stretches(connection: Connection, pool: str, newest: int | None = None) -> list[Stretch]:
    """The generations of a pool's log, in order; `newest`: as it was in that one."""
    found: list[Stretch] = []
    generation = _next_generation(connection, pool, -1)
    while generation is not None and (newest is None or generation <= newest):
        of = _of(pool, generation)
        ends = select(
            select(func.min(E.seq)).where(of).scalar_subquery(),
            select(func.max(E.seq)).where(of).scalar_subquery(),
        )
        first, last = connection.execute(ends).one()
        found.append(Stretch(pool, generation, first, last))
        generation = _next_generation(connection, pool, generation)
    return [*reversed(_counting(reversed(found)))]


def _counting(newest_first: Iterable[Stretch]) -> list[Stretch]:
    """Without what lies at or above the beginning of a later generation."""
    kept: list[Stretch] = []
    for stretch in newest_first:
        last = min([stretch.last, *(later.first - 1 for later in kept)])
        kept.append(replace(stretch, last=last))
    return kept


def after(
    connection: Connection, pool: str, stream_id: str, *, until: str = "+", count: int
) -> list[EventRow]:
    """Archived events with ids after one and up to another, oldest first."""
    beyond, end = id_order(stream_id), id_order(until)
    found: list[EventRow] = []
    for stretch in stretches(connection, pool):
        left = count - len(found)
        if left <= 0:
            break
        first = _first(connection, stretch, lambda at: at > beyond)
        rows = stretch.rows().where(E.seq >= first).order_by(E.seq).limit(left)
        found += [EventRow(**row) for row in connection.execute(rows).mappings()]
    return [row for row in found if id_order(row.stream_id) <= end]


def before(connection: Connection, pool: str, stream_id: str, *, count: int) -> list[EventRow]:
    """Archived events with ids before one, newest first."""
    end = id_order(stream_id)
    found: list[EventRow] = []
    for stretch in reversed(stretches(connection, pool)):
        left = count - len(found)
        if left <= 0:
            break
        first = _first(connection, stretch, lambda at: at >= end)
        rows = stretch.rows().where(E.seq < first).order_by(E.seq.desc()).limit(left)
        found += [EventRow(**row) for row in connection.execute(rows).mappings()]
    return found


def id_before(connection: Connection, pool: str, seq: int) -> str:
    """The id of the last archived event below a seq; `0` if there is none."""
    for stretch in reversed(stretches(connection, pool)):
        below = stretch.rows(EVENTS.c.stream_id).where(E.seq < seq).order_by(E.seq.desc()).limit(1)
        if found := connection.execute(below).scalar():
            return str(found)
    return "0"


def _first(
    connection: Connection, stretch: Stretch, reached: Callable[[tuple[int, int]], bool]
) -> int:
    """The first seq whose event's id has reached a point; one past the end if none has."""
    low, high = stretch.first, stretch.last + 1
    while low < high:
        middle = (low + high) // 2
        at = stretch.rows(E.seq, EVENTS.c.stream_id).where(E.seq >= middle).order_by(E.seq).limit(1)
        row = connection.execute(at).first()
        if row is None or reached(id_order(row.stream_id)):
            high = middle
        else:
            low = row.seq + 1
    return low


def _of(pool: str, generation: int) -> ColumnElement[bool]:
    return (EVENTS.c.pool == pool) & (E.generation == generation)


def _next_generation(connection: Connection, pool: str, generation: int) -> int | None:
    beyond = select(func.min(E.generation)).where(EVENTS.c.pool == pool, E.generation > generation)
    found: int | None = connection.execute(beyond).scalar()
    return found
