"""Which process a pid means."""

import asyncio
import os

from workers.hosts import Process, start_time


async def test_a_process_that_had_ended_before_it_was_looked_at_has_ended() -> None:
    """Its start is not known then, and its pid may be another's one day."""
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    process = Process(child.pid, start_time(child.pid))
    assert not process.alive()
    ended = asyncio.Event()
    process.watch(ended.set)
    async with asyncio.timeout(2):
        await ended.wait()
    assert Process(os.getpid(), start_time(os.getpid())).alive()
