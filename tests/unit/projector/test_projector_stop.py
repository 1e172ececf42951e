"""A projector that is stopped in the moment in which one of its loops fails."""

import asyncio
from typing import Any

import pytest

from projector.service.options import ProjectorOptions
from projector.service.projector import Projector
from projector.store.database import Database


class Loops:
    """Those of an active projector; `follow` fails when `failing` is set."""

    def __init__(self) -> None:
        self.failing = asyncio.Event()

    async def follow(self) -> None:
        await self.failing.wait()
        raise OSError("Redis closed the connection")

    async def follow_heartbeats(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            self.closed = True

    closed = False

    async def renew_lease(self) -> None:
        await asyncio.Event().wait()

    trim_streams = clean_up_rebuilds = copy_states = renew_lease
    publish_forecasts = store_alerts = remove_ended = retain_archive = renew_lease
    database = Database("sqlite:///none.db")


@pytest.mark.parametrize("turns", range(8))
async def test_a_projector_stops_although_a_loop_fails_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """`turns` of the event loop after it was made to fail: its error must not hide the stop.

    And the stop must not break off what the other loops close: their connections would stay open.
    """
    projector, loops = (
        Projector(ProjectorOptions(redis_url="", database_url="sqlite:///none.db")),
        Loops(),
    )

    async def serve() -> Any:
        await projector._run_loops(loops)  # type: ignore[arg-type]

    monkeypatch.setattr(projector, "_serve", serve)
    await projector.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loops.failing.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await projector.stop()
    assert loops.closed
