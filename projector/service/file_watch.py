"""Watches the SQLite file of the views while a projector is active."""

import asyncio
from typing import Final

import structlog

from eventstore.log.notices import WAL_LARGE
from projector.service.notices import Notices
from projector.store.database import Database
from projector.store.views_file import WAL_LARGE_BYTES

log = structlog.get_logger("muster.projector")

SECONDS: Final = 5.0


async def watch_file(database: Database, notices: Notices) -> None:
    """Open it again every few seconds, which shows damage, and keep its write-ahead log short.

    Of PostgreSQL there is none. Raises `ViewsFileChanged`, `DatabaseError`.
    """
    reported = False
    while True:
        await asyncio.sleep(SECONDS)
        if database.file is None:
            continue
        wal_bytes = await database.check_file()
        if large := wal_bytes > WAL_LARGE_BYTES:
            text = (
                f"{database.file.path}-wal has {wal_bytes // 1_000_000} MB: a reader keeps a"
                " transaction open, so it cannot be cut"
            )
            await notices.publish(WAL_LARGE, text)
            if not reported:
                log.warning("views.wal_large", text=text)
        reported = large
