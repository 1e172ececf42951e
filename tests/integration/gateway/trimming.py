"""A projector that leaves one event in every stream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventstore.retention import Retention
from tests.integration.projector.stage import POOL, Stage
from tests.pools import raw_events
from tests.waiting import until

_ONE = Retention(events=1, age_ms=10**14)


@asynccontextmanager
async def trimming(stage: Stage) -> AsyncIterator[None]:
    async with stage.projecting(retention=_ONE, trim_seconds=0.02):
        yield


async def trimmed(stage: Stage, pool: str = POOL) -> int:
    """Wait until the stream has its last event only; the seq of that event."""
    await stage.settle(pool)
    await until(lambda: len(raw_events(stage.redis_url, pool)) == 1, what="a trimmed stream")
    return int(raw_events(stage.redis_url, pool)[0]["seq"])
