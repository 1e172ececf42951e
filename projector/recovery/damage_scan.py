"""Finds damaged logs: gone, rolled back, rewritten, or halted by the process that noticed first.

Logs are compared with the archive. Its checkpoint names the last archived event: a log that does
not have this event, or ends before it, has lost acknowledged events.
"""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from eventstore.keys import CATALOGUE
from projector.fold.projection import Projection, stopped
from projector.intake.entries import OK
from projector.intake.source import Source, archived, describe_damage, read_archive, rewritten
from projector.store.archive_starts import read_starts
from projector.store.database import Database
from projector.store.rows import EventRow, Position

PAGE = 1000


async def find_damage(source: Source, database: Database, projection: Projection) -> dict[str, str]:
    """Every damaged log of those that the views know, and why; the catalogue first."""
    positions = projection.positions
    found: dict[str, str] = {}
    projection.add_pools()
    # Read first: a log that is created after this is not missing.
    created = await source.created(projection.catalogue.pools)
    heads, intact = await source.heads(positions), await source.intact(positions)
    for pool in sorted(positions):
        position, head = positions[pool], heads[pool]
        exists = head.generation or pool in created or head.halted
        exists = exists or (pool == CATALOGUE and position.generation)
        if not (exists or CATALOGUE in found):
            continue  # its log is yet to be created, or to be continued after it was removed
        reason = describe_damage(position, head, intact=intact[pool])
        if reason := reason or await rewritten(source, database, position):
            found[pool] = reason
    return found


async def statuses(
    source: Source, database: Database, positions: Mapping[str, Position], *, thorough: bool
) -> dict[str, str]:
    """By pool: `ok`, or why its log cannot be projected further.

    `thorough`: also of stopped pools, and whether the last projected event is still there.
    """
    watched = {
        pool: at
        for pool, at in positions.items()
        if at.generation and (thorough or not stopped(at))
    }
    created, intact, heads = await asyncio.gather(  # sent together, in the order of `find_damage`
        source.created(watched.keys() - {CATALOGUE}), source.intact(watched), source.heads(watched)
    )
    found = {
        pool: describe_damage(watched[pool], head, intact=intact[pool]) or OK
        for pool, head in heads.items()
    }
    if found.get(CATALOGUE, positions[CATALOGUE].status) == OK:  # else all may be lost
        for pool in found.keys() - created - {CATALOGUE}:
            if not heads[pool].generation:  # to be continued after it was removed
                del found[pool]
    if thorough:
        healthy = [watched[pool] for pool, status in found.items() if status == OK]
        found |= await rewritten_logs(source, database, healthy)
    return found


async def rewritten_logs(
    source: Source, database: Database, positions: Iterable[Position]
) -> dict[str, str]:
    """Logs that have another event at the last projected position, and the reason."""
    found = {at.pool: await rewritten(source, database, at) for at in positions}
    return {pool: reason for pool, reason in found.items() if reason}


async def unarchived_events(
    source: Source, database: Database, position: Position
) -> list[EventRow]:
    """Events of the stream that the archive, which ends at `position`, does not have: lost ones.

    What was pruned from the archive is not lost.
    """
    unarchived: list[EventRow] = []
    start = (await database.read(read_starts)).get(position.pool)
    pruned = start.seq if start else 0
    last = Position(position.pool, position.generation)
    while rows := await source.after(last, count=PAGE):
        seqs = [row.seq for row in rows]
        first = Position(position.pool, 0, min(seqs) - 1)
        read_page = partial(read_archive, position=first, count=PAGE, last=max(seqs))
        ids = {row.event_id for row in await database.read(read_page)}
        unarchived += [row for row in rows if row.seq > pruned and row.event_id not in ids]
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
        return bool(await database.read(archived))
    finally:
        await database.close()
