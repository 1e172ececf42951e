"""What exports, imports and pruning have in common: the database, its lease, and their progress."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.errors import MusterError
from projector.intake.archive import GenerationRange
from projector.rebuild.view_sets import RebuildInProgress, acquire_rebuild_lease
from projector.store.database import Database
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.rows import EventRow
from projector.store.tables import run

PAGE: Final = 1000
"""Events in one read."""
_PAGE: Final = (
    f"SELECT {', '.join(EventRow.__struct_fields__)} FROM {{}}events"
    " WHERE pool = ? AND generation = ? AND seq >= ? AND seq <= ? ORDER BY seq LIMIT ?"
)


class ArchiveBusy(MusterError):
    """A rebuild, an import or a pruning of this database is running: try again after its end."""


class Progress(Struct, frozen=True, kw_only=True):
    """How much of a piece of work is done."""

    doing: str
    pool: str = ""
    """Empty for the catalogue."""
    events: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


@asynccontextmanager
async def opened_archive(database_url: str) -> AsyncIterator[Database]:
    """The database of an archive; its tables are created where they are missing."""
    database = Database(database_url)
    database.open()
    try:
        await database.prepare()
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def exclusive(
    database: Database, *, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[Lease]:
    """The lease of rebuilds, which wait. Raises `ArchiveBusy`, also where it was lost."""
    lease = Lease(database, "rebuild", seconds=lease_seconds)
    try:
        await acquire_rebuild_lease(lease)
        try:
            async with lease.keep_renewed():
                yield lease
        finally:
            await lease.release()
    except (RebuildInProgress, Superseded) as error:
        raise ArchiveBusy from error


def read_page(connection: Connection, part: GenerationRange, first: int) -> list[EventRow]:
    """Archived events of a range from a seq on."""
    found = run(connection, _PAGE, part.pool, part.generation, first, part.last, PAGE)
    return [EventRow(*row) for row in found]
