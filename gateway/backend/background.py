"""What a gateway does in the background goes on after a defect, too.

Each of these tasks catches what is to be expected. Where something else ends one, nobody would
notice: the gateway would answer on, from what that task last knew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore.connection.backoff import Backoff

RETRY_SECONDS: Final = (1.0, 30.0)

log = structlog.get_logger("muster.gateway")


async def retry_on_error(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do it until it returns, again after an error, which is logged each time."""
    backoff = Backoff(seconds=RETRY_SECONDS, reset_after_seconds=RETRY_SECONDS[1])
    while True:
        try:
            return await work()
        except Exception:
            log.exception("gateway.part_failed", part=name)
        await asyncio.sleep(backoff.next_delay())
