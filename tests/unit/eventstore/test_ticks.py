"""What a process does every few seconds wakes it once."""

import asyncio
import socket
import time
from functools import partial

import pytest

from eventstore.ticks import tick, until_tick, within


async def test_pauses_that_begin_apart_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, ends = asyncio.get_running_loop(), set()
    for now in (8.0, 8.02, 8.04):
        monkeypatch.setattr(loop, "time", partial(float, now))
        ends.add(round(now + until_tick(0.1), 6))
        monkeypatch.undo()
    assert ends == {8.1}


async def test_a_pause_ends_at_a_tick() -> None:
    time = asyncio.get_running_loop().time
    due = time() + until_tick(0.1)
    await tick(0.1)
    assert time() > due - 0.01


async def test_after_a_timer_that_ends_early_the_next_pause_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    for now, expected in ((8.0, 2.0), (7.5, 0.5), (7.999, 2.001), (8.999, 1.001)):
        monkeypatch.setattr(loop, "time", partial(float, now))
        found = until_tick(2.0)
        monkeypatch.undo()
        assert round(found, 6) == expected, now


async def test_a_pause_after_some_time_ends_at_the_next_tick_from_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of a call that may wait in the server before its own time begins."""
    loop = asyncio.get_running_loop()
    for now, expected in ((8.0, 4.0), (8.5, 3.5), (7.5, 4.5), (7.4, 4.6)):
        monkeypatch.setattr(loop, "time", partial(float, now))
        found = until_tick(2.0, after=2.5)
        monkeypatch.undo()
        assert round(found, 6) == expected, now


async def test_what_came_while_the_loop_was_held_up_is_in_time() -> None:
    """As in a worker whose agents import something large while it connects."""
    loop = asyncio.get_running_loop()
    receiving, sending = socket.socketpair()

    def hold_up() -> None:
        sending.send(b"x")
        time.sleep(0.2)

    async def receive() -> bytes:
        loop.call_soon(hold_up)
        return await loop.sock_recv(receiving, 1)

    with receiving, sending:
        receiving.setblocking(False)
        assert await within(0.1, receive()) == b"x"


async def test_what_does_not_come_is_given_up() -> None:
    started_at = time.monotonic()
    with pytest.raises(TimeoutError):
        await within(0.05, asyncio.Event().wait())
    assert 0.04 < time.monotonic() - started_at < 5
