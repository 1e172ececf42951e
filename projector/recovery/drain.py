"""Archives what is left of a damaged log in Redis, and reports what cannot be archived.

Where nothing is archived and the stream has lost its first events too, the archive starts from
Redis' hashes (`fold/snapshot.py`). Events that do not follow the archive are stored as loss
reports, like those of gateways and workers: the wipe removes the only copy.
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
    """For logs whose losses are reported later."""


class StreamDrain:
    """Of logs whose views `projection` writes; it advances with every batch."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, projection: Projection
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._projection = projection

    async def drain(self, pool: str, report_losses: ReportLosses) -> None:
        """Archive what the stream still has; report events that are lost."""
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
        """Where nothing is archived yet; reports agents and workers that cannot be read.

        The report comes first: a later attempt finds that the archive has started.
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
