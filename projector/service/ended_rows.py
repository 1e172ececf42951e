"""Removes from the views what ended long ago: as the retention says, and as a pruning has asked."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from projector.store import ended
from projector.store.lease import Lease

log = structlog.get_logger("muster.projector")


async def remove_regularly(
    lease: Lease, views_ms: int, log_time_ms: Callable[[], int], seconds: float
) -> None:
    """Every so many seconds; `views_ms` 0: only what a pruning has asked for."""
    while True:
        await asyncio.sleep(seconds)
        if views_ms and (before_ms := log_time_ms() - views_ms) > 0:
            await lease.write(partial(ended.raise_ended_before, ms=before_ms))
        await remove_all(lease)


async def remove_all(lease: Lease) -> None:
    """In small transactions. Raises `Superseded`, `DatabaseError`."""
    before_ms, rows = await lease.database.read(ended.ended_before), 0
    for remove in (ended.remove_agents, ended.remove_workers) if before_ms else ():
        while removed := await lease.write(partial(remove, before_ms=before_ms)):
            rows += removed
    if rows:
        log.info("views.ended_removed", rows=rows)
