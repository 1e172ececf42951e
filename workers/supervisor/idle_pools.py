"""The net below the signals of idle pools: one call for all of them, every few seconds.

A pool with no worker and nothing to lead is not polled: what changes there signals, and a stream of
signals keeps what was not read yet. In case a signal is lost all the same, the heads of all such
pools are read together. A pool is woken whose head has changed since it was woken last, or whose
leader's host has not reported for so long that it seems to be gone.

Deleted pools stay known, and their number is not bounded: they take turns, each once a minute.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.log.log import Log
from workers.supervisor.pool_supervisor import PoolSupervisor

DELETED_SECONDS: Final = 60.0
BATCH: Final = 1000
"""Pools in one call; what is called meanwhile waits for no more."""
HEAD: Final = ("generation", "seq", "closed", "waiting", "halted")
"""What changes with whatever a supervisor may have to act on."""


class IdlePools:
    """Those among the pools of one supervisor."""

    def __init__(self, log: Log, pools: Mapping[str, PoolSupervisor], poll_seconds: float) -> None:
        self._log, self._pools, self._poll_seconds = log, pools, poll_seconds
        self._heads: dict[str, Any] = {}
        self._round = 0

    async def run(self) -> None:
        """Returns only by an error."""
        while True:
            await asyncio.sleep(self._poll_seconds * random.uniform(0.8, 1.2))
            await self.check()

    async def check(self) -> None:
        """Wake the pools that have changed. Raises `LogUnreachable`, `LogError`."""
        self._round += 1
        turns = max(int(DELETED_SECONDS / self._poll_seconds), 1)
        idle = {name: pool for name, pool in self._pools.items() if pool.idle}
        names = [n for n, pool in idle.items() if not pool.deleted]
        names += [n for n, pool in idle.items() if pool.deleted][self._round % turns :: turns]
        heads: list[Any] = []
        for start in range(0, len(names), BATCH):
            keys = [self._log.keys.pool(name, "meta") for name in names[start : start + BATCH]]
            with translated_errors("the heads of idle pools"):
                commands = [("HMGET", key, *HEAD) for key in keys]
                heads += await execute_many(self._log.client, commands, refusals=True)
        for name, head in zip(names, map(str, heads), strict=True):
            if head != self._heads.get(name) or idle[name].leader_is_gone():
                idle[name].wakeup.set()
            self._heads[name] = head
        self._heads = {name: head for name, head in self._heads.items() if name in idle}
