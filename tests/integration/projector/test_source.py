"""How the projector asks Redis: a cancelled read stays cancelled."""

import asyncio
from contextlib import suppress

from projector.intake.source import Source


async def test_a_read_that_is_cancelled_at_any_time_ends(redis_url: str) -> None:
    """On Python 3.11 redis-py forgets a cancellation while it sends; a stop then never came."""
    source = Source(redis_url, "")
    try:
        await source.heads(["p"])
        for turns in range(12):
            asking = asyncio.create_task(source.heads(["p"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
                assert not asking.cancelling(), f"{turns} turns after it began"
    finally:
        await source.close()
