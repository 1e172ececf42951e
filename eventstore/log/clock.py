"""Redis' clock as last heard, so that most commits need not ask for it."""

import time
from typing import Final

from msgspec import Struct

QUIET_SECONDS: Final = 30.0
"""After so long without a reply a log's time is asked for..."""
ASKED_AT_ONCE: Final = 100
"""...of so many logs at once."""


class Told(Struct, frozen=True):
    """A time in ms, and when by this host's monotonic clock it was told."""

    ms: int
    at: float

    def carried_on(self) -> int:
        return self.ms + int((time.monotonic() - self.at) * 1000)
