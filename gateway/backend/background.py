"""The gateway's background tasks are restarted after an unexpected error.

Each of them catches what it expects. If something else ended one, it would not be noticed: the
gateway would go on answering from what that task last knew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore.connection.backoff import Backoff

RETRY_SECONDS: Final = (1.0, 30.0)

log = structlog.get_logger("muster.gateway")


async def retry_on_error(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run it until it returns; run it again after an error, which is logged each time."""
    backoff = Backoff(seconds=RETRY_SECONDS, reset_after_seconds=RETRY_SECONDS[1])
    while True:
        try:
            return await work()
        except Exception:
            log.exception("gateway.part_failed", part=name)
        await asyncio.sleep(backoff.next_delay())
