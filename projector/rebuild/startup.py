"""What stands between a projector and following the log: views that it cannot simply go on from.

another version, serving   built anew beside them while their own projector goes on  (`upgrade`)
dropped, or inconsistent   built anew by whoever holds the lease                     (`ready`)
put back by a rollback     folded on from the archive, to where it ends              (`ready`)
left by a rebuild          the same: it archived more, and was refused or killed     (`ready`)
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from projector.fold.projection import Projection, stopped
from projector.intake.source import LogHead, Source, archive_heads, read_archive
from projector.rebuild.lease import RebuildInProgress
from projector.rebuild.rebuild import Rebuild
from projector.rebuild.view_sets import (
    ROLLED_BACK_NAME,
    delete_version,
    needs_rebuild,
    read_version,
    rolled_back,
)
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import EventRow, Position
from projector.store.tables import INCOMPLETE, VIEW_VERSION
from projector.verify.view_comparison import Comparison

log = structlog.get_logger("muster.projector")

BATCH: Final = 2000


async def upgrade(database: Database, source: Source, lease: Lease) -> bool:
    """Where older views serve, build ours beside them; True: they are in place, `lease` is held.

    Whoever keeps the old views goes on until the new ones have caught up, and is then superseded.
    Where another process builds them already, wait for it.
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
    """Under the projector's lease: let the views be such as `projection` can go on from."""
    await database.read(projection.load)
    rebuild_needed = await database.read(lambda c: needs_rebuild(c, projection.positions))
    if not rebuild_needed and await database.read(rolled_back):
        rebuild_needed = not await _catch_up(database, lease, projection)
    if rebuild_needed:
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
    _log_result(rebuild.progress.events, rebuild.progress.comparison)


def _log_result(events: int, comparison: Comparison | None) -> None:
    differing = comparison.differing if comparison is not None else 0
    log.info("projector.rebuilt", events=events, differing=differing)
    if comparison is not None and differing and comparison.same_version:
        log.warning(
            "projector.views_differed", rows=differing, first=str(comparison.differences[0])
        )


async def _catch_up(database: Database, lease: Lease, projection: Projection) -> bool:
    """Fold what the archive has beyond the views; False where that cannot be done."""
    projection.archives = False
    try:
        heads = await database.read(archive_heads)
        for pool in sorted(heads):  # '' is the catalogue: it names the pools
            if not await _catch_up_pool(database, lease, projection, pool, heads[pool]):
                return False
    finally:
        projection.archives = True

    await lease.write(lambda c: delete_version(c, ROLLED_BACK_NAME))
    log.info("projector.caught_up", pools=len(heads))
    return True


async def _catch_up_pool(
    database: Database, lease: Lease, projection: Projection, pool: str, head: LogHead
) -> bool:
    position = projection.positions.setdefault(pool, Position(pool))
    if position.generation > head.generation:
        return False
    while (current := projection.positions[pool]).seq < head.seq:
        rows = await database.read(_archived_after(current))
        if not rows or rows[0].seq != current.seq + 1:
            return False
        applied = await lease.write(partial(projection.write, pool=pool, rows=rows))
        projection.mark_committed(applied)
        if stopped(applied.position):
            return False
    return True


def _archived_after(position: Position) -> Callable[[Connection], list[EventRow]]:
    return lambda connection: read_archive(connection, position, count=BATCH)
