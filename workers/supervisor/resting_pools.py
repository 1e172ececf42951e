"""The net below the signals of idle pools, and the leases of pools at rest: one call for all.

A pool with no worker and nothing to lead is not polled, and one whose workers only run what they
have is polled seldom: what changes there signals, and a stream of signals keeps what was not read
yet. In case a signal is lost all the same, the heads of all such pools are read together, and the
renewals of their workers, which no signal replaces. A pool is woken whose head has changed since it
was woken last, a lease of which is late, or whose leader's host has not reported for so long that
it seems to be gone.

Deleted pools stay known, and their number is not bounded: they take turns, each once a minute.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.log.log import Log
from workers.host.processes import boot_seconds
from workers.supervisor.polling import MAX_SECONDS
from workers.supervisor.pool_supervisor import PoolSupervisor

DELETED_SECONDS: Final = 60.0
BATCH: Final = 1000
"""Commands in one call; what is called meanwhile waits for no more."""
HEAD: Final = ("generation", "seq", "closed", "waiting", "halted")
"""What changes with whatever a supervisor may have to act on."""
LEASE: Final = ("renewal", "lease")


class RestingPools:
    """Those among the pools of one supervisor that are idle, or at rest."""

    def __init__(self, log: Log, pools: Mapping[str, PoolSupervisor], poll_seconds: float) -> None:
        self._log, self._pools, self._poll_seconds = log, pools, poll_seconds
        self._heads: dict[str, Any] = {}
        self._round = 0

    async def run(self) -> None:
        """Returns only by an error."""
        slept = 0.0
        while True:
            leases = (pool.lease_interval for pool in self._pools.values() if pool.resting)
            seconds = min((self._poll_seconds, *leases))
            pause = min(seconds - slept, MAX_SECONDS)  # one whose leases are short may come to rest
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            slept += pause
            if slept >= seconds:
                slept = 0.0
                await self.check()

    async def check(self) -> None:
        """Wake the pools that have changed. Raises `LogUnreachable`, `LogError`."""
        self._round += 1
        turns = max(int(DELETED_SECONDS / self._poll_seconds), 1)
        idle = {name: pool for name, pool in self._pools.items() if pool.idle or pool.resting}
        names = [n for n, pool in idle.items() if not pool.deleted]
        names += [n for n, pool in idle.items() if pool.deleted][self._round % turns :: turns]
        workers = {n: idle[n].monitor.renewing if idle[n].resting else () for n in names}
        replies = iter(await self._read(workers))
        now = boot_seconds()
        for name in names:
            pool, head = idle[name], str(next(replies))
            leases = {worker: next(replies) for worker in workers[name]}
            is_late = pool.resting and leases and not is_renewed(pool, leases, now)
            if is_late or head != self._heads.get(name) or pool.leader_is_gone():
                pool.wakeup.set()
            self._heads[name] = head
        self._heads = {name: head for name, head in self._heads.items() if name in idle}

    async def _read(self, workers: Mapping[str, Sequence[str]]) -> list[Any]:
        """The heads of these pools, each before the leases of its workers."""
        keys = self._log.keys
        commands: list[tuple[str, ...]] = []
        for name, renewing in workers.items():
            commands.append(("HMGET", keys.pool(name, "meta"), *HEAD))
            commands += [("HMGET", keys.process(name, worker), *LEASE) for worker in renewing]
        replies: list[Any] = []
        for start in range(0, len(commands), BATCH):
            with translated_errors("the heads of pools at rest"):
                batch = commands[start : start + BATCH]
                replies += await execute_many(self._log.client, batch, refusals=True)
        return replies


def is_renewed(pool: PoolSupervisor, leases: Mapping[str, Any], now: float) -> bool:
    """Whether all leases of a pool are there and none is late. `leases`: what `LEASE` names."""
    try:
        known = {
            (worker, int(renewal)): float(seconds) for worker, (renewal, seconds) in leases.items()
        }
    except (TypeError, ValueError):  # a worker is gone, or its hash is damaged
        return False
    pool.monitor.observe_leases(known, now)
    return not pool.monitor.lease_late
