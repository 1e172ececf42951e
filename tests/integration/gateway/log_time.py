"""The time of the log, for questions about the past."""

from typing import Any

import redis

from tests.integration.gateway.stage import GatewayStage
from tests.integration.projector.stage import POOL
from tests.waiting import until


async def passed(stage: GatewayStage) -> None:
    """Wait until the log's time is a millisecond later: what comes next is later."""
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        last = int(client.hget(f"pool:{{{POOL}}}:meta", "ts") or 0)
        await until(lambda: _clock(client) > last, interval=0.001)


def _clock(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def last_event(stage: GatewayStage) -> tuple[int, int]:
    """The pool's seq, and the time of the newest event of pool and catalogue."""
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        seq, ts = client.hmget(f"pool:{{{POOL}}}:meta", "seq", "ts")
        other = client.hget("{muster:catalogue}:meta", "ts")
    return int(seq or 0), max(int(ts or 0), int(other))
