"""Waiting for the end of a call of an agent."""

import asyncio

from workers.runtime.calls import Call


async def ended(call: Call) -> None:
    """Return in the turn of the loop after it."""
    async with asyncio.timeout(5):
        while not call.done:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)
