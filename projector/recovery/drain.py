"""What is left of a log in Redis: taken into the archive, as far as it follows it, else named.

Where nothing is archived and the stream has no beginning either, the archive begins with what lives
in Redis' hashes (`fold/snapshot.py`). What cannot be taken is told as reports, like those of
gateways and workers: once the log is wiped, nobody else has it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from eventstore.keys import CATALOGUE
from eventstore.recovery.loss_reports import LossReport
from projector.fold.projection import Projection, stopped
from projector.fold.snapshot import take_snapshot, truncated_start
from projector.intake.source import Source
from projector.recovery.damage_scan import unarchived_events
from projector.recovery.losses import unarchived_event_report, unreadable_report
from projector.store.database import Database
from projector.store.lease import Lease

BATCH: Final = 1000
ReportLosses: TypeAlias = Callable[[Sequence[LossReport]], Awaitable[None]]


async def ignore_losses(_: Sequence[LossReport]) -> None:
    """Whom what is lost need not be told."""


class StreamDrain:
    """Of logs whose views are those of `projection`, which goes on as they are taken in."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, projection: Projection
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._projection = projection

    async def drain(self, pool: str, report_losses: ReportLosses) -> None:
        """Archive what there still is; tells what of it is lost with the log."""
        projection = self._projection
        if not projection.positions[pool].generation:
            await self._start_archive(pool, report_losses)
        while rows := await self._source.after(projection.positions[pool], count=BATCH):
            applied = await self._lease.write(lambda c: projection.write(c, pool, rows))
            projection.mark_committed(applied)
            if stopped(applied.position):
                break
        lost = await unarchived_events(self._source, self._database, projection.positions[pool])
        await report_losses([unarchived_event_report(row) for row in lost])

    async def _start_archive(self, pool: str, report_losses: ReportLosses) -> None:
        """Where nothing is archived yet; tells of agents and workers that cannot be read.

        That comes first: an attempt after this one finds the archive begun.
        """
        heads = await self._source.heads([pool])
        self._projection.learn_generation(pool, heads[pool].generation)
        if pool == CATALOGUE or not await truncated_start(self._source, pool):
            return
        snapshot = await take_snapshot(self._source, pool)
        known = snapshot.state.agents.keys() | snapshot.state.workers.keys()
        await report_losses(
            [unreadable_report(one) for one in snapshot.damaged if one.subject not in known]
        )
        self._projection.mark_committed(
            await self._lease.write(lambda c: self._projection.start_from(c, snapshot))
        )
