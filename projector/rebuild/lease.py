"""One rebuild at a time, by a lease of its own; and what a dead one left behind."""

from sqlalchemy import Connection

from eventstore.errors import MusterError
from projector.rebuild.view_sets import drop_fresh
from projector.store.database import Database
from projector.store.lease import Lease


class Rebuilding(MusterError):
    """Another rebuild of these views is under way."""


async def take_rebuild_lease(lease: Lease) -> None:
    """Raises `Rebuilding` where somebody holds it and goes on renewing it."""
    try:
        await lease.take(patience_seconds=lease.seconds * 1.5)
    except TimeoutError:
        raise Rebuilding from None


async def drop_leftovers(database: Database, lease: Lease) -> None:
    """Drop what a rebuild that died left behind; one that still renews its lease is let be."""
    try:
        await take_rebuild_lease(lease)
    except Rebuilding:
        return

    def drop(connection: Connection) -> None:
        lease.hold(connection)
        drop_fresh(connection)
        lease.give_back(connection)

    await database.write(drop)
