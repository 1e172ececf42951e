"""A clock that counts the time that the machine sleeps, and that nothing sets."""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Seconds since boot; where there is no CLOCK_BOOTTIME, without the time asleep."""
    return time.clock_gettime(_CLOCK)
