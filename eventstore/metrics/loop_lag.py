"""How late an event loop runs what is due: the load of its process."""

import asyncio
from collections.abc import Callable
from typing import Final

from eventstore.ticks import until_tick

INTERVAL_SECONDS: Final = 1.0


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Call `observe` with the lag in seconds, once a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        pause = until_tick(INTERVAL_SECONDS)
        due = loop.time() + pause
        await asyncio.sleep(pause)
        observe(max(loop.time() - due, 0.0))
