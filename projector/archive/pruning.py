"""Removes old events from the archive, of which an export was proved to have every one.

For each pool, one after the other:

    choose     how far: before a time, within the export, and not what a recovery may need
    prove      the files are intact and have the very events of the archive, and these fold
    snapshot   what lived then is written, with its checksum
    begin      the log starts there, in one transaction: from now on what is earlier is pruned
    remove     the rows of what had ended by then, then the events, the oldest first

Until `begin` no event is removed. Whatever is killed after it leaves an archive without gaps that
reaches back to the snapshot or further, and the next pruning goes on with `remove`. The catalogue
is never pruned: it is small, and all processes fold it from its start.

Rebuilds and imports wait meanwhile: the lease of rebuilds is held.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from projector.archive.access import OnProgress, Progress, exclusive
from projector.archive.limits import Limit, find_limit
from projector.archive.pace import Care, Pace
from projector.exports.files import read_rows
from projector.exports.manifest import (
    ExportDamaged,
    ExportFile,
    Manifest,
    read_manifest,
    require_intact,
)
from projector.intake.archive import GenerationRange
from projector.intake.source import archived
from projector.store import archive_starts, ended
from projector.store.archive_starts import ArchiveStart, Entry
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import EventRow
from projector.store.tables import run
from projector.verify.reference_fold import BrokenLog, ReferenceFold

AGE_MIN_MS: Final = 86_400_000
"""Events of the last day stay: Redis may still have hashes of agents that ended in it."""
CHUNK: Final = 1000
"""Events that are compared at once."""
PORTION: Final = 1_000_000
"""Characters of a snapshot's entries that are written in one transaction; one may exceed that."""
_PAGE: Final = (
    f"SELECT {', '.join(EventRow.__struct_fields__)} FROM {{}}events"
    " WHERE pool = ? AND generation = ? AND seq BETWEEN ? AND ? ORDER BY seq"
)
_REMOVE: Final = "DELETE FROM {}events WHERE pool = ? AND generation = ? AND seq BETWEEN ? AND ?"


T = TypeVar("T")


class PruneRefused(MusterError):
    """What was asked for cannot be done safely; nothing was pruned."""


class PrunedPool(Struct, frozen=True, kw_only=True):
    """The result for one pool."""

    pool: str
    seq: int
    """The last event that is pruned; 0: none is."""
    events: int = 0
    """So many were removed now."""
    why: str = ""
    """What kept more from being pruned; empty: that it is not before the time."""


async def prune(
    database: Database,
    folder: Path,
    before_ms: int,
    on_progress: OnProgress,
    *,
    now_ms: int,
    care: Care = Care(),  # noqa: B008  (it has no state)
) -> list[PrunedPool]:
    """Prune every pool up to the last event before a time, as far as that is safe.

    Raises `PruneRefused`, `ExportRefused`, `ExportDamaged`, `ArchiveBusy`, `DatabaseError`.
    """
    if before_ms > now_ms - AGE_MIN_MS:
        raise PruneRefused("events of the last 24 hours are not pruned: name an earlier time")
    pruning = Pruning(database, folder, read_manifest(folder), on_progress, care)
    async with exclusive(database) as lease:
        pools = sorted(await database.read(archived))
        return [
            await pruning.prune_pool(lease, pool, before_ms, now_ms)
            for pool in pools
            if pool != CATALOGUE
        ]


