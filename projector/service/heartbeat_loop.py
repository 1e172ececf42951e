"""Reads heartbeats and writes the newest of each worker to the live tables, about once a second."""

import asyncio

from eventstore.keys import CATALOGUE
from eventstore.log.reader import Reader
from projector.fold import heartbeats
from projector.fold.projection import Projection
from projector.intake.source import Source
from projector.service.options import ProjectorOptions
from projector.store.database import Database
from projector.store.lease import Lease


class HeartbeatLoop:
    """Of the pools that `projection` knows."""

    def __init__(
        self,
        options: ProjectorOptions,
        database: Database,
        source: Source,
        lease: Lease,
        projection: Projection,
    ) -> None:
        self._options = options
        self._database = database
        self._source = source
        self._lease = lease
        self._projection = projection
        self._unreadable = heartbeats.UnreadableLog()

    async def run(self) -> None:
        reader = Reader(self._options.redis_url, block_seconds=self._options.audit_seconds)
        try:
            positions = await self._database.read(heartbeats.read_positions)
            while True:
                await self._round(reader, positions)
                await asyncio.sleep(self._options.heartbeat_seconds)
        finally:
            await reader.close()

    async def _round(self, reader: Reader, positions: dict[str, str]) -> None:
        pools = {
            self._source.keys.pool(pool, "heartbeats"): pool
            for pool in self._projection.positions
            if pool != CATALOGUE
        }
        after = {stream: positions.get(pool, "0") for stream, pool in pools.items()}
        found = await reader.read(after, count=self._options.count(len(pools)))
        batch = heartbeats.gather({pools[stream]: some for stream, some in found.items()})
        if not batch.positions:
            return
        self._unreadable.report(batch.unreadable)
        await self._lease.write(lambda c: heartbeats.write(c, batch))
        positions.update(batch.positions)
