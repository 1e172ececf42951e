"""Trimming the streams, below the archive only.

A sweep first reads how far the archive goes and then proves the lease, so that it was this
database's projector that read it. What it then lets go is in the archive, and the archive does not
shrink: so a sweep that was interrupted, repeated, or overtaken by another projector's takes nothing
that is not archived. Which entries go is chosen by the script; it takes a bounded piece at a time.
"""

from collections.abc import Iterable
from typing import Final

import structlog

from eventstore.errors import LogError, LogUnreachable
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.log.replies import LogHead
from eventstore.retention import Retention
from projector.fold.heartbeats import delete_old
from projector.fold.projection import stopped
from projector.intake.source import Source, archive_heads
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import Position

log = structlog.get_logger("muster.projector")

TRIM_STEPS_MAX: Final = 100
"""Pieces of one pool in one sweep; what is left waits for the next."""


class Trimmer:
    """Keeps the streams of every pool within the retention."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, retention: Retention
    ) -> None:
        self._database = database
        self._lease = lease
        self._log = Log(source.client, source.keys, retention=retention)
        self._failing: set[str] = set()
        self._earliest_ms = 0
        """Log time in the pool whose log is least far, as of the last sweep."""

    async def run_once(self, positions: Iterable[Position]) -> None:
        """One sweep over pools whose views are at these positions.

        Raises `Superseded` and whatever the database raises. A pool whose log cannot be trimmed
        is named in a line of the log, once, and tried again with the next sweep.
        """
        live_positions = [
            position for position in positions if position.pool != CATALOGUE and position.generation
        ]
        archived = await self._database.read(archive_heads)
        # Each log has a time of its own: where a clock was set back, older ones are ahead of it.
        await self._lease.write(lambda c: delete_old(c, self._earliest_ms))
        times: list[int] = []
        for at in live_positions:
            try:
                await self._trim(at.pool, _trimmable(at, archived.get(at.pool, LogHead())))
            except LogUnreachable:
                continue  # or it was recovered just now: the next sweep knows more
            except LogError as error:
                self._log_failure(at.pool, error)
            else:
                self._failing.discard(at.pool)
                times.append(self._log.now_ms(at.pool))
        self._earliest_ms = min(times, default=self._log.now_ms(CATALOGUE))

    async def _trim(self, pool: str, trimmable: LogHead) -> None:
        self._log.raise_high_water_mark(pool, trimmable.generation, trimmable.seq)
        events = others = 0
        for _ in range(TRIM_STEPS_MAX):
            trimmed = await self._log.trim(pool, trimmable.generation, trimmable.seq)
            events += trimmed.events
            others += trimmed.others
            if not trimmed.more:
                break
        if events:
            log.debug("stream.trimmed", pool=pool, events=events, others=others)

    def _log_failure(self, pool: str, error: LogError) -> None:
        if pool not in self._failing:
            self._failing.add(pool)
            log.warning("stream.not_trimmed", pool=pool, reason=str(error))


def _trimmable(position: Position, archived: LogHead) -> LogHead:
    """How far both archive and views have taken a log: nothing where they stand still or differ."""
    if stopped(position) or position.generation != archived.generation:
        return LogHead(position.generation)
    return LogHead(position.generation, min(position.seq, archived.seq))
