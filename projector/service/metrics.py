"""What a projector reports to Prometheus: what it has written, and while it is active all state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eventstore.log.log import Log
from eventstore.metrics.families import CATALOGUE_LABEL
from eventstore.metrics.measures import Measures
from projector.fold.projection import Projection
from projector.service.event_measures import EventMeasures
from projector.store.database import DatabaseError
from projector.store.lease import Lease

if TYPE_CHECKING:
    from projector.service.system_state import SystemState


class ProjectorMetrics:
    """Of one process, whether it is active or on standby."""

    def __init__(self) -> None:
        self.measures = Measures()
        self.events = EventMeasures(self.measures)
        self._state: SystemState | None = None

    def begin_term(self, log: Log, lease: Lease, projection: Projection) -> None:
        """It is active."""
        from projector.service.system_state import SystemState

        self._state = SystemState(log, lease, projection, self.events)

    def end_term(self) -> None:
        self._state = None

    async def scrape(self) -> Sequence[Measures]:
        """The measures of now. What cannot be read is left out."""
        now, state, active = Measures(), self._state, False
        if state is not None:
            known = state.live_pools()
            self.measures.retain_pools({*known, CATALOGUE_LABEL})
            self.events.retain_pools(known)
            try:
                active = await state.read(now)
            except (DatabaseError, OSError):
                now = Measures()
        now.set("muster_projector_active", int(active))
        return self.measures, now
