"""Python, under libfaketime, imports this before anything else: a `time.sleep` that works there.

CPython's own uses a clock that the library does not change, and gets EINVAL. So does whatever
sleeps between polls, such as `Popen.wait` with a timeout.
"""

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex, /) -> None:
    """Wait without reading a clock."""
    seconds = float(seconds)
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
