"""Whether the projector waits a moment for more events before it writes again.

A commit costs much more than an event. Where many events come, those of a moment are gathered and
written together. Where few come, each is in the views at once.
"""

import math
from collections.abc import Iterable
from typing import Final

SECONDS: Final = 0.05
EVENTS: Final = 40
"""From so many events in about that time, the next ones are gathered for as long."""


class Gathering:
    """Counts events, each weighing less the longer ago it was."""

    def __init__(self) -> None:
        self._recent_events = 0.0
        self._counted_at = 0.0

    def pause_seconds(self, counts: Iterable[int], limit: int, now: float) -> float:
        """How long to wait after these numbers of events of some streams were written.

        A stream that was read up to `limit` has more already. `now`: monotonic, in seconds.
        """
        counts = list(counts)
        self._recent_events *= math.exp((self._counted_at - now) / SECONDS)
        self._recent_events += sum(counts)
        self._counted_at = now
        return SECONDS if self._recent_events >= EVENTS and max(counts) < limit else 0.0
