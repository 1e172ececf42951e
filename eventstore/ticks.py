"""Pauses that end together or with an event, and time-outs that a busy event loop does not use up.

What a process does every few seconds wakes it once, not many times.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
PARTS: Final = 5
"""In so many the time of `within` is counted."""


def until_tick(seconds: float, *, after: float = 0.0) -> float:
    """How many seconds from now to do again what is done every so many seconds.

    That is at a multiple of them by the event loop's clock, a tenth of them away at least: a timer
    may end a little early. `after`: so many seconds from now, and then until the next multiple.
    """
    remaining = seconds - (asyncio.get_running_loop().time() + after) % seconds
    return after + (remaining if remaining > seconds / 10 else remaining + seconds)


async def tick(seconds: float) -> None:
    """Sleep until then."""
    await asyncio.sleep(until_tick(seconds))


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, at most so long (None: without end); whether it is set.

    Not by `wait_for`: that of Python 3.11 forgets a cancellation that comes with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Its result, or what it raises. Raises `TimeoutError` if it takes longer; it has ended then.

    The time is counted in parts, so that an event loop that was held up reads what has come
    meanwhile before it gives up.
    """
    task = asyncio.create_task(work)
    try:
        for _ in range(PARTS):
            if (await asyncio.wait({task}, timeout=seconds / PARTS))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.wait({task})
