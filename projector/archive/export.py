"""Exports the archive, while the system runs: all of it, or what was added since the last time.

Each log is exported up to the event that was its last when the export began. Events in the archive
never change, so pages are read in transactions of their own.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection

from projector.archive.access import OnProgress, Progress, read_page
from projector.archive.pace import Pace
from projector.exports.files import FileWriter
from projector.exports.manifest import (
    ExportFile,
    ExportRefused,
    Manifest,
    locked,
    read_or_begin,
    write_manifest,
)
from projector.intake.archive import GenerationRange, stored_ranges
from projector.intake.source import archived
from projector.store.database import Database
from projector.store.rows import EventRow


class Exported(Struct, frozen=True, kw_only=True):
    """The result. `events` and `files` were added now."""

    manifest: Manifest
    events: int
    files: int
    seconds: float


async def export_archive(
    database: Database,
    folder: Path,
    on_progress: OnProgress,
    *,
    parts: Sequence[GenerationRange] | None = None,
    share: float = 1.0,
) -> Exported:
    """Add to a folder, which is created, what it does not have of the archive.

    `parts`: only of these ranges of logs. `share`: of the time it may work. Raises
    `ExportRefused`, `DatabaseError`, `OSError`.
    """
    with locked(folder):
        export = _Export(database, folder, read_or_begin(folder), on_progress, Pace(share))
        return await export.run(parts)


class _Export:
    def __init__(
        self,
        database: Database,
        folder: Path,
        manifest: Manifest,
        on_progress: OnProgress,
        pace: Pace,
    ) -> None:
        self._database = database
        self._folder = folder
        self._manifest = manifest
        self._on_progress = on_progress
        self._pace = pace
        self._events = self._total = 0

    async def run(self, parts: Sequence[GenerationRange] | None) -> Exported:
        started, files_before = time.monotonic(), len(self._manifest.files)
        ranges = await self._database.read(_all_ranges) if parts is None else parts
        work = [(part, await self._first_missing(part)) for part in ranges]
        self._total = sum(max(part.last - first + 1, 0) for part, first in work)
        for part, first in work:
            await self._write_range(part, first)
        if not files_before and len(self._manifest.files) == files_before:
            write_manifest(self._folder, self._manifest)  # nothing is archived yet
        return Exported(
            manifest=self._manifest,
            events=self._events,
            files=len(self._manifest.files) - files_before,
            seconds=time.monotonic() - started,
        )

    async def _first_missing(self, part: GenerationRange) -> int:
        """The first seq that is to be exported. Raises `ExportRefused` for another archive."""
        files = self._manifest.of_pool(part.pool)
        last = max((f for f in files if f.generation == part.generation),
                   key=lambda file: file.last_seq, default=None)  # fmt: skip
        if last is None:
            return part.first
        if part.first <= last.last_seq <= part.last:
            found = await self._database.read(lambda c: read_page(c, part, last.last_seq))
            self._require_same(last, found)
        return max(last.last_seq + 1, part.first)

    def _require_same(self, last: ExportFile, found: Sequence[EventRow]) -> None:
        if found and found[0].event_id != last.last_event_id:
            name = f"pool {last.pool!r}" if last.pool else "the catalogue"
            raise ExportRefused(
                f"{self._folder} has the export of another archive: in {name}, seq"
                f" {last.last_seq} of generation {last.generation} is another event there:"
                " name another folder"
            )

    async def _write_range(self, part: GenerationRange, first: int) -> None:
        writer: FileWriter | None = None
        try:
            while first <= part.last:
                rows = await self._database.read(partial(read_page, part=part, first=first))
                dense = rows[: _gap(rows)]
                if not dense:
                    break
                if writer and (writer.full or dense[0].seq != writer.next_seq):
                    await asyncio.to_thread(self._finish, writer)
                    writer = None
                writer = writer or FileWriter(self._folder, dense[0])
                await asyncio.to_thread(writer.add, dense)
                first = dense[-1].seq + 1
                self._events += len(dense)
                self._report(part.pool)
                await self._pace.rest()
            if writer:
                await asyncio.to_thread(self._finish, writer)
                writer = None
        finally:
            if writer:
                writer.abandon()

    def _finish(self, writer: FileWriter) -> None:
        self._manifest.files.append(writer.finish())
        write_manifest(self._folder, self._manifest)

    def _report(self, pool: str) -> None:
        progress = Progress(doing="exporting", pool=pool, events=self._events, total=self._total)
        self._on_progress(progress)


def _gap(rows: Sequence[EventRow]) -> int:
    """How many of the first rows follow each other."""
    return next((n for n, row in enumerate(rows) if row.seq != rows[0].seq + n), len(rows))


def _all_ranges(connection: Connection) -> list[GenerationRange]:
    """All that is archived, also what a recovery has superseded."""
    pools = sorted(archived(connection))
    return [part for pool in pools for part in stored_ranges(connection, pool)]
