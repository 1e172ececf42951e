"""Waits until what agents save is as durable as commands are by default."""

import asyncio
from typing import Final

from eventstore.durability.confirmations import Confirmations, WaitTarget
from eventstore.language.durability import Level
from eventstore.log.log import Log
from eventstore.log.replies import Proof
from workers.process.options import HostOptions

CONFIRMED: Final = frozenset((Level.FSYNCED, Level.REPLICATED))
"""Levels that are waited for. (No worker can read the archive.)"""


class DurableSaves:
    """Those of one worker; `close` it at the end."""

    def __init__(self, event_log: Log, options: HostOptions) -> None:
        self.needed = options.durability in CONFIRMED
        self._confirmations = Confirmations(event_log, options.redis_url)
        self._target = WaitTarget(options.durability, options.durability_replicas)
        self._seconds = options.durability_timeout_seconds

    async def confirm(self, proof: Proof) -> str:
        """Wait for the level; returns why it was not reached. Raises `LogError`."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        return await self._confirmations.confirm(self._target, [proof], deadline)

    async def close(self) -> None:
        await self._confirmations.close()
