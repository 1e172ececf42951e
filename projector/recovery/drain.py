"""What is left of a log in Redis: taken into the archive, as far as it follows it, else named.

Where nothing is archived and the stream has no beginning either, the archive begins with what lives
in Redis' hashes (`fold/snapshot.py`). What cannot be taken is told as reports, like those of
gateways and workers: once the log is wiped, nobody else has it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from eventstore.recovery.loss_reports import Report
from projector.fold.projection import Projection, Taken, stopped
from projector.fold.snapshot import Snapshot, begins_late, take_snapshot
from projector.intake.source import Source
from projector.recovery.damage_scan import void_events
from projector.recovery.losses import damaged, void
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import EventRow

BATCH: Final = 1000
Tell: TypeAlias = Callable[[Sequence[Report]], Awaitable[None]]


async def nobody(_: Sequence[Report]) -> None:
    """Whom what is lost need not be told."""


class Remains:
    """Of logs whose views are those of `projection`, which goes on as they are taken in."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, projection: Projection
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._projection = projection

    async def take_in(self, pool: str, tell: Tell) -> None:
        """Archive what there still is; tells what of it is lost with the log."""
        projection = self._projection
        if not projection.positions[pool].generation:
            await self._begin(pool, tell)
        while rows := await self._source.after(projection.positions[pool], count=BATCH):
            taken = await self._database.write(lambda c: self._take(c, pool, rows))
            projection.keep(taken)
            if stopped(taken.position):
                break
        lost = await void_events(self._source, self._database, projection.positions[pool])
        await tell([void(row) for row in lost])

    async def _begin(self, pool: str, tell: Tell) -> None:
        """Where nothing is archived yet; tells of agents and workers that cannot be read.

        That comes first: an attempt after this one finds the archive begun.
        """
        heads = await self._source.heads([pool])
        self._projection.learn_generation(pool, heads[pool].generation)
        if pool == CATALOGUE or not await begins_late(self._source, pool):
            return
        snapshot = await take_snapshot(self._source, pool)
        known = snapshot.state.agents.keys() | snapshot.state.workers.keys()
        await tell([damaged(one) for one in snapshot.damaged if one.subject not in known])
        self._projection.keep(await self._database.write(lambda c: self._start(c, snapshot)))

    def _start(self, connection: Connection, snapshot: Snapshot) -> Taken:
        self._lease.hold(connection)
        return self._projection.begin(connection, snapshot)

    def _take(self, connection: Connection, pool: str, rows: Sequence[EventRow]) -> Taken:
        self._lease.hold(connection)
        return self._projection.write(connection, pool, rows)
