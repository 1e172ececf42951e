"""Commands that were handed to nobody: read from the group under a name that no worker bears.

No step of Muster does that; somebody who looked with XREADGROUP does. Such a command is given to no
worker any more, so its agent would wait for ever. It is put back, once the name is seen to be
nobody's for a while; what no agent waits for is deleted.
"""

from collections.abc import Iterable
from typing import Final

import structlog
from redis.exceptions import ResponseError

from eventstore.connection.calls import UNREACHABLE, execute, refusal, unreachable
from eventstore.keys import GROUP
from eventstore.log.pool_log import PoolLog
from workers.supervisor.liveness import Stopwatch
from workers.supervisor.reaper import handle_agent_errors, pending_for, requeue

STRAY_SECONDS: Final = 5.0
"""A name must have been nobody's for so long: a worker may just have come."""

log = structlog.get_logger("muster.leftovers")


class StrayCommands:
    """Of one pool, as its leader looks after them."""

    def __init__(self, pool_log: PoolLog) -> None:
        self._pool_log = pool_log
        self._unknown_times = Stopwatch()
        self._checked_at = 0.0

    async def reconcile(self, workers: Iterable[str], now: float) -> None:
        """Put back what strangers hold, every few seconds. `workers`: all that are known."""
        if now - self._checked_at < STRAY_SECONDS / 2:
            return
        self._checked_at = now
        unknown = set(await _consumers(self._pool_log)) - set(workers)
        for name, seconds in self._unknown_times.observe(unknown, now).items():
            if seconds >= STRAY_SECONDS:
                await self._requeue_pending(name)

    async def _requeue_pending(self, consumer: str) -> None:
        for entry_id, agent_id in await pending_for(self._pool_log, consumer):
            async with handle_agent_errors(self._pool_log, agent_id):
                await requeue(self._pool_log, entry_id, agent_id)
                log.warning(
                    "command.put_back",
                    pool=self._pool_log.pool,
                    agent_id=agent_id,
                    held_by=consumer,
                )


async def _consumers(pool_log: PoolLog) -> list[str]:
    """Names under which commands are pending."""
    try:
        commands = pool_log.log.keys.pool(pool_log.pool, "commands")
        found = await execute(pool_log.log.client, "XPENDING", commands, GROUP)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        raise refusal(f"pool {pool_log.pool!r}: cannot list what is pending", error) from error
    return [name.decode(errors="replace") for name, _ in found[3] or ()]
