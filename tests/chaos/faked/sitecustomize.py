"""Python, under libfaketime, imports this before anything else: a `time.sleep` that works there.

That of CPython asks for a time on a clock that the library leaves alone, and is answered EINVAL. So
would be whatever sleeps between looks, as `Popen.wait` with a timeout does.
"""

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex, /) -> None:
    """Wait without looking at a clock."""
    seconds = float(seconds)
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
