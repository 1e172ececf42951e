"""Builds the views in a new SQLite file, from what Redis has: the old one is damaged.

The old file is put aside. Then a projector follows the streams to their present ends: the one that
runs anyway, which notices that its file was put aside, or else one that runs here meanwhile. A pool
whose stream has lost its beginning starts from a snapshot of its hashes.
"""

import asyncio
import time
from pathlib import Path

from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from eventstore.keys import CATALOGUE
from projector.fold.projection import read_positions, stopped
from projector.intake.source import Addresses, Source, opened
from projector.rebuild.rebuild import OnProgress, Progress
from projector.service.options import ProjectorOptions
from projector.service.projector import Projector
from projector.store.database import Database
from projector.store.rows import Position
from projector.store.tables import SERVING, run
from projector.store.views_file import put_aside

POLL_SECONDS = 0.1


async def from_scratch(of: Addresses, on_progress: OnProgress) -> tuple[Progress, Path | None]:
    """The final progress, and where the old file is now, if there was one.

    Raises `ConfigurationError`, `LogError`, `DatabaseError`, `OSError`.
    """
    file = Database(of.database_url).file
    if file is None:
        raise ConfigurationError(
            "only an SQLite file can be put aside; restore a PostgreSQL database from its backup,"
            " or create an empty one and start a projector on it"
        )
    await _require_a_log(of)  # else all would be put aside for nothing
    aside = await asyncio.to_thread(put_aside, file.path) if file.path.exists() else None
    options = ProjectorOptions(
        redis_url=of.redis_url, key_prefix=of.key_prefix, database_url=of.database_url
    )
    projector = Projector(options)
    await projector.start()
    try:
        async with opened(of) as (database, source):
            return await _catch_up(database, source, on_progress), aside
    finally:
        await projector.stop()


async def _require_a_log(of: Addresses) -> None:
    source = Source(of.redis_url, of.key_prefix)
    try:
        heads = await source.heads([CATALOGUE])
    finally:
        await source.close()
    if not heads[CATALOGUE].generation:
        raise ConfigurationError("Redis has no log from which the views could be built")


async def _catch_up(database: Database, source: Source, on_progress: OnProgress) -> Progress:
    """Wait until the views have what the streams had when each was first seen.

    A pool that cannot be projected to there is left out of the comparison, with the reason.
    """
    started = time.monotonic()
    heads = await source.heads([CATALOGUE])
    while True:
        positions = await database.read(lambda c: read_positions(c, SERVING))
        # After the catalogue's position.
        pools = await database.read(
            lambda c: set(run(c, "SELECT pool_name FROM {}pools").scalars())
        )
        heads |= await source.heads((pools | positions.keys()) - heads.keys())
        failed = {pool: at.status for pool, at in positions.items() if stopped(at)}
        behind = {
            pool: head.seq - seq
            for pool, head in heads.items()
            if (seq := positions.get(pool, Position(pool)).seq) < head.seq
        }
        total = sum(head.seq for head in heads.values())
        progress = Progress(
            events=total - sum(behind.values()),
            total=total,
            seconds=time.monotonic() - started,
            finished=behind.keys() <= failed.keys(),
        )
        left_out = replace(progress.comparison, left_out=failed)
        progress = replace(progress, comparison=left_out)
        on_progress(progress)
        if progress.finished:
            return progress
        await asyncio.sleep(POLL_SECONDS)
