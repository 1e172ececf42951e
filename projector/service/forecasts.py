"""Publishes what growth of their loads those pools must expect whose settings ask for a forecast.

Every few minutes what was archived since is added to what is known of each pool's past. After a
start all of the last weeks is read, in pages, while the projection goes on. Nothing of it is
stored: the archive has it.
"""

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import structlog

from eventstore.errors import LogError
from eventstore.language.catalogue import Pool
from eventstore.language.forecast import Forecast
from eventstore.log import forecasts
from projector.fold.projection import Projection
from projector.intake.load import PoolLoad
from projector.intake.source import Source
from projector.store.database import Database

log = structlog.get_logger("muster.projector")


class Forecasts:
    """Of one active projector."""

    def __init__(self, source: Source, database: Database) -> None:
        self._source = source
        self._database = database
        self._loads: dict[str, PoolLoad] = {}

    async def run(self, seconds: float, projection: Projection) -> None:
        """Publish at each multiple of so many seconds. Returns only by an error."""
        while True:
            await asyncio.sleep(seconds - time.time() % seconds)
            try:
                await self.publish(projection.catalogue.pools.values())
            except LogError as error:  # the next may be published again
                log.warning("forecast.not_published", reason=str(error))

    async def publish(self, pools: Iterable[Pool]) -> None:
        """Those of the pools that want one. Raises `DatabaseError`, `LogError`."""
        wanted = [
            pool.pool_name for pool in pools if not pool.deleted and pool.config.wants_forecast
        ]
        self._loads = {pool: self._loads.get(pool) or PoolLoad(pool) for pool in wanted}
        if not wanted:
            return
        [[seconds, _]] = await self._source.ask([("TIME",)])
        found = {
            pool: await self._forecast(load, int(seconds) * 1000)
            for pool, load in self._loads.items()
        }
        known = {pool: forecast for pool, forecast in found.items() if forecast is not None}
        await forecasts.publish(self._source.client, self._source.keys, known)

    async def _forecast(self, load: PoolLoad, now_ms: int) -> Forecast | None:
        while not await self._database.read(partial(load.read_page, now_ms=now_ms)):
            pass
        return await asyncio.to_thread(load.history.forecast)
