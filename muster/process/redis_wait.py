"""Redis is away or takes no writes when a process starts: say so once, and try until it does.

Whoever starts everything at once (a host after a power cut, an orchestrator) starts in any order.
What waiting cannot mend is raised at once: a login that is refused, a server that is none or is
unfit, a wrong setting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore.errors import LogUnreachable, OutcomeUnknown

log = structlog.get_logger("muster")

PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts; the last one again and again."""


async def outlast(
    attempt: Callable[[], Awaitable[None]],
    ending: asyncio.Event,
    say: Callable[[str], None] | None = None,
) -> bool:
    """Carry out an attempt as soon as Redis lets it succeed; False if the end came before.

    `say` tells a person what the log is told: once that Redis is away, once that it is back.
    """
    failures = 0
    while not ending.is_set():
        try:
            if not await unless(ending, attempt):
                return False
        except (LogUnreachable, OutcomeUnknown) as error:
            if not failures:
                log.warning("redis.awaited", error=str(error))
                _tell(say, f"{error}; waiting for it")
        else:
            if failures:
                log.info("redis.reachable", attempts=failures + 1)
                _tell(say, "Redis answers")
            return True
        await pause(ending, PAUSES[min(failures, len(PAUSES) - 1)])
        failures += 1
    return False


def _tell(say: Callable[[str], None] | None, text: str) -> None:
    if say is not None:
        say(text)


async def unless(ending: asyncio.Event, attempt: Callable[[], Awaitable[None]]) -> bool:
    """Carry out an attempt; False if the end was asked for before it was over."""
    trying = asyncio.ensure_future(attempt())
    asked = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({trying, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not trying.done():
            return False
        await trying
        return True
    finally:
        trying.cancel()
        asked.cancel()
        await asyncio.gather(trying, asked, return_exceptions=True)


async def pause(ending: asyncio.Event, seconds: float) -> bool:
    """Wait for so long; True at once when the end is asked for."""
    try:
        async with asyncio.timeout(seconds):
            await ending.wait()
    except TimeoutError:
        return False
    return True
