"""Redis' clock as last heard, so that most commits need not ask for it."""

import time
from typing import Final

from msgspec import Struct

CLOCK_STALE_SECONDS: Final = 30.0
"""After so long without a reply a log's time is asked for..."""
CLOCK_BATCH: Final = 100
"""...of so many logs at once."""


class ClockReading(Struct, frozen=True):
    """A time in ms, and when by this host's monotonic clock it was told."""

    ms: int
    read_at: float

    def current_ms(self) -> int:
        return self.ms + int((time.monotonic() - self.read_at) * 1000)
