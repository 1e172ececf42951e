"""What a projector does about views that it cannot continue from their checkpoints.

of an older version   rebuilt while their own projector keeps them up to date  (`upgrade`)
dropped, or damaged   rebuilt under the projector's lease                      (`prepare_views`)
behind the archive    folded on to its end                                     (`prepare_views`)

Views are behind the archive where a rebuild archived more, and was refused or killed afterwards.
"""

import asyncio
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from eventstore.log.replies import LogHead
from projector.fold.projection import AppliedBatch, Projection, stopped
from projector.intake.entries import OK
from projector.intake.source import Source, archived
from projector.rebuild.archive_fold import apply_archive
from projector.rebuild.rebuild import Rebuild
from projector.rebuild.view_sets import RebuildInProgress, read_version, require_replaceable
from projector.store.lease import Lease
from projector.store.rows import Position
from projector.store.tables import INCOMPLETE, VIEW_VERSION

log = structlog.get_logger("muster.projector")

BATCH: Final = 2000


async def upgrade(source: Source, lease: Lease) -> bool:
    """Replace views of an older version; True: this was done, and `lease` is held.

    The old version's projector goes on until the new views have caught up, and is then superseded.
    Where another process already rebuilds them, wait for it. Raises `ViewsInUse`.
    """
    while INCOMPLETE < await lease.database.read(read_version) < VIEW_VERSION:
        await require_replaceable(lease.database)
        try:
            await _rebuild(source, lease, seize=True)
        except RebuildInProgress:
            await asyncio.sleep(lease.seconds / 4)
        else:
            return True
    return False


async def prepare_views(source: Source, lease: Lease, projection: Projection) -> None:
    """Under the projector's lease: bring the views to where `projection` can continue them."""
    read = lease.database.read
    await read(projection.load)
    if await read(read_version) != VIEW_VERSION or not await _catch_up(lease, projection):
        await _rebuild(source, lease, seize=False)
        await read(projection.load)


async def _rebuild(source: Source, lease: Lease, *, seize: bool) -> None:
    log.info("projector.rebuilding", shadow=seize)
    rebuild = Rebuild(lease.database, source, lease_seconds=lease.seconds)
    await rebuild.run(lease, tolerant=True, seize=seize)
    found = rebuild.progress.comparison
    log.info("projector.rebuilt", events=rebuild.progress.events, differing=found.differing)
    if found.differing and found.same_version:
        first = str(found.differences[0])
        log.warning("projector.views_differed", rows=found.differing, first=first)


async def _catch_up(lease: Lease, projection: Projection) -> bool:
    """Fold what the archive has beyond the views; False where it does not follow from them.

    Rows, archive and checkpoint are written in one transaction: what a checkpoint says holds.
    """
    heads = {p: at.last for p, at in (await lease.database.read(archived)).items()}
    positions = projection.positions
    position_of = projection.position_of
    behind = [p for p in sorted(heads) if _is_behind(position_of(p), heads[p])]

    async def store(applied: AppliedBatch) -> None:
        await lease.write(partial(projection.store, applied=applied))
        projection.mark_committed(applied)

    projection.archives = False
    try:
        for pool in behind:  # '' first: the catalogue names the pools
            # A stopped pool is tried again.
            positions[pool] = replace(position_of(pool), status=OK)
            await apply_archive(lease.database, projection, pool, heads[pool].seq, BATCH, store)
            if stopped(positions[pool]) or _is_behind(positions[pool], heads[pool]):
                return False
    finally:
        projection.archives = True
    if behind:
        log.info("projector.caught_up", pools=len(behind))
    return True


def _is_behind(position: Position, head: LogHead) -> bool:
    return (position.generation, position.seq) < (head.generation, head.seq)
