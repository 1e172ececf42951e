"""Where each log and its archive start and end, for a rebuild: which pools to fold, and how far."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.log.replies import LogHead
from projector.fold.projection import Projection, read_positions, stopped
from projector.intake.source import Archive, Archived, Source
from projector.rebuild.view_sets import read_version
from projector.store.archive_starts import ArchiveStart
from projector.store.database import Database
from projector.store.rows import Position
from projector.store.tables import SERVING, VIEW_VERSION

COPIED_REASON: Final = "the beginning of its log is gone, so its views were copied"


class LogDamaged(LogError):
    """The log cannot be folded to its end; the serving views were not changed."""


class LogBounds(Struct, eq=False):
    """Of all logs that `shadow` folds."""

    _database: Database
    _source: Source
    _shadow: Projection
    _archive: Archive
    heads: dict[str, LogHead] = {}
    archived: Mapping[str, Archived] = {}
    copied: set[str] = set()
    """Pools whose log has no beginning, and whose serving views are copied instead."""
    starts: Mapping[str, ArchiveStart] = {}
    """With what the logs begin that were pruned."""

    async def refresh(self) -> None:
        """Read again where logs and archive end."""
        await self._database.read(self._read_archive)
        await self._add_heads(self.archived.keys() | self._shadow.positions.keys())

    def _read_archive(self, connection: Connection) -> None:
        self.archived = self._archive.ends(connection)
        self.starts = self._archive.starts(connection)
        serving = read_positions(connection, SERVING)
        same_version = read_version(connection) == VIEW_VERSION
        self.copied = {
            pool
            for pool, ends in self.archived.items()
            if same_version
            and ends.first.seq > 1
            and pool not in self.starts
            and (at := serving.get(pool))
            and (at.generation, at.seq) >= (ends.last.generation, ends.last.seq)
        }

    @property
    def total(self) -> int:
        """How many events are to be folded."""
        skipped = sum(start.seq for start in self.starts.values())
        return sum(head.seq for head in self.heads.values()) - skipped

    async def pools(self) -> list[str]:
        """Pools to fold: those of the catalogue so far, and those that only the archive has."""
        names = self._shadow.catalogue.pools.keys() | self.archived.keys()
        await self._add_heads(set(names))
        return sorted(names - {CATALOGUE} - self.copied)

    async def _add_heads(self, pools: set[str]) -> None:
        """Each pool starts before the first event of the archive or, without one, of the log."""
        self.heads |= await self._source.heads(pools | {CATALOGUE})
        for pool, head in self.heads.items():
            known = self._shadow.positions.get(pool)
            if known is None or not known.generation:
                ends = self.archived.get(pool)
                first = ends.first.generation if ends else head.generation
                self._shadow.positions[pool] = Position(pool, first)

    def require_complete(self, connection: Connection) -> None:
        """Raises `LogDamaged` where a switch would replace more by less."""
        serving = read_positions(connection, SERVING)
        for pool, at in self._shadow.positions.items():
            if pool in self.copied:
                continue
            head, views = self.heads[pool], serving.get(pool, at)
            name = f"pool {pool!r}" if pool else "the catalogue"
            if stopped(at):
                raise LogDamaged(f"{name}: {at.status}")
            if at.generation == head.generation and at.seq < head.seq:
                raise LogDamaged(
                    f"{name}: seq {at.seq + 1} to {head.seq} are neither in the stream nor in"
                    " the archive"
                )
            if (at.generation, at.seq) < (views.generation, views.seq):
                raise LogDamaged(
                    f"{name}: archive and stream end at seq {at.seq}, the views at {views.seq}"
                )
