"""Whether the real Redis answers again, asked ever more seldom while it does not."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from eventstore.connection import connect, demand_suitable, inspect
from eventstore.errors import MusterError
from gateway.fallback import Fallback

log = structlog.get_logger("muster.fallback")

PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
ATTEMPT_SECONDS: Final = 5.0


async def watch(url: str, fallback: Fallback, say: Callable[[str], None]) -> None:
    """Keep `fallback.returned_ms` right, and say so when it changes; until cancelled."""
    silent = 0
    while True:
        await asyncio.sleep(PAUSES_SECONDS[min(silent, len(PAUSES_SECONDS) - 1)])
        answers = await _answers(url)
        if answers and not fallback.returned_ms:
            fallback.returned_ms = int(time.time() * 1000)
            log.warning("fallback.can_end", redis=fallback.real)
            say(f"{fallback.real} answers again; restart `muster up` to change over to it")
        elif not answers and fallback.returned_ms:
            fallback.returned_ms = 0
            log.warning("fallback.cannot_end", redis=fallback.real)
            say(f"{fallback.real} is away again")
            silent = 0
        silent += 1


async def _answers(url: str) -> bool:
    """Whether it is there and fit for the log."""
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            demand_suitable(await inspect(client))
    except (MusterError, TimeoutError):
        return False
    finally:
        await client.aclose()
    return True
