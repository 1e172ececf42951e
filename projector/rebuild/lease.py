"""One rebuild at a time, by a lease of its own; and the tables that a dead one left."""

from sqlalchemy import Connection

from eventstore.errors import MusterError
from projector.rebuild.view_sets import drop_shadow
from projector.store.lease import Lease


class RebuildInProgress(MusterError):
    """Another rebuild of these views is running."""


async def acquire_rebuild_lease(lease: Lease) -> None:
    """Raises `RebuildInProgress` while another process renews it."""
    try:
        await lease.acquire(timeout_seconds=lease.seconds * 1.5)
    except TimeoutError:
        raise RebuildInProgress from None


async def drop_abandoned_tables(lease: Lease) -> None:
    """Drop the tables of a rebuild that died; not those of one that still renews its lease."""
    try:
        await acquire_rebuild_lease(lease)
    except RebuildInProgress:
        return
    await drop_and_release(lease)


async def drop_and_release(lease: Lease) -> None:
    """Drop the tables of a rebuild and release its lease, in one step. Raises `Superseded`."""

    def drop(connection: Connection) -> None:
        drop_shadow(connection)
        lease.release_in(connection)

    await lease.write(drop)
