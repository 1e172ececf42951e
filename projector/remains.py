"""What is left of a log in Redis: taken into the archive, as far as it follows it, else named.

Where nothing is archived and the stream has no beginning either, the archive begins with what lives
in Redis' hashes (`projector/snapshot.py`). What cannot be taken is told as reports, like those of
gateways and workers: once the log is wiped, nobody else has it.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from eventstore.salvage import Report
from projector.damage import void_events
from projector.database import Database
from projector.lease import Lease
from projector.projection import Projection, Taken, stopped
from projector.rows import EventRow
from projector.snapshot import Snapshot, begins_late, take_snapshot
from projector.source import Source
from projector.unsaved import damaged, void

BATCH: Final = 1000


class Remains:
    """Of logs whose views are those of `projection`, which goes on as they are taken in."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, projection: Projection
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._projection = projection

    async def take_in(self, pool: str) -> list[Report]:
        """Archive what there still is; answers what of it is lost with the log."""
        projection = self._projection
        begun: list[Report] = []
        if not projection.positions[pool].generation:
            begun = await self._begin(pool)
        while rows := await self._source.after(projection.positions[pool], count=BATCH):
            taken = await self._database.write(lambda c: self._take(c, pool, rows))
            projection.keep(taken)
            if stopped(taken.position):
                break
        lost = await void_events(self._source, self._database, projection.positions[pool])
        return [*begun, *map(void, lost)]

    async def _begin(self, pool: str) -> list[Report]:
        """Where nothing is archived yet; answers agents and workers that cannot be read."""
        heads = await self._source.heads([pool])
        self._projection.learn_generation(pool, heads[pool].generation)
        if pool == CATALOGUE or not await begins_late(self._source, pool):
            return []
        snapshot = await take_snapshot(self._source, pool)
        self._projection.keep(await self._database.write(lambda c: self._start(c, snapshot)))
        known = snapshot.state.agents.keys() | snapshot.state.workers.keys()
        return [damaged(one) for one in snapshot.damaged if one.subject not in known]

    def _start(self, connection: Connection, snapshot: Snapshot) -> Taken:
        self._lease.hold(connection)
        return self._projection.begin(connection, snapshot)

    def _take(self, connection: Connection, pool: str, rows: Sequence[EventRow]) -> Taken:
        self._lease.hold(connection)
        return self._projection.write(connection, pool, rows)
