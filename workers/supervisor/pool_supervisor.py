"""One pool, as one host's supervisor reconciles it.

One survey, then what every supervisor does, then what the leader does. What fails in one round is
observed again in the next. Each pool has a task, woken by signals, and by the clock unless it is
idle; a task that fails starts again, with back-off.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from math import inf

import structlog

from eventstore.connection.backoff import Backoff
from eventstore.errors import LogError, LogUnreachable, OutcomeUnknown
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import Survey
from eventstore.ticks import set_within
from workers.host.processes import boot_seconds
from workers.supervisor import reaper
from workers.supervisor.leader import Leader
from workers.supervisor.polling import base_interval, is_at_rest, poll_interval
from workers.supervisor.worker_monitor import PoolContext, WorkerMonitor

log = structlog.get_logger("muster.supervisor")

RETRY_SECONDS = (0.1, 2.0)


class PoolSupervisor:
    """Supervises one pool. Not to be used by two tasks at once."""

    def __init__(self, context: PoolContext) -> None:
        self.wakeup = asyncio.Event()
        self.reconciled = asyncio.Event()
        """Set once this host's workers of the pool are known."""
        self.idle = self.resting = self.deleted = False
        """Idle: nothing is to be done before it is woken. At rest: nor is there while its workers
        renew their leases."""
        self.lease_interval = context.poll_seconds
        """How often its leases are to be observed while it is at rest, in seconds."""
        self.waits = False
        """Something waits for a worker, or for the start of one."""
        self._context = context
        self._pool_log = context.pool_log
        self.monitor = WorkerMonitor(context)
        self._leader = Leader(context, self.monitor)
        self.resign, self.leader_is_gone = self._leader.resign, self._leader.is_gone
        self._unreadable: set[str] = set()

    async def run(self) -> None:
        """Reconcile whenever woken, and by the clock. Returns only by an error."""
        self.idle = self.resting = False
        self._context.pool()  # raises where the catalogue was recovered without it
        await self._pool_log.log.initialise(self._pool_log.pool)
        try:
            while True:
                self.wakeup.clear()
                seconds = await self.reconcile() * random.uniform(0.8, 1.2)
                self.idle = seconds == inf
                if self.idle:
                    await self._leader.stop_placing()
                await set_within(self.wakeup, None if self.idle else seconds)
        finally:
            await self._leader.stop_placing()

    async def reconcile(self) -> float:
        """One round; returns after how many seconds the next is due at the latest."""
        pool = self._context.pool()  # raises, as in `run`
        self.deleted = pool.deleted
        self.lease_interval = base_interval(pool, self._context.poll_seconds)
        survey = await self._pool_log.survey(ahead_ms=pool.config.scale_policy.ahead_ms)
        self.waits = survey.waiting + survey.waiting_isolated > 0 or any(
            one.worker.status is WorkerStatus.REQUESTED for one in survey.workers
        )
        now = boot_seconds()  # not before: what was just observed would count as old
        await self._fence_unreadable(survey)
        await self.monitor.reconcile(survey, now)
        self.reconciled.set()
        if self.monitor.drain_reason:
            await self.resign()
        else:
            await self._leader.reconcile(survey, now)
        return self._next_poll_seconds(survey, boot_seconds() - now)

    async def _fence_unreadable(self, survey: Survey) -> None:
        """Workers whose hashes could be read neither in this survey nor in the last one."""
        before, self._unreadable = self._unreadable, {one.worker_id for one in survey.unreadable}
        for worker in survey.unreadable:
            if worker.worker_id in before:
                await reaper.fence_unreadable(self._pool_log, worker)

    def drain(self, reason: str) -> None:
        """From now on drain this host's workers, and leave the lead to another host."""
        self.monitor.drain_reason = reason

    def _next_poll_seconds(self, survey: Survey, elapsed: float) -> float:
        """`elapsed`: seconds since the survey. They count, or a slow one would poll too rarely."""
        pool, late = self._context.pool(), self.monitor.lease_late
        running = self._context.local.running(self._pool_log.pool)
        rests = is_at_rest(survey, pool) and not late and running <= set(self.monitor.renewing)
        self.resting = rests and (self._leader.is_settled or not self._leader.leads)
        seconds = poll_interval(
            survey,
            pool,
            poll_seconds=self._context.poll_seconds,
            lease_late=late,
            strays=running,
            rests=self.resting,
        )
        if self._leader.leads:
            drains = [o.worker.drain_ms for o in survey.workers if o.worker.drain_ms]
            next_due = [at_ms for _, at_ms in (*survey.due[:1], *survey.timeouts[:1])]
            for at_ms in (*next_due, *drains):
                seconds = min(seconds, (at_ms - survey.ts) / 1000)
        return max(seconds - elapsed, seconds / 4, 0.01)


async def retry_forever(what: str, work: Callable[[], Awaitable[None]]) -> None:
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
