"""Finds damaged logs: gone, rolled back, rewritten, or halted by the process that noticed first.

Logs are compared with the archive. Its checkpoint names the last archived event: a log that does
not have this event, or ends before it, has lost acknowledged events.
"""

from functools import partial

from msgspec import Struct

from eventstore.log.replies import LogHead
from projector.fold.projection import Projection
from projector.intake.source import Source, archive_heads, describe_damage, read_archive, rewritten
from projector.store.database import Database
from projector.store.rows import EventRow, Position

PAGE = 1000


class Damage(Struct, frozen=True, kw_only=True):
    """A log that must be recovered, and why."""

    pool: str
    reason: str
    head: LogHead
    """Its end in Redis; generation 0 if the log is gone."""


async def find_damage(source: Source, database: Database, projection: Projection) -> list[Damage]:
    """Every damaged log of those that the views know, the catalogue first."""
    positions = projection.positions
    found: list[Damage] = []
    projection.add_pools()
    # Read first: a log that is created after this is not missing.
    created = await source.created(projection.catalogue.pools)
    heads, intact = await source.heads(positions), await source.intact(positions)
    for pool in sorted(positions):
        position, head = positions[pool], heads[pool]
        catalogue_lost = found and not found[0].pool
        if not (position.generation or pool in created or head.halted or catalogue_lost):
            continue  # its log is yet to be created
        reason = describe_damage(position, head, intact=intact[pool]) or await rewritten(
            source, database, position
        )
        if reason:
            found.append(Damage(pool=pool, reason=reason, head=head))
    return found


async def unarchived_events(
    source: Source, database: Database, position: Position
) -> list[EventRow]:
    """Events of the stream that the archive, which ends at `position`, does not have: lost ones."""
    unarchived: list[EventRow] = []
    last = Position(position.pool, position.generation)
    while rows := await source.after(last, count=PAGE):
        seqs = [row.seq for row in rows]
        first = Position(position.pool, 0, min(seqs) - 1)
        read_page = partial(read_archive, position=first, count=PAGE, last=max(seqs))
        ids = {row.event_id for row in await database.read(read_page)}
        unarchived += [row for row in rows if row.event_id not in ids]
        last = Position(position.pool, position.generation, rows[-1].seq, rows[-1].stream_id)
    return unarchived


async def archive_exists(database_url: str) -> bool:
    """Whether any event was ever archived there: then a missing log was lost.

    Raises `DatabaseError` where the database does not answer.
    """
    database = Database(database_url, connections=1)
    database.open()
    try:
        await database.prepare()
        return bool(await database.read(archive_heads))
    finally:
        await database.close()
