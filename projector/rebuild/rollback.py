"""`muster replay --rollback`, `--discard-previous`: the views that served before the last switch.

Rows and checkpoints are put back in one transaction. The projector then goes on from those
checkpoints, which are behind: it folds from the archive what came since, without archiving it
again, and then follows the streams as ever. Nothing of the log is touched.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection

from projector.rebuild.lease import acquire_rebuild_lease, drop_and_release
from projector.rebuild.rebuild import RebuildFenced, RebuildOptions
from projector.rebuild.view_sets import discard_previous, restore_previous
from projector.store.database import Database
from projector.store.lease import Lease, Superseded


async def roll_back(options: RebuildOptions) -> None:
    """Let the previous views serve again; those that served are kept in their place.

    Raises `CannotRollBack`, `Rebuilding`, `RebuildFenced` and whatever the database raises.
    """
    async with _exclusive(options) as (database, rebuilding):
        projector = Lease(database, seconds=options.lease_seconds)

        def work(connection: Connection) -> None:
            restore_previous(connection, database.prefix)
            projector.release_in(connection)

        await projector.seize()
        try:
            await projector.write(work, also=rebuilding)
        finally:
            await projector.release()


async def discard(options: RebuildOptions) -> None:
    """Drop the previous views."""
    async with _exclusive(options) as (database, rebuilding):
        await rebuilding.write(lambda c: discard_previous(c, database.prefix))


@asynccontextmanager
async def _exclusive(options: RebuildOptions) -> AsyncIterator[tuple[Database, Lease]]:
    """While nobody rebuilds; what a rebuild that died left behind goes too."""
    database = Database(options.database_url, connections=2)
    database.open()
    rebuilding = Lease(database, "rebuild", seconds=options.lease_seconds)

    try:
        await database.prepare()
        await acquire_rebuild_lease(rebuilding)
        try:
            yield database, rebuilding
        finally:
            await drop_and_release(rebuilding)
    except Superseded as error:
        raise RebuildFenced from error
    finally:
        await database.close()
