"""The retention of the archive: what is older is exported, and then leaves it.

Once an hour, for each pool of which enough is due:

    export    what is due is added to the folder of exports
    prune     what that folder is proved to have leaves the archive (`projector/archive/pruning.py`)
    note      an event in the pool's log says up to where

Each part is small, and rests for most of the time, so the views keep up. Whatever is killed between
two transactions goes on in the next pass, of this projector or of another one: what is exported and
what is pruned is read from the folder and the database, and so is what was noted. The events of an
agent that lives stay, and so does what follows them.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import PoolArchivePruned
from eventstore.log.log import Log
from eventstore.log.notices import NOT_PRUNED
from eventstore.retention import Retention
from eventstore.steps import clauses
from eventstore.steps.step import Origin
from projector.archive import pruning
from projector.archive.access import ArchiveBusy, exclusive
from projector.archive.export import export_archive
from projector.archive.limits import MORE, Limit, find_limit
from projector.archive.pace import Care
from projector.archive.pruning import PrunedPool, PruneRefused, Pruning
from projector.exports.manifest import ExportDamaged, ExportRefused, read_manifest
from projector.fold.projection import Projection
from projector.intake.archive import GenerationRange, stored_ranges
from projector.intake.source import archived
from projector.service.metrics import ProjectorMetrics
from projector.service.notices import Notices
from projector.store.archive_starts import ArchiveStart, SnapshotDamaged, read_starts
from projector.store.lease import Lease
from projector.store.tables import EVENTS, run

log = structlog.get_logger("muster.projector")

DAY_MS: Final = 86_400_000
SHARE: Final = 0.2
"""Of the time it works."""
REMOVED: Final = 1000
"""Events that leave in one transaction: the views wait for it."""
EVENTS_MAX: Final = 500_000
"""Of one pool in one pass: for so long a rebuild has to wait."""
EVENTS_MIN: Final = 10_000
"""Fewer wait until the first one is due for a day, since every pruning writes a snapshot."""
RETRY_SECONDS: Final = 300.0
FAILURES: Final = (ExportRefused, ExportDamaged, PruneRefused, SnapshotDamaged, OSError)
_NOTED: Final = (
    "SELECT data FROM {}events WHERE type = ? AND pool = ? ORDER BY ts DESC, seq DESC LIMIT 1"
)


class ArchiveRetention:
    """Of one term of an active projector. `folder` None: it only notes what was pruned."""

    def __init__(
        self,
        lease: Lease,
        writer: Log,
        retention: Retention,
        folder: Path | None,
        notices: Notices,
        metrics: ProjectorMetrics | None,
        name: str,
    ) -> None:
        self._lease = lease
        self._database = lease.database
        self._log = writer
        self._folder = folder
        self._notices = notices
        self._metrics = metrics
        self._origin = Origin(actor=f"projector:{name}")
        self._age_ms = max(retention.archive_ms, retention.age_ms, pruning.AGE_MIN_MS)
        self._retains = bool(retention.archive_ms and folder)
        self._failure = ""

    async def follow(self, projection: Projection, seconds: float) -> None:
        """Pass by pass, every so many seconds; sooner where there is more or something failed."""
        soon = pause = min(RETRY_SECONDS, seconds)
        while True:
            await asyncio.sleep(pause)
            more = await self.run_once(projection.catalogue)
            pause = soon if more or self._failure else seconds

    async def run_once(self, catalogue: Catalogue) -> bool:
        """One pass; whether there is more to do at once. Raises `DatabaseError`."""
        more = False
        if self._retains and (now_ms := self._log.now_ms(CATALOGUE)):
            try:
                more = await self._prune_pools(now_ms)
            except ArchiveBusy:  # a rebuild, an import or a command
                pass
            except FAILURES as error:
                await self._failed(str(error))
            else:
                await self._succeeded()
        await self._note_all(catalogue)
        return more

    # ---- pruning -----------------------------------------------------------------------------

    async def _prune_pools(self, now_ms: int) -> bool:
        care, before_ms, more = self._care(), now_ms - self._age_ms, False
        for pool in sorted(await self._database.read(archived)):
            if pool == CATALOGUE:
                continue
            find = partial(
                find_limit, pool=pool, files=None, before_ms=before_ms, now_ms=now_ms, care=care
            )
            limit = await self._database.read(partial(_due, find=find, before_ms=before_ms))
            if limit is not None:
                done = await self._prune(limit, before_ms, now_ms, care)
                more = more or (limit.why == MORE and done.events > 0)
        return more

    async def _prune(self, limit: Limit, before_ms: int, now_ms: int, care: Care) -> PrunedPool:
        assert self._folder is not None
        catalogue = await self._database.read(partial(stored_ranges, pool=CATALOGUE))
        parts: list[GenerationRange] = [*catalogue, *limit.parts]
        await export_archive(
            self._database, self._folder, lambda _: None, parts=parts, share=care.share
        )
        manifest = await asyncio.to_thread(read_manifest, self._folder)
        work = Pruning(self._database, self._folder, manifest, lambda _: None, care)
        async with exclusive(self._database, lease_seconds=self._lease.seconds) as lease:
            done = await work.prune_pool(lease, limit.pool, before_ms, now_ms)
        if done.events and self._metrics is not None:
            counted = self._metrics.measures.count
            counted("muster_archive_pruned_events_total", limit.pool, by=done.events)
        log.info("archive.pruned", pool=done.pool, seq=done.seq, events=done.events, why=limit.why)
        return done

    def _care(self) -> Care:
        return Care(
            share=SHARE,
            removed=REMOVED,
            events_max=EVENTS_MAX,
            keeps_living=True,
            also=self._lease,
        )

    async def _failed(self, reason: str) -> None:
        if reason != self._failure:
            log.warning("archive.not_pruned", reason=reason)
        self._failure = reason
        await self._notices.publish(NOT_PRUNED, reason)
        self._report(failing=True)

    async def _succeeded(self) -> None:
        self._failure = ""
        await self._notices.withdraw(NOT_PRUNED)
        self._report(failing=False)

    def _report(self, *, failing: bool) -> None:
        if self._metrics is not None:
            self._metrics.measures.set("muster_archive_retention_failing", int(failing))

    # ---- what was pruned, in the log ---------------------------------------------------------

    async def _note_all(self, catalogue: Catalogue) -> None:
        """What the log does not say yet. A pool that was deleted has none to write to."""
        for start in await self._database.read(_not_noted):
            pool = catalogue.pools.get(start.pool)
            if pool is not None and not pool.deleted:
                try:
                    await self._note(start)
                except LogError as error:  # the next pass tries it again
                    log.debug("archive.pruning_not_noted", pool=start.pool, reason=str(error))

    async def _note(self, start: ArchiveStart) -> None:
        """Once: the operation is remembered until the event is archived."""
        operation = f"archive-pruned:{start.generation}:{start.seq}"
        step = self._log.step(start.pool, self._origin)
        step.check(clauses.OperationNew(operation))
        step.event(
            PoolArchivePruned(
                generation=start.generation,
                up_to_seq=start.seq,
                at_ms=start.ts,
                sha256=start.sha256,
            ),
            start.pool,
        )
        remembered_ms = self._log.retention.operation_ms
        step.write(clauses.RecordOperation(operation, start.sha256, start.pool, remembered_ms))
        await self._log.commit(step)


def _due(connection: Connection, find: "partial[Limit]", before_ms: int) -> Limit | None:
    """What may be pruned of a pool, if it is enough for a snapshot."""
    limit = find(connection)
    if not limit.parts:
        return None
    if limit.events < EVENTS_MIN:
        first = limit.parts[0]
        at = first.rows(EVENTS.c.ts).order_by(EVENTS.c.seq).limit(1)
        if int(connection.scalar(at) or 0) > before_ms - DAY_MS:
            return None
    return limit


def _not_noted(connection: Connection) -> list[ArchiveStart]:
    """Starts of which the newest event in the log of the pool does not say that."""
    found = []
    for start in read_starts(connection).values():
        data = run(connection, _NOTED, PoolArchivePruned.type, start.pool).scalar()
        noted = msgspec.json.decode(data, type=PoolArchivePruned) if data else None
        if noted is None or (noted.generation, noted.up_to_seq) != (start.generation, start.seq):
            found.append(start)
    return found
