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

from eventstore.log.replies import LogHead
from projector.fold.projection import Projection, stopped
from projector.intake.source import Source, archive_heads, read_archive
from projector.rebuild.rebuild import Rebuild
from projector.rebuild.view_sets import RebuildInProgress, read_version
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import Position
from projector.store.tables import INCOMPLETE, VIEW_VERSION

log = structlog.get_logger("muster.projector")

BATCH: Final = 2000


async def upgrade(database: Database, source: Source, lease: Lease) -> bool:
    """Replace views of an older version; True: this was done, and `lease` is held.

    The old version's projector goes on until the new views have caught up, and is then superseded.
    Where another process already rebuilds them, wait for it.
    """
    while INCOMPLETE < await database.read(read_version) < VIEW_VERSION:
        try:
            await _rebuild(database, source, lease, seize=True)
        except RebuildInProgress:
            await asyncio.sleep(lease.seconds / 4)
        else:
            return True
    return False


async def prepare_views(
    database: Database, source: Source, lease: Lease, projection: Projection
) -> None:
    """Under the projector's lease: bring the views to where `projection` can continue them."""
    await database.read(projection.load)
    same_version = await database.read(read_version) == VIEW_VERSION
    if not same_version or not await _catch_up(database, lease, projection):
        await _rebuild(database, source, lease, seize=False)
        await database.read(projection.load)


async def _rebuild(database: Database, source: Source, lease: Lease, *, seize: bool) -> None:
    log.info("projector.rebuilding", shadow=seize)
    rebuild = Rebuild(database, source, lease_seconds=lease.seconds)
    if seize:
        await rebuild.run(lease, tolerant=True)
    else:
        async with rebuild.session():
            await rebuild.fold_archive()
            await rebuild.finish(lease, tolerant=True)
    comparison = rebuild.progress.comparison
    differing = comparison.differing if comparison is not None else 0
    log.info("projector.rebuilt", events=rebuild.progress.events, differing=differing)
    if comparison is not None and differing and comparison.same_version:
        log.warning(
            "projector.views_differed", rows=differing, first=str(comparison.differences[0])
        )


async def _catch_up(database: Database, lease: Lease, projection: Projection) -> bool:
    """Fold what the archive has beyond the views; False where it does not follow from them.

    Rows, archive and checkpoint are written in one transaction: what a checkpoint says holds.
    """
    heads = await database.read(archive_heads)
    positions = projection.positions
    behind = [p for p in sorted(heads) if _is_behind(positions.get(p, Position(p)), heads[p])]
    projection.archives = False
    try:
        for pool in behind:  # '' first: the catalogue names the pools
            if not await _catch_up_pool(database, lease, projection, pool, heads[pool]):
                return False
    finally:
        projection.archives = True
    if behind:
        log.info("projector.caught_up", pools=len(behind))
    return True


def _is_behind(position: Position, head: LogHead) -> bool:
    return (position.generation, position.seq) < (head.generation, head.seq)


async def _catch_up_pool(
    database: Database, lease: Lease, projection: Projection, pool: str, head: LogHead
) -> bool:
    position = projection.positions.setdefault(pool, Position(pool))
    while position.seq < head.seq:
        rows = await database.read(partial(read_archive, position=position, count=BATCH))
        if not rows or rows[0].seq != position.seq + 1:
            return False
        applied = await lease.write(partial(projection.write, pool=pool, rows=rows))
        projection.mark_committed(applied)
        position = applied.position
        if stopped(position):
            return False
    return not _is_behind(position, head)
