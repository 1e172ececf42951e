"""Our own server rewrites its append-only file when a full disk may have left a hole in it."""

import asyncio
import contextlib
import time
from typing import Final

import structlog
from redis.exceptions import RedisError

from eventstore.connection.aof_check import AofCheck
from eventstore.connection.calls import UNREACHABLE, execute
from eventstore.connection.clients import connect
from muster.process.redis_wait import wait_for_stop

log = structlog.get_logger("muster.up")

POLL_SECONDS: Final = 0.5
RETRY_SECONDS = 10.0
"""Between one rewrite and the next, where that failed."""


async def rewrite_when_needed(url: str, stopping: asyncio.Event) -> None:
    """Whenever a rewrite is needed, ask for one until one has succeeded."""
    check, retry_at = AofCheck(), 0.0
    async with connect(url, max_connections=1) as client:
        while not await wait_for_stop(stopping, POLL_SECONDS):
            with contextlib.suppress(*UNREACHABLE, RedisError):  # the next poll tries again
                needed = await check.poll(client) and not check.failing
                if needed and time.monotonic() > retry_at:
                    await execute(client, "BGREWRITEAOF")
                    log.warning("redis.rewriting")
                    retry_at = time.monotonic() + RETRY_SECONDS
