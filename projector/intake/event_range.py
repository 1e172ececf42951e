"""Events after a position, wherever they are: in the stream, or in the archive if trimmed.

For readers that may have fallen behind. Only archived events are trimmed, so that the two together
have every event, and the trimming need not know any reader.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from eventstore.keys import CATALOGUE, Keys
from eventstore.log.reader import Entry
from projector.intake.archive import id_order
from projector.intake.entries import entry_of, seq_of
from projector.store.rows import EventRow


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
        stream = self._keys.catalogue if pool == CATALOGUE else self._keys.pool(pool, "events")
        start = "-" if stream_id in ("", "0", "0-0") else f"({stream_id}"
        entries = await self._read(stream, start, until, count=count)
        # Checked after the read: events that are not trimmed now were not trimmed then.
        if self._read_archive is None or not await self._trimmed_past(stream, stream_id):
            return entries
        rows = await self._read_archive(pool, stream_id or "0", until, count)
        return [entry_of(row) for row in rows] or entries

    async def _trimmed_past(self, stream: str, stream_id: str) -> bool:
        """Whether events after an id may have been trimmed."""
        oldest = await self._read(stream, "-", "+", count=1)
        if not oldest:
            return False
        first = oldest[0]
        return seq_of(first) > 1 and id_order(first[0].decode()) > id_order(stream_id or "0")
