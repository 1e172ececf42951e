"""Puts exported events back into an archive that is empty, was pruned, or starts late.

The newest missing events come first: so whatever is archived has no gap at any time, and an import
that was interrupted goes on where it ended. Nothing that is archived is changed, and nothing is
written unless all of it fits: the files are intact, and the events follow each other up to the
first one that is archived, which the export has too or which follows its last one.

Rebuilds and prunings wait meanwhile: the lease of rebuilds is held.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection

from projector.archive.access import OnProgress, Progress, exclusive, read_page
from projector.exports.files import decode, read_lines
from projector.exports.manifest import ExportFile, ExportRefused, read_manifest, require_intact
from projector.intake.archive import GenerationRange, id_order, stored_ranges
from projector.store.archive_starts import forget_start, read_starts
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import EventRow
from projector.store.tables import EVENTS, write_rows

CHUNK: Final = 2000
"""Events in one transaction."""


class Imported(Struct, frozen=True, kw_only=True):
    """The result: `events` were missing, of these logs ('' is the catalogue)."""

    pools: tuple[str, ...]
    events: int
    seconds: float


async def check_files(folder: Path, files: Sequence[ExportFile], on_progress: OnProgress) -> None:
    """Raises `ExportDamaged` for the first file that is not as it was written."""
    total, done = sum(file.events for file in files), 0
    for file in files:
        await asyncio.to_thread(require_intact, folder, file)
        done += file.events
        on_progress(Progress(doing="checking", pool=file.pool, events=done, total=total))


async def import_archive(database: Database, folder: Path, on_progress: OnProgress) -> Imported:
    """Import what is missing. Raises `ExportRefused`, `ExportDamaged`, `ArchiveBusy`,
    `DatabaseError`."""
    started, manifest = time.monotonic(), read_manifest(folder)
    await check_files(folder, manifest.files, on_progress)
    async with exclusive(database) as lease:
        missing: dict[str, list[_Part]] = {}
        for pool in manifest.pools():
            plan = _Plan(folder, pool, manifest.of_pool(pool))
            missing[pool] = await database.read(plan.missing)
        parts = [part for of_pool in missing.values() for part in of_pool]
        total, done = sum(part.last - part.file.first_seq + 1 for part in parts), 0
        for part in parts:
            async for events in _written(lease, folder, part):
                done += events
                progress = Progress(
                    doing="importing", pool=part.file.pool, events=done, total=total
                )
                on_progress(progress)
        for pool in missing:
            await lease.write(partial(_forget_start, pool=pool))
    pools = tuple(pool for pool, of_pool in missing.items() if of_pool)
    return Imported(pools=pools, events=total, seconds=time.monotonic() - started)


class _Part(Struct, frozen=True):
    """The events of a file up to seq `last`."""

    file: ExportFile
    last: int


class _Plan(Struct):
    """Which events of a log are missing, and whether they fit."""

    folder: Path
    pool: str
    files: list[ExportFile]

    def missing(self, connection: Connection) -> list[_Part]:
        """The newest first. Raises `ExportRefused`."""
        stored = stored_ranges(connection, self.pool)
        self._require_same(connection, stored)
        if not stored:
            self._require_dense(self.files)
            return [_Part(file, file.last_seq) for file in reversed(self.files)]
        first = stored[0]
        below = [f for f in self.files if f.order < (first.generation, first.first)]
        if not below:
            return []
        if start := read_starts(connection).get(self.pool):
            pruned = self._row(start.generation, start.seq)
            if pruned is None or pruned.stream_id != start.stream_id:
                raise self._refused(f"it does not have the last pruned event, seq {start.seq}")
        self._require_dense(below)
        self._require_adjacent(connection, below[-1], first)
        return [_Part(file, _last_missing(file, first)) for file in reversed(below)]

    def _require_same(self, connection: Connection, stored: Sequence[GenerationRange]) -> None:
        """Of events that are both archived and exported the last one of each file is compared."""
        for file in self.files:
            for part in stored:
                inside = part.first <= file.last_seq <= part.last
                if part.generation == file.generation and inside:
                    found = read_page(connection, part, file.last_seq)
                    if found and found[0].event_id != file.last_event_id:
                        raise self._refused(f"seq {found[0].seq} is another event there")

    def _require_dense(self, files: Sequence[ExportFile]) -> None:
        for before, file in itertools.pairwise(files):
            same = file.generation == before.generation
            if file.first_seq > before.last_seq + 1 or (same and file.first_seq <= before.last_seq):
                gap = f"seq {before.last_seq + 1} to {file.first_seq - 1} are not in the export"
                raise self._refused(gap)

    def _require_adjacent(
        self, connection: Connection, last: ExportFile, first: GenerationRange
    ) -> None:
        """That the first archived event follows, and is known to."""
        if last.last_seq < first.first - 1:
            gap = f"seq {last.last_seq + 1} to {first.first - 1}"
            raise self._refused(f"{gap} are neither in the archive nor in the export")
        [archived_row, *_] = read_page(connection, first, first.first)
        exported = self._row(first.generation, first.first)
        before = self._row(last.generation, min(last.last_seq, first.first - 1))
        follows = before is not None and (
            before.ts <= archived_row.ts
            and id_order(before.stream_id) < id_order(archived_row.stream_id)
        )
        if not follows or exported not in (None, archived_row):
            raise self._refused(f"seq {first.first} of the archive is not what follows in it")

    def _row(self, generation: int, seq: int) -> EventRow | None:
        """An exported event; None if there is none."""
        for file in self.files:
            if file.generation == generation and file.first_seq <= seq <= file.last_seq:
                for at, line in enumerate(read_lines(self.folder, file), file.first_seq):
                    if at == seq:
                        return decode(self.folder, file, line, seq)
        return None

    def _refused(self, why: str) -> ExportRefused:
        name = f"pool {self.pool!r}" if self.pool else "the catalogue"
        return ExportRefused(f"{self.folder} does not match this archive: {name}: {why}")


def _last_missing(file: ExportFile, first: GenerationRange) -> int:
    """The last event of a file below the archive's first one; superseded ones count too."""
    if file.generation == first.generation:
        return min(file.last_seq, first.first - 1)
    return file.last_seq


async def _written(lease: Lease, folder: Path, part: _Part) -> AsyncIterator[int]:
    """Import a part, from its end to its start; the numbers of events that were written."""
    file, count = part.file, part.last - part.file.first_seq + 1
    lines = await asyncio.to_thread(lambda: list(read_lines(folder, file))[:count])
    for end in range(count, 0, -CHUNK):
        begin = max(end - CHUNK, 0)
        rows = [
            decode(folder, file, line, seq)
            for seq, line in enumerate(lines[begin:end], file.first_seq + begin)
        ]
        await lease.write(partial(_write, rows=rows))
        yield len(rows)


def _forget_start(connection: Connection, pool: str) -> None:
    """Where the first event is archived again, the log starts with it."""
    stored = stored_ranges(connection, pool)
    if stored and stored[0].first == 1:
        forget_start(connection, pool)


def _write(connection: Connection, rows: Sequence[EventRow]) -> None:
    values = [astuple(row) for row in rows]
    write_rows(connection, EVENTS, EventRow.__struct_fields__, values, "skip")