class Pruning:
    """Prunes pools by one export. Methods raise what `prune` does, and `Superseded`."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        manifest: Manifest,
        on_progress: OnProgress,
        care: Care = Care(),  # noqa: B008  (it has no state)
    ) -> None:
        self._database = database
        self._folder = folder
        self._manifest = manifest
        self._on_progress = on_progress
        self._care = care
        self._pace = Pace(care.share)

    async def prune_pool(self, lease: Lease, pool: str, before_ms: int, now_ms: int) -> PrunedPool:
        """As far as that is safe. `lease`: that of rebuilds, which is held."""
        files = self._manifest.of_pool(pool)
        limit = await self._database.read(
            partial(find_limit, pool=pool, files=files, before_ms=before_ms, now_ms=now_ms,
                    care=self._care)
        )  # fmt: skip
        start = limit.start
        if not limit.parts:
            return PrunedPool(pool=limit.pool, seq=start.seq if start else 0, why=limit.why)
        fold = await self._proved(limit)
        if self._care.events_max:  # what ended afterwards is still archived
            before_ms = min(before_ms, fold.position.ts + 1)
        if start is None or fold.position.seq > start.seq:
            start = await self._begin(lease, fold, before_ms)
        await self._remove(lease, limit)
        return PrunedPool(pool=limit.pool, seq=start.seq, events=limit.events, why=limit.why)

    # ---- proving -----------------------------------------------------------------------------

    async def _proved(self, limit: Limit) -> ReferenceFold:
        """The fold of the log up to the limit: from the export, compared with the archive.

        Raises `ExportDamaged`, `PruneRefused`.
        """
        fold = ReferenceFold(limit.pool, limit.valid[0].generation)
        if (start := limit.start) is not None:
            read = partial(archive_starts.read_entries, start=start)
            fold.start_from(start, await self._database.read(read))
        compared = 0
        for file in self._manifest.of_pool(limit.pool):
            if not _overlaps(file, limit):
                continue
            await asyncio.to_thread(require_intact, self._folder, file)
            rows = read_rows(self._folder, file)
            while page := await asyncio.to_thread(_next_page, rows):
                of_limit = [row for row in page if limit.includes(row)]
                await self._require_archived(file, of_limit)
                await asyncio.to_thread(_apply, fold, of_limit, limit)
                compared += len(of_limit)
                self._report("proving", limit, compared)
                await self._pace.rest()
        if compared != limit.events or fold.position.seq != limit.end:
            what = f"{compared:,} of the {limit.events:,} events up to seq {limit.end}"
            raise ExportDamaged(f"pool {limit.pool!r}: {self._folder} has {what}")
        return fold

    async def _require_archived(self, file: ExportFile, page: Sequence[EventRow]) -> None:
        """Raises `ExportDamaged` where the archive does not have the very same events."""
        if not page:
            return
        of = (file.pool, file.generation, page[0].seq, page[-1].seq)
        found = await self._database.read(lambda c: [EventRow(*row) for row in run(c, _PAGE, *of)])
        if found != page:
            same = next((n for n, (a, b) in enumerate(zip(page, found, strict=False)) if a != b),
                        min(len(found), len(page) - 1))  # fmt: skip
            what = f"seq {page[same].seq} is not as the archive has it"
            raise ExportDamaged(f"{self._folder / file.name}: {what}")

    # ---- changing ----------------------------------------------------------------------------

    async def _begin(self, lease: Lease, fold: ReferenceFold, before_ms: int) -> ArchiveStart:
        """Write the snapshot, read it back, and let the log start there."""
        at, entries = fold.position, fold.entries()
        start = ArchiveStart(at.pool, at.generation, at.seq, at.stream_id, at.ts)
        start = replace(start, sha256=archive_starts.checksum(start, entries))
        for some in _portions(entries):
            write = partial(archive_starts.write_entries, start=start, entries=some)
            await self._write(lease, write)
        await self._database.read(partial(archive_starts.read_entries, start=start))
        await self._write(lease, lambda c: ended.raise_ended_before(c, before_ms))
        await self._write(lease, lambda c: archive_starts.begin_at(c, start))
        await self._write(lease, lambda c: archive_starts.drop_other_entries(c, start))
        return start

    async def _remove(self, lease: Lease, limit: Limit) -> None:
        before_ms = await self._database.read(ended.ended_before)
        for remove in (ended.remove_agents, ended.remove_workers):
            while await self._write(lease, partial(remove, before_ms=before_ms)):
                pass
        removed, count = 0, self._care.removed
        for part in limit.parts:
            for first in range(part.first, part.last + 1, count):
                last = min(first + count - 1, part.last)
                remove_events = partial(_remove_events, part=part, first=first, last=last)
                await self._write(lease, remove_events)
                removed += last - first + 1
                self._report("removing", limit, removed)

    async def _write(self, lease: Lease, work: Callable[[Connection], T]) -> T:
        """In a transaction that proves all leases, with a rest after it."""
        done = await lease.write(work, also=self._care.also)
        await self._pace.rest()
        return done

    def _report(self, doing: str, limit: Limit, events: int) -> None:
        report = Progress(doing=doing, pool=limit.pool, events=events, total=limit.events)
        self._on_progress(report)


def _portions(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    portion: list[Entry] = []
    size = 0
    for entry in entries:
        portion.append(entry)
        size += len(entry.state)
        if size >= PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _next_page(rows: Iterator[EventRow]) -> list[EventRow]:
    return list(islice(rows, CHUNK))


def _overlaps(file: ExportFile, limit: Limit) -> bool:
    return any(
        part.generation == file.generation
        and file.first_seq <= part.last
        and file.last_seq >= part.first
        for part in limit.parts
    )


def _apply(fold: ReferenceFold, rows: Sequence[EventRow], limit: Limit) -> None:
    """Raises `PruneRefused` for a log that cannot be folded."""
    following = [row for row in rows if row.seq > fold.position.seq and limit.folds(row)]
    if not following:
        return
    try:
        fold.apply(following, last=limit.end)
    except BrokenLog as error:
        raise PruneRefused(f"pool {limit.pool!r} cannot be folded: {error}") from error


def _remove_events(connection: Connection, part: GenerationRange, first: int, last: int) -> None:
    run(connection, _REMOVE, part.pool, part.generation, first, last)
