"""What a projector reports to Prometheus: what it has written, and while it is active all state."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from eventstore.log.log import Log
from eventstore.metrics.families import CATALOGUE_LABEL
from eventstore.metrics.measures import Measures
from projector.fold.projection import Projection
from projector.service.event_measures import EventMeasures
from projector.store.database import Database, DatabaseError
from projector.store.lease import Lease

if TYPE_CHECKING:
    from projector.service.system_state import SystemState


class ProjectorMetrics:
    """Of one process, whether it is active or on standby."""

    def __init__(self) -> None:
        self.measures = Measures()
        self.events = EventMeasures(self.measures)
        self.database: Database | None = None
        """While it is open."""
        self._state: SystemState | None = None

    def begin_term(self, log: Log, lease: Lease, projection: Projection) -> None:
        """It is active."""
        from projector.service.system_state import SystemState

        self._state = SystemState(log, lease, projection, self.events)

    def end_term(self) -> None:
        """It is not, and its database is about to be closed."""
        self._state = self.database = None

    async def scrape(self) -> Sequence[Measures]:
        """The measures of now. What cannot be read is left out."""
        now, active = Measures(), False
        with suppress(DatabaseError, OSError):
            active = self._state is not None and await self._state.read(now)
            await self._match_pools()
        now.set("muster_projector_active", int(active))
        return self.measures, now

    async def _match_pools(self) -> None:
        """Series of the pools there are, by what is projected, on standby by another projector."""
        from projector.queries import selects

        if self._state is not None:
            live = self._state.live_pools()
            self.events.start_from_zero(live)
        elif self.database is not None:
            live = {pool.pool_name for pool in await self.database.read(selects.pools)}
        else:
            return
        self.measures.retain_pools({*live, CATALOGUE_LABEL})
        self.events.retain_pools(live)
