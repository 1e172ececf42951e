"""What stands between a projector and following the log: views that it cannot simply go on from.

another version, serving   built anew beside them while their own projector goes on  (`upgrade`)
dropped, or inconsistent   built anew by whoever holds the lease                     (`ready`)
put back by a rollback     folded on from the archive, to where it ends              (`ready`)
left by a rebuild          the same: it archived more, and was refused or killed     (`ready`)
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection

from projector.fold.projection import Projection, Taken, stopped
from projector.intake.source import Head, Source, archive_heads, archived
from projector.rebuild.lease import Rebuilding
from projector.rebuild.rebuild import Rebuild
from projector.rebuild.view_sets import (
    NAMED_ROLLED_BACK,
    forget,
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
        except Rebuilding:
            await asyncio.sleep(lease.seconds / 4)
        else:
            return True
    return False


async def ready(database: Database, source: Source, lease: Lease, projection: Projection) -> None:
    """Under the projector's lease: let the views be such as `projection` can go on from."""
    await database.read(projection.load)
    anew = await database.read(lambda c: needs_rebuild(c, projection.positions))
    if not anew and await database.read(rolled_back):
        anew = not await _catch_up(database, lease, projection)
    if anew:
        await _rebuild(database, source, lease, seize=False)
        await database.read(projection.load)


async def _rebuild(database: Database, source: Source, lease: Lease, *, seize: bool) -> None:
    log.info("projector.rebuilding", beside=seize)
    rebuild = Rebuild(database, source, lease_seconds=lease.seconds)
    if seize:
        await rebuild.run(lease, tolerant=True)
    else:
        async with rebuild.making():
            await rebuild.fold_archive()
            await rebuild.finish(lease, tolerant=True)
    _tell(rebuild.progress.events, rebuild.progress.comparison)


def _tell(events: int, found: Comparison | None) -> None:
    differing = found.differing if found is not None else 0
    log.info("projector.rebuilt", events=events, differing=differing)
    if found is not None and differing and found.same_version:
        log.warning("projector.views_were_wrong", rows=differing, first=str(found.differences[0]))


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

    def done(connection: Connection) -> None:
        lease.hold(connection)
        forget(connection, NAMED_ROLLED_BACK)

    await database.write(done)
    log.info("projector.caught_up", pools=len(heads))
    return True


async def _catch_up_pool(
    database: Database, lease: Lease, projection: Projection, pool: str, head: Head
) -> bool:
    position = projection.positions.setdefault(pool, Position(pool))
    if position.generation > head.generation:
        return False
    while (at := projection.positions[pool]).seq < head.seq:
        rows = await database.read(_after(at))
        if not rows or rows[0].seq != at.seq + 1:
            return False
        if stopped(await _take(database, lease, projection, pool, rows)):
            return False
    return True


def _after(position: Position) -> Callable[[Connection], list[EventRow]]:
    return lambda connection: archived(connection, position, count=BATCH)


async def _take(
    database: Database, lease: Lease, projection: Projection, pool: str, rows: list[EventRow]
) -> Position:
    def work(connection: Connection) -> Taken:
        lease.hold(connection)
        return projection.write(connection, pool, rows)

    taken = await database.write(work)
    projection.keep(taken)
    return taken.position
