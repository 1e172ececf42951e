"""The projector writes the events of a moment together where many come."""

from typing import Any

import pytest

from projector.service import gathering
from projector.service.active import Active
from tests.integration.projector.stage import POOL, open_stage


async def test_events_after_a_large_batch_are_written_together(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit costs about as much for one event as for many."""
    written: list[int] = []
    mark_committed = Active._mark_committed

    def note(self: Active, applied: Any) -> None:
        mark_committed(self, applied)
        if applied.position.pool == POOL:
            written.append(applied.position.seq)

    monkeypatch.setattr(gathering, "SECONDS", 0.5)
    monkeypatch.setattr(Active, "_mark_committed", note)
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        for name in ("w1", "w2"):
            await stage.started(pool, await pool.worker(name), 10)
        large = await stage.head(POOL)
        assert large > gathering.EVENTS
        async with stage.projecting():
            await stage.settle()
            for _ in range(5):
                await pool.spawn()
            await stage.settle()
    assert written[-2:] == [large, large + 5]
