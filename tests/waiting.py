"""Waiting for a condition: bounded, and with a message that says what did not come.

Tests never sleep for luck; they wait here.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
TICK_SECONDS = 0.01
DELAYED_SECONDS = 0.1
"""A turn of the loop that takes longer was delayed, and counts no more than this."""


@overload
async def until(
    condition: Callable[[], Awaitable[T]],
    *,
    timeout: float = 10.0,
    interval: float = 0.02,
    what: str = "",
) -> T: ...


@overload
async def until(
    condition: Callable[[], T],
    *,
    timeout: float = 10.0,
    interval: float = 0.02,
    what: str = "",
) -> T: ...


async def until(
    condition: Callable[[], Any],
    *,
    timeout: float = 10.0,
    interval: float = 0.02,
    what: str = "",
) -> Any:
    """The first truthy value of `condition` (plain or async), asked every `interval` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, timeout, what, value))
        await asyncio.sleep(interval)


def until_sync(
    condition: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.02, what: str = ""
) -> T:
    """`until` for code without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, timeout, what, value))
        time.sleep(interval)
    return value


async def timed(asking: Awaitable[T]) -> tuple[float, T]:
    """How many seconds it took while the event loop turned, and what came of it.

    For bounds that a process which is held up for a while would break: that time does not count.
    """
    took = 0.0

    async def count() -> None:
        nonlocal took
        while True:
            started = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            took += min(time.monotonic() - started, DELAYED_SECONDS)

    counting = asyncio.create_task(count())
    try:
        value = await asking
    finally:
        counting.cancel()
    return took, value


def _complaint(condition: Callable[[], object], timeout: float, what: str, last: object) -> str:
    return f"not within {timeout:g} s: {what or _source(condition)}; the last answer was {last!r}"


def _source(condition: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
