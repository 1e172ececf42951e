"""Trims the streams, below the end of the archive only, and removes pools that were deleted.

A trim pass first reads the end of the archive and then proves the lease, so that the end is that of
the active projector's database. All it then trims is in the archive, and the archive does not
shrink: a pass that is interrupted, repeated, or overtaken by another projector's trims nothing that
is not archived. The script chooses the entries, a bounded number in each step.
"""

import time
from collections.abc import Iterable
from typing import Final

import structlog

from eventstore.errors import LogError, LogUnreachable
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue, Pool
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import LogHead
from eventstore.log.retirement import Retirement
from eventstore.retention import Retention
from projector.fold.heartbeats import delete_old
from projector.fold.projection import stopped
from projector.intake.source import Archived, Source, archived
from projector.store.lease import Lease
from projector.store.rows import Position

log = structlog.get_logger("muster.projector")

IDLE_SECONDS: Final = 60.0
"""How often a log is trimmed to which nothing was added; more often if little is retained."""
TRIM_STEPS_MAX: Final = 100
"""Steps for one pool in one pass; the rest is left to the next pass."""


class Trimmer:
    """Trims the streams of every pool to the retention."""

    def __init__(self, source: Source, lease: Lease, retention: Retention) -> None:
        self._lease = lease
        self._log = Log(source.client, source.keys, retention=retention)
        self._reader = Reader(source.url)
        catalogue = CatalogueLog(self._log, self._reader)
        self._retirement = Retirement(self._log, catalogue, "projector")
        shortest_ms = min(retention.age_ms, retention.heartbeats_ms)
        self._idle_seconds = min(IDLE_SECONDS, shortest_ms / 10_000)
        self._trimmed: dict[str, tuple[LogHead, float]] = {}
        """How far each log was trimmed to its end, and when."""
        self._failing: set[str] = set()
        self._catalogue_due_seq = 0
        """Where the catalogue is trimmed next: at once, then in steps."""
        self._earliest_ms = 0
        """The earliest log time of all pools, as of the last pass."""

    async def close(self) -> None:
        await self._reader.close()

    async def run_once(self, positions: Iterable[Position], catalogue: Catalogue) -> None:
        """One pass over logs whose views are at these positions, and the catalogue in them.

        Raises `Superseded` and `DatabaseError`. A pool whose log cannot be trimmed is logged once,
        and tried again in each pass.
        """
        positions = list(positions)
        due = [at for at in positions if self._has_work(at, catalogue)]
        pools = [at.pool for at in due]
        ends = await self._lease.database.read(lambda c: archived(c, pools))
        # Each log has its own time: where a clock was set back, older logs are ahead of it.
        await self._lease.write(lambda c: delete_old(c, self._earliest_ms))
        for at in due:
            trimmable = _trimmable(at, ends.get(at.pool, Archived()).last)
            try:
                if at.pool == CATALOGUE:
                    await self._trim_catalogue(trimmable, catalogue)
                    await self._retirement.delete_keys()
                    continue
                if at.generation and self._is_due(at.pool, trimmable):
                    await self._trim(at.pool, trimmable)
                if (pool := catalogue.pools.get(at.pool)) and pool.deleted:
                    await self._remove(pool, at, trimmable)
            except LogUnreachable:
                continue  # or just recovered: the next pass trims it
            except LogError as error:
                if at.pool not in self._failing:
                    self._failing.add(at.pool)
                    log.warning("stream.not_trimmed", pool=at.pool, reason=str(error))
            else:
                self._failing.discard(at.pool)
        known = self._trimmed.keys() & {at.pool for at in positions} - self._failing
        self._earliest_ms = min(map(self._log.now_ms, known or {CATALOGUE}))

    async def _trim_catalogue(self, trimmable: LogHead, catalogue: Catalogue) -> None:
        """Now and then: a snapshot is as large as the fold."""
        if trimmable.seq == catalogue.seq >= max(self._catalogue_due_seq, 1):
            trimmed = await self._log.trim_catalogue(trimmable.generation, catalogue)
            self._catalogue_due_seq = catalogue.seq + self._log.retention.catalogue_events
            if trimmed.events:
                log.debug("stream.trimmed", pool=CATALOGUE, events=trimmed.events, others=0)

    async def _remove(self, pool: Pool, at: Position, trimmable: LogHead) -> None:
        """From Redis, if nothing of it is left to archive."""
        if not at.generation:  # it never had an event
            trimmable = LogHead((await self._log.head(pool.pool_name)).generation)
        if trimmable.generation and trimmable.seq == at.seq:
            await self._retirement.remove(pool, trimmable)

    def _has_work(self, at: Position, catalogue: Catalogue) -> bool:
        pool = catalogue.pools.get(at.pool)
        if pool is None or pool.deleted:
            return True
        return at.generation > 0 and self._is_due(at.pool, LogHead(at.generation, at.seq))

    def _is_due(self, pool: str, trimmable: LogHead) -> bool:
        """Where nothing was added only what gets old is left to be trimmed, which can wait."""
        trimmed, at = self._trimmed.get(pool, (None, 0.0))
        return trimmed != trimmable or time.monotonic() - at >= self._idle_seconds

    async def _trim(self, pool: str, trimmable: LogHead) -> None:
        self._log.raise_high_water_mark(pool, trimmable.generation, trimmable.seq)
        events = others = 0
        for _ in range(TRIM_STEPS_MAX):
            trimmed = await self._log.trim(pool, trimmable.generation, trimmable.seq)
            events += trimmed.events
            others += trimmed.others
            if not trimmed.more:
                self._trimmed[pool] = trimmable, time.monotonic()
                break
        if events:
            log.debug("stream.trimmed", pool=pool, events=events, others=others)


def _trimmable(position: Position, archived: LogHead) -> LogHead:
    """The end of both archive and views; nothing where the views stopped or generations differ."""
    if stopped(position) or position.generation != archived.generation:
        return LogHead(position.generation)
    return LogHead(position.generation, min(position.seq, archived.seq))
