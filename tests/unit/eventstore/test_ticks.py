"""What a process does every few seconds wakes it once."""

import asyncio
from functools import partial

import pytest

from eventstore.ticks import tick, until_tick


async def test_pauses_that_begin_apart_end_together() -> None:
    ended = []

    async def work(delay: float) -> None:
        await asyncio.sleep(delay)
        await tick(0.1)
        ended.append(asyncio.get_running_loop().time())

    await tick(0.1)
    await asyncio.gather(*(work(delay) for delay in (0.0, 0.02, 0.04)))
    assert max(ended) - min(ended) < 0.01


async def test_after_a_timer_that_ends_early_the_next_pause_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    for now, expected in ((8.0, 2.0), (7.5, 0.5), (7.999, 2.001), (8.999, 1.001)):
        monkeypatch.setattr(loop, "time", partial(float, now))
        found = until_tick(2.0)
        monkeypatch.undo()
        assert round(found, 6) == expected, now
