"""How late an event loop runs what is due: the load of its process."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from eventstore.ticks import until_tick

INTERVAL_SECONDS: Final = 1.0
REST_SECONDS: Final = 5.0
REST_SHARE: Final = 0.01
"""A process that uses less of a core is at rest: it is not woken each second to measure that."""


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Call `observe` with the lag in seconds, until cancelled.

    That is once a second, and of a process at rest every five seconds.
    """
    loop = asyncio.get_running_loop()
    interval, began, used = INTERVAL_SECONDS, time.monotonic(), time.process_time()
    while True:
        pause = until_tick(interval)
        due = loop.time() + pause
        await asyncio.sleep(pause)
        observe(max(loop.time() - due, 0.0))
        now, used_now = time.monotonic(), time.process_time()
        at_rest = used_now - used < REST_SHARE * (now - began)
        interval = REST_SECONDS if at_rest else INTERVAL_SECONDS
        began, used = now, used_now
