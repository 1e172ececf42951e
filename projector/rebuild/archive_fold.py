"""Folds archived events in memory, and writes the rows once: after many events, or at the end.

What was folded and not yet written is bounded; beyond that it is written in parts.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from projector.fold.projection import AppliedBatch, Projection, stopped
from projector.intake.source import Archive
from projector.store.database import Database
from projector.store.rows import Position

STATES_MAX: Final = 100_000
"""Agents, workers and sums of usage that are folded before their rows are written."""
BYTES_MAX: Final = 64_000_000
"""Of the data of their events, most of which is the input of agents."""
READS: Final = 10
"""Batches in one transaction that reads: a long one would keep the log of SQLite from being cut."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would visit all states again and again (a sixth of the
    time): a fold makes no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _ArchiveFold(Struct):
    """Of a pool, up to seq `last` or to a gap: the stream may have the missing events."""

    archive: Archive
    projection: Projection
    pool: str
    last: int
    batch: int
    unwritten: AppliedBatch | None = None
    bytes_folded: int = 0
    at_gap: bool = False

    @property
    def position(self) -> Position:
        return self.unwritten.position if self.unwritten else self.projection.positions[self.pool]

    @property
    def finished(self) -> bool:
        return self.at_gap or not is_behind(self.position, self.last)

    @_uncollected()
    def fold_some(self, connection: Connection) -> None:
        for _ in range(READS):
            first = self.position.seq + 1
            rows = self.archive.events(connection, self.position, count=self.batch, folded=True)
            gap = next((n for n, row in enumerate(rows) if row.seq != first + n), len(rows))
            dense = rows[:gap]
            if not dense:
                self.at_gap = True
                return
            self.unwritten = self.projection.apply(connection, self.pool, dense, self.unwritten)
            self.bytes_folded += sum(len(row.data) for row in dense)
            if self.finished or self._is_large(self.unwritten):
                return

    def take(self) -> AppliedBatch | None:
        """What is to be written now, if anything is."""
        found = self.unwritten
        if found is None or not (self.finished or self._is_large(found)):
            return None
        self.unwritten, self.bytes_folded = None, 0
        return found

    def _is_large(self, found: AppliedBatch) -> bool:
        states = len(found.state.agents) + len(found.state.workers)
        states += len(found.tally.rows) if found.tally else 0
        return states >= STATES_MAX or self.bytes_folded >= BYTES_MAX


async def apply_archive(
    database: Database,
    projection: Projection,
    pool: str,
    last: int,
    batch: int,
    store: Callable[[AppliedBatch], Awaitable[None]],
    on_folded: Callable[[str, int], None] = lambda _pool, _events: None,
    archive: Archive = Archive(),  # noqa: B008  (it has no state)
) -> None:
    """Apply archived events up to seq `last` or to a gap.

    `store` writes what was applied and marks it as committed. `on_folded` is called with the pool
    and the number of events since the last call. A batch has `batch` events.
    """
    folding = _ArchiveFold(archive, projection, pool, last, batch)
    while not folding.finished:
        before = folding.position.seq
        await database.read(folding.fold_some)
        on_folded(pool, folding.position.seq - before)
        if applied := folding.take():
            await store(applied)


def is_behind(position: Position, last: int) -> bool:
    """Whether there are events to fold up to `last`, and they can be."""
    return position.seq < last and not stopped(position)
