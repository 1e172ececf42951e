"""What is wrong with a log: gone, rolled back, rewritten, or halted by whoever noticed first.

The archive is what a log is held against: its checkpoint names the last event that was taken, and a
log that does not have it, or ends before it, has lost what was acknowledged.
"""

from collections.abc import Iterable

from msgspec import Struct

from eventstore.keys import CATALOGUE
from projector.fold.projection import Projection
from projector.intake.integrity import describe, rewritten
from projector.intake.source import Head, Source, archive_heads, archived
from projector.store.database import Database
from projector.store.rows import EventRow, Position

PAGE = 1000


class Damage(Struct, frozen=True, kw_only=True):
    """A log that must be recovered, and why."""

    pool: str
    reason: str
    head: Head
    """Where it stands; generation 0 if it is gone."""


async def find_damage(source: Source, database: Database, projection: Projection) -> list[Damage]:
    """Every damaged log among those that the views know, the catalogue first."""
    positions = projection.positions
    found: list[Damage] = []
    projection.join_pools()
    # A log that is made later than it is looked for is not missing, so this is asked first.
    made = await source.made(projection.catalogue.pools)
    heads, whole = await source.heads(positions), await source.whole(positions)
    for pool in sorted(positions):
        at, head = positions[pool], heads[pool]
        begun = at.generation or pool in made or head.halted or (found and not found[0].pool)
        if not begun:
            continue  # its log is yet to be created
        reason = describe(at, head, whole=whole[pool]) or await rewritten(source, database, at)
        if reason:
            found.append(Damage(pool=pool, reason=reason, head=head))
    return found


async def void_events(source: Source, database: Database, at: Position) -> list[EventRow]:
    """Events of the stream that the archive, which goes to `at`, does not have: they are lost."""
    void: list[EventRow] = []
    last = Position(at.pool, at.generation)
    while rows := await source.after(last, count=PAGE):
        first = Position(at.pool, 0, min(row.seq for row in rows) - 1)
        highest = max(row.seq for row in rows)
        kept = await database.read(lambda c: archived(c, first, count=PAGE, last=highest))  # noqa: B023
        ids = {row.event_id for row in kept}
        void += [row for row in rows if row.event_id not in ids]
        last = Position(at.pool, at.generation, rows[-1].seq, rows[-1].stream_id)
    return void


def damaged_pools(found: Iterable[Damage]) -> bool:
    """Whether any of it concerns a pool, whose workers then have to be waited out."""
    return any(one.pool != CATALOGUE for one in found)


async def archive_known(database_url: str) -> bool:
    """Whether anything of a log was ever archived there: then a log that is gone was lost.

    Raises `DatabaseError` where the database does not answer.
    """
    database = Database(database_url, connections=1)
    database.open()
    try:
        await database.prepare()
        return bool(await database.read(archive_heads))
    finally:
        await database.close()
