"""A clock that goes on while the machine sleeps and that nobody sets."""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since boot, those asleep included where the system can tell."""
    return time.clock_gettime(_CLOCK)


def boot_seconds() -> float:
    """CLOCK_BOOTTIME, or the monotonic clock where there is none."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
