"""The last known time of Redis or of a log, so that most commits need not ask for it."""

import time
from typing import Final

from msgspec import Struct

CLOCK_STALE_SECONDS: Final = 30.0
"""Without a reply for so long, a log's time is asked for."""
CLOCK_BATCH: Final = 100
"""How many logs are asked for their time at once."""


class ClockReading(Struct, frozen=True):
    """A time in ms, and when it was read by this host's monotonic clock."""

    ms: int
    read_at: float

    def current_ms(self) -> int:
        return self.ms + int((time.monotonic() - self.read_at) * 1000)
