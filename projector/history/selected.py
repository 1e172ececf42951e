"""Some kinds of events of one log over a span of time, streamed from the archive.

A page is a range of `seq`, read in a transaction of its own: whoever folds millions of events
neither holds one transaction for long nor has them all in memory.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec import Struct
from sqlalchemy import Connection, case, literal, select

from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue
from projector.history.positions import LogPosition, position_at_time
from projector.history.replay import HistoricalState
from projector.intake.archive import GenerationRange
from projector.store.database import Database
from projector.store.tables import EVENTS

PAGE: Final = 20_000
"""How many values of `seq` a page covers."""
LAST_MS: Final = 2**62

Selected: TypeAlias = Sequence[tuple[str, str, str, int, str]]
"""Type, subject, worker, `ts` and data; data is empty unless it was asked for."""


class LogSpan(Struct, frozen=True):
    """A log up to a time, as it is archived."""

    position: LogPosition
    first_ms: int
    """Of its first archived event; 0: none is archived."""
    catalogue: Catalogue
    """At that time."""

    @property
    def events(self) -> int:
        return sum(span.last - span.first + 1 for span in self.position.spans)


async def log_span(database: Database, pool: str, until_ms: int | None) -> LogSpan:
    """A pool's log up to a time, or up to its last archived event. Raises `DatabaseError`."""

    def work(connection: Connection) -> LogSpan:
        at_ms = LAST_MS if until_ms is None else until_ms
        position = position_at_time(connection, pool, at_ms)
        known = HistoricalState(connection, position_at_time(connection, CATALOGUE, at_ms), LAST_MS)
        first_ms = 0
        if position.spans:
            query = position.spans[0].rows(EVENTS.c.ts).order_by(EVENTS.c.seq).limit(1)
            first_ms = connection.execute(query).scalar() or 0
        return LogSpan(position, first_ms, known.catalogue())

    return await database.read(work)


async def selected(
    database: Database, position: LogPosition, kinds: Sequence[str], with_data: Sequence[str]
) -> AsyncIterator[tuple[int, Selected]]:
    """Events of these types up to a position, page by page, each with the `seq` that it ends at."""
    for span in position.spans:
        for first in range(span.first, span.last + 1, PAGE):
            last = min(first + PAGE - 1, span.last)
            yield last, await database.read(partial(_page, span, first, kinds, with_data))


async def all_of(database: Database, position: LogPosition, kind: str) -> Sequence[tuple[int, str]]:
    """`ts` and data of all events of a type that is rare, by the index on types."""
    e = EVENTS.c
    query = select(e.ts, e.data).where(e.type == kind, position.event_filter())
    ordered = query.order_by(e.ts, e.seq)
    rows = await database.read(lambda connection: connection.execute(ordered).all())
    return [(ts, data) for ts, data in rows]


def _page(
    span: GenerationRange,
    first: int,
    kinds: Sequence[str],
    with_data: Sequence[str],
    connection: Connection,
) -> Selected:
    e = EVENTS.c
    data = case((e.type.in_(with_data), e.data), else_=literal(""))
    columns: tuple[Any, ...] = (e.type, e.subject, e.worker_id, e.ts, data)
    # Not by the index on types, which SQLite, without statistics, might choose.
    query = span.rows(*columns, first=first, end=first + PAGE).where(e.type.concat("").in_(kinds))
    return [tuple(row) for row in connection.execute(query.order_by(e.seq))]
