"""Whether the logs in Redis are still those that were projected; and closing those that are not."""

from collections.abc import Iterable, Mapping

import structlog

from eventstore.log.log import Log
from eventstore.recovery.restore import halt_generation
from projector.fold.projection import stopped
from projector.intake.entries import OK
from projector.intake.source import Source, describe_damage, rewritten
from projector.store.database import Database
from projector.store.rows import Position

log = structlog.get_logger("muster.projector")


class Audit:
    def __init__(self, database: Database, source: Source, event_log: Log) -> None:
        self._database = database
        self._source = source
        self._log = event_log

    async def statuses(
        self, positions: Mapping[str, Position], *, thorough: bool
    ) -> dict[str, str]:
        """By pool: `ok`, or why its log cannot be projected further.

        `thorough`: also of stopped pools, and whether the last projected event is still there.
        """
        watched = {
            pool: at
            for pool, at in positions.items()
            if at.generation and (thorough or not stopped(at))
        }
        intact = await self._source.intact(watched)
        found = {
            pool: describe_damage(watched[pool], head, intact=intact[pool]) or OK
            for pool, head in (await self._source.heads(watched)).items()
        }
        if thorough:
            healthy = [watched[pool] for pool, status in found.items() if status == OK]
            found |= await self.rewritten(healthy)
        return found

    async def rewritten(self, positions: Iterable[Position]) -> dict[str, str]:
        """Logs that have another event at the last projected position, and the reason."""
        found = {at.pool: await rewritten(self._source, self._database, at) for at in positions}
        return {pool: reason for pool, reason in found.items() if reason}

    async def close(self, damaged: Mapping[str, str], positions: Mapping[str, Position]) -> None:
        """Halt logs that lost events.

        No other process may notice: a log that has grown past its loss is above every high-water
        mark. And what is still written to it can never be archived.
        """
        for pool, reason in damaged.items():
            if await halt_generation(self._log, pool, positions[pool].generation, reason):
                log.error("log.lost", pool=pool, reason=reason)
