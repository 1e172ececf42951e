"""The tasks of a supervisor: one for each pool, woken by signals and the clock, and some others.

A task that fails starts again, with back-off.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from eventstore.connection.backoff import Backoff
from eventstore.errors import LogError, LogUnreachable, OutcomeUnknown
from workers.supervisor.pool_supervisor import PoolSupervisor

log = structlog.get_logger("muster.supervisor")

RETRY_SECONDS = (0.1, 2.0)


class PoolTasks:
    """Runs the supervisors of pools. `prepare` is awaited with a pool's name at each start."""

    def __init__(self, prepare: Callable[[str], Awaitable[None]]) -> None:
        self.pools: dict[str, PoolSupervisor] = {}
        self._prepare = prepare
        self._wakeups: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat some work, which returns only by an error."""
        self._tasks.append(asyncio.create_task(_retry_forever(name, work), name=name))

    def supervise(self, name: str, pool_supervisor: PoolSupervisor) -> None:
        """Supervise a pool from now on."""
        self.pools[name] = pool_supervisor
        self._wakeups[name] = asyncio.Event()
        self.start(f"pool {name}", partial(self._supervise, name))

    def wake(self, name: str) -> None:
        self._wakeups[name].set()

    def wake_all(self) -> None:
        for wakeup in self._wakeups.values():
            wakeup.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _supervise(self, name: str) -> None:
        await self._prepare(name)
        wakeup, pool_supervisor = self._wakeups[name], self.pools[name]
        while True:
            wakeup.clear()
            seconds = await pool_supervisor.reconcile() * random.uniform(0.8, 1.2)
            try:  # not wait_for: 3.11's forgets a cancellation that comes with the wake-up
                async with asyncio.timeout(seconds):
                    await wakeup.wait()
            except TimeoutError:
                continue


async def _retry_forever(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again after an error, with back-off; log it once per outage."""
    backoff = Backoff(seconds=RETRY_SECONDS, reset_after_seconds=RETRY_SECONDS[1])
    while True:
        try:
            await work()
        except (LogUnreachable, OutcomeUnknown) as error:
            if not backoff.active:
                log.warning("log.unreachable", during=what, error=str(error))
        except LogError as error:
            if not backoff.active:
                log.error("log.error", during=what, error=str(error))
        except Exception:
            log.exception("supervisor.error", during=what)
        await asyncio.sleep(backoff.next_delay())
