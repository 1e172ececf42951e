"""The archive together with an export of what was pruned from it, read as one."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.log.replies import LogHead
from projector.exports.files import read_rows
from projector.exports.manifest import ExportFile, Manifest, read_manifest, require_intact
from projector.intake.source import Archive, Archived
from projector.store.archive_starts import ArchiveStart
from projector.store.rows import EventRow, Position


class ExportedArchive(Archive):
    """Where a log was pruned, an export has what came before, if it goes on to the archive.

    Files are checked before they are read. Methods raise `ExportDamaged`.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `ExportRefused`."""
        self._folder = folder
        self._manifest: Manifest = read_manifest(folder)
        self._readers: dict[str, _Reader] = {}
        self._complete: dict[ArchiveStart, bool] = {}

    def starts(self, connection: Connection) -> dict[str, ArchiveStart]:
        """Of the logs of which the export does not have all."""
        found = super().starts(connection)
        return {pool: start for pool, start in found.items() if not self._has_all(start)}

    def events(
        self,
        connection: Connection,
        position: Position,
        *,
        count: int,
        last: int = 2**63 - 1,
        folded: bool = False,
    ) -> list[EventRow]:
        start = super().starts(connection).get(position.pool)
        if start is None or position.seq >= start.seq or not self._has_all(start):
            return super().events(connection, position, count=count, last=last, folded=folded)
        if (reader := self._readers.get(position.pool)) is None:
            reader = _Reader(self._folder, self._manifest.of_pool(position.pool))
            self._readers[position.pool] = reader
        return reader.after(position, count, min(last, start.seq))

    def ends(
        self, connection: Connection, pools: Iterable[str] | None = None
    ) -> dict[str, Archived]:
        found = super().ends(connection, pools)
        for pool, start in super().starts(connection).items():
            if pool in found and self._has_all(start):
                first = self._manifest.of_pool(pool)[0]
                head = LogHead(first.generation, first.first_seq)
                found[pool] = replace(found[pool], first=head)
        return found

    def _has_all(self, start: ArchiveStart) -> bool:
        """Whether it has every event from the first to the last pruned one."""
        if (known := self._complete.get(start)) is not None:
            return known
        next_seq = 1
        for file in self._manifest.of_pool(start.pool):
            if file.generation > start.generation or file.first_seq > next_seq:
                break
            next_seq = file.last_seq + 1
        self._complete[start] = next_seq > start.seq
        return self._complete[start]


class _Reader(Struct):
    """Reads one log on and on; a position that is not where it ended is found from the start."""

    folder: Path
    files: list[ExportFile]
    position: Position | None = None
    rows: Iterator[EventRow] = iter(())

    def after(self, position: Position, count: int, last: int) -> list[EventRow]:
        """Up to seq `last`."""
        known = self.position
        if known is None or (known.generation, known.seq) != (position.generation, position.seq):
            self.rows = self._rows_after(position)
        wanted = min(count, last - position.seq)
        found = list(islice(self.rows, max(wanted, 0)))
        self.position = position
        if found:
            end = found[-1]
            self.position = replace(position, generation=end.generation, seq=end.seq)
        return found

    def _rows_after(self, position: Position) -> Iterator[EventRow]:
        """As `read_archive` answers: the position's generation, then later ones."""
        for file in self.files:
            if file.generation >= position.generation and file.last_seq > position.seq:
                require_intact(self.folder, file)
                yield from (row for row in read_rows(self.folder, file) if row.seq > position.seq)


def archive_with(folder: Path | None) -> Archive:
    """The archive, and an export of what was pruned from it, if one is named.

    Raises `ExportRefused`.
    """
    return Archive() if folder is None else ExportedArchive(folder)
