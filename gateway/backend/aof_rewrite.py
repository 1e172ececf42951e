"""Having Redis write its append-only file anew, once it could not write to it for a while.

A Redis that could write but a part of something, as its disk was full, and goes on once there is
room, leaves a hole of zeros in that file if the file was begun by a rewrite since the server was
started. It serves on, and cannot read the file at its next start (Redis 7.0.15 and Valkey 9.1.2,
with `appendfsync everysec`; with `always` it ends instead). A rewrite makes a whole file.
"""

import time
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from eventstore.connection.calls import execute_blocking

log = structlog.get_logger("muster.gateway")

UNWRITTEN: Final = "writing to the AOF file"
"""In what Redis says of an append-only file that it cannot write..."""
UNDER_WAY: Final = "already in progress"
"""...and of a rewrite."""
AGAIN_SECONDS: Final = 10.0
"""How long after a rewrite that failed the next one is asked for."""


class Rewriting:
    """From a refusal until a rewrite that was begun after it is done."""

    def __init__(self) -> None:
        self._due = False
        self._asked = False
        self._not_before = 0.0

    def heed(self, refusal: str) -> None:
        """Redis refused something, and said this."""
        if UNWRITTEN in refusal:
            self._due, self._asked = True, False

    async def go_on(self, client: Redis) -> None:
        """Look how far it is, where one is due. Raises what the client raises, but refusals."""
        if not self._due or time.monotonic() < self._not_before:
            return
        try:
            await self._go_on(client)
        except ResponseError as error:
            if UNDER_WAY not in str(error):  # else one that somebody else began
                log.error("gateway.redis_not_rewritten", reason=str(error))
                self._due = False

    async def _go_on(self, client: Redis) -> None:
        found = await execute_blocking(client, "INFO", "persistence")
        if found.get("aof_rewrite_in_progress") or found.get("aof_rewrite_scheduled"):
            return
        if not self._asked:
            await execute_blocking(client, "BGREWRITEAOF")
            self._asked = True
        elif found.get("aof_last_bgrewrite_status") == "ok":
            log.info("gateway.redis_rewritten")
            self._due = False
        else:
            log.warning("gateway.redis_rewrite_failed", again_in_seconds=AGAIN_SECONDS)
            self._asked, self._not_before = False, time.monotonic() + AGAIN_SECONDS
