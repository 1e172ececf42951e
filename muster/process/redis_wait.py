"""Redis is unreachable or accepts no writes when a process starts: report it once, and retry.

A host after a power cut, or an orchestrator, starts everything at once, in any order. What waiting
cannot repair is raised at once: a login that is refused, a server that is no Redis or is unfit, a
wrong setting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore.connection.backoff import Backoff
from eventstore.errors import LogUnreachable, OutcomeUnknown
from eventstore.ticks import set_within

log = structlog.get_logger("muster")

RETRY_SECONDS: Final = (0.1, 2.0)
"""The shortest and the longest pause between attempts."""


async def retry_until_reachable(
    attempt: Callable[[], Awaitable[object]],
    stopping: asyncio.Event,
    echo: Callable[[str], object],
) -> bool:
    """Carry out an attempt as soon as Redis lets it succeed; False if the end came before.

    `echo` prints what is logged: why Redis is unreachable, again when the reason changes, and once
    that it answers.
    """
    backoff, reported = Backoff(seconds=RETRY_SECONDS), ""
    while not stopping.is_set():
        try:
            if not await run_unless_stopped(stopping, attempt()):
                return False
        except (LogUnreachable, OutcomeUnknown) as error:
            if str(error) != reported:
                reported = str(error)
                log.warning("redis.waiting", error=reported)
                echo(f"{reported}; waiting for it")
        else:
            if backoff.active:
                log.info("redis.reachable", attempts=backoff.failures + 1)
                echo("Redis answers")
            return True
        await set_within(stopping, backoff.next_delay())
    return False


async def run_unless_stopped(stopping: asyncio.Event, work: Awaitable[object]) -> bool:
    """Wait for it; False, with the work cancelled, if the end was asked for before it was over."""
    work_task = asyncio.ensure_future(work)
    stop_task = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
        if not work_task.done():
            return False
        await work_task
        return True
    finally:
        work_task.cancel()
        stop_task.cancel()
        await asyncio.gather(work_task, stop_task, return_exceptions=True)
