"""Stores alerts in the database, and trims their stream below what is stored.

Nothing is lost if it comes late: the stream has all that was not stored. Where in the stream it was
is not remembered over a start: what is stored twice changes nothing.
"""

import asyncio
import time
from functools import partial
from typing import Final

import structlog

from eventstore.connection.calls import ask
from eventstore.errors import LogError
from eventstore.log.alerts import AlertLog, readable
from eventstore.retention import Retention
from projector.intake.source import Source
from projector.store.alerts import close_others, forget_closed, store
from projector.store.lease import Lease

log = structlog.get_logger("muster.projector")

PAGE: Final = 500
CLEAN_SECONDS: Final = 60.0
"""How often old alerts are removed."""


class AlertArchive:
    """Of one active projector."""

    def __init__(self, source: Source, lease: Lease, retention: Retention) -> None:
        self._source, self._lease, self._retention = source, lease, retention
        self._alerts = AlertLog(source.client, source.keys)
        self._position = "0"
        self._cleaned_at = -CLEAN_SECONDS
        self._failing = ""

    async def follow(self, seconds: float) -> None:
        """Store what was written, every so many seconds. Raises `DatabaseError`."""
        while True:
            try:
                await self.run_once()
                self._failing = ""
            except LogError as error:  # such as a missing right: all else goes on
                if str(error) != self._failing:
                    self._failing = str(error)
                    log.warning("alert.not_stored", reason=self._failing)
            await asyncio.sleep(seconds)

    async def run_once(self) -> None:
        """Store what is new, and now and then remove what is old."""
        while entries := await self._alerts.after(self._position, count=PAGE):
            events = readable(entries)
            await self._lease.write(partial(store, events=events))
            self._position = entries[-1][0].decode()
        if time.monotonic() - self._cleaned_at >= CLEAN_SECONDS:
            await self._clean_up()
            self._cleaned_at = time.monotonic()

    async def _clean_up(self) -> None:
        """Trim below what is stored, close what Redis lost, and forget what is old."""
        seconds, _ = await ask(self._source.client, "TIME")
        now_ms = int(seconds) * 1000
        old_ms, stored_ms = now_ms - self._retention.age_ms, int(self._position.partition("-")[0])
        await self._alerts.trim(self._position if stored_ms < old_ms else f"{max(old_ms, 0)}-0")
        if not await self._alerts.after("0", count=1):
            self._position = "0"  # all is trimmed, or Redis was emptied
        open_ids = await self._alerts.open_ids()
        if await self._alerts.after(self._position, count=1):
            return  # some were opened or closed meanwhile
        lost = await self._lease.write(partial(close_others, open_ids=open_ids, now_ms=now_ms))
        for alert_id in lost:
            log.warning("alert.lost", alert_id=alert_id)
        before_ms = now_ms - self._retention.alerts_ms
        await self._lease.write(partial(forget_closed, before_ms=before_ms))
