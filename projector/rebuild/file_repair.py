"""Puts a damaged or missing SQLite file of the views right, without losing what is still there.

deleted, or replaced    what the projector has open is copied back in place    (`restore`)
its content is damaged  put aside, and built again from the streams            (`replace`)

The second only where nothing else is lost with the file: where the streams still have every event,
since the archive is in that file too. Otherwise an operator decides, who may have a copy of the
file (`muster replay --from-scratch`).
"""

import asyncio
import sqlite3
from typing import Final

import structlog

from eventstore.keys import CATALOGUE
from projector.intake.source import Addresses, Source
from projector.store.database import Database, DatabaseError
from projector.store.failures import Kind, kind, reason
from projector.store.rows import Position
from projector.store.views_file import DatabaseUnreachable, damage, put_aside

log = structlog.get_logger("muster.projector")

RETRY_SECONDS = 1.0
FROM_SCRATCH: Final = "`muster replay --from-scratch` puts it aside and builds the views again"


class ViewsDamaged(DatabaseUnreachable):
    """The file of the views is damaged, and only an operator can decide what to do."""


async def restore(database: Database) -> str:
    """Where the file was deleted or replaced, copy what is open back; retried until that succeeds.

    Returns what was done, empty for nothing. A file that `put_aside` renamed was replaced on
    purpose. Where nothing can be copied, the file that is there now, or an empty one, is used.
    """
    reported, file = "", database.file
    while file is not None and file.changed and not file.put_aside:
        how = "damaged" if file.damaged else "deleted or replaced"
        try:
            aside = await database.restore_file()
        except (OSError, DatabaseError, sqlite3.Error, DatabaseUnreachable) as error:
            why = reason(error)
            if why != reported:
                reported = why
                log.error("views.file_not_restored", path=str(file.path), reason=why)
            if isinstance(error, DatabaseUnreachable) or kind(error) is Kind.DAMAGED:
                lost = f"{file.path} was {how}, and what was in it could not be saved: {why}"
                return "" if file.damaged else lost  # it is replaced, or an operator decides
            await asyncio.sleep(RETRY_SECONDS)
        else:
            log.warning("views.file_restored", path=str(file.path), was=how, aside=str(aside or ""))
            found = f"; what was there instead is {aside.name}" if aside else ""
            return f"{file.path} was {how}, and is restored with all its content{found}"
    return ""


async def replace(of: Addresses) -> str:
    """Put a damaged file aside, so that the views are built again; returns what was done.

    Empty where it is not damaged. Raises `ViewsDamaged` where events would be lost, `LogError`.
    """
    file = Database(of.database_url).file
    if file is None or not (found := await asyncio.to_thread(damage, file.path)):
        return ""
    why = f"{file.path} is damaged: {found}"
    source = Source(of.redis_url, of.key_prefix)
    try:
        missing = await _first_missing(source)
    finally:
        await source.close()
    if missing:
        raise ViewsDamaged(
            f"{why}; {missing}, so what was archived was only there: put a copy of the file in"
            f" place, or {FROM_SCRATCH} from what Redis has"
        )
    aside = await asyncio.to_thread(put_aside, file.path)
    log.warning("views.file_replaced", path=str(file.path), aside=str(aside), reason=why)
    return f"{why}; it was put aside as {aside.name}, and is built again from the streams"


async def _first_missing(source: Source) -> str:
    """Why the streams do not have every event; empty where they do."""
    pools, position = {CATALOGUE}, Position(CATALOGUE)
    while rows := await source.after(position, count=1000):
        pools |= {row.subject for row in rows if row.type == "pool.created"}
        position = Position(CATALOGUE, rows[-1].generation, rows[-1].seq, rows[-1].stream_id)
    for pool, head in (await source.heads(sorted(pools))).items():
        first = await source.after(Position(pool), count=1)
        if not head.generation or (head.seq and (not first or first[0].seq != 1)):
            name = f"pool {pool!r}" if pool else "the catalogue"
            return f"the stream of {name} {'has lost its beginning' if first else 'is gone'}"
    return ""
