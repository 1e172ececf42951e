"""One pool, as one host's supervisor reconciles it.

One survey, then what every supervisor does, then what the leader does. What fails in one round is
observed again in the next.
"""

from eventstore.log.pool_log import PoolLog
from eventstore.log.survey import Survey
from workers.host.clock import boot_seconds
from workers.supervisor import reaper
from workers.supervisor.catalogue_access import CatalogueAccess
from workers.supervisor.leader import Leader
from workers.supervisor.polling import poll_interval
from workers.supervisor.worker_monitor import LocalWorkers, WorkerMonitor


class PoolSupervisor:
    """Supervises one pool. Not to be used by two tasks at once."""

    def __init__(
        self,
        host: str,
        pool_log: PoolLog,
        local: LocalWorkers,
        catalogue: CatalogueAccess,
        *,
        poll_seconds: float,
    ) -> None:
        self._pool_log = pool_log
        self._catalogue = catalogue
        self._poll_seconds = poll_seconds
        self._monitor = WorkerMonitor(host, pool_log, local, catalogue.pool)
        self._leader = Leader(host, pool_log, self._monitor, catalogue, poll_seconds=poll_seconds)
        self._unreadable: set[str] = set()
        self._draining = False

    async def reconcile(self) -> float:
        """One round; returns after how many seconds the next is due at the latest."""
        self._catalogue.pool()  # raises where the catalogue was recovered without it
        survey = await self._pool_log.survey()
        now = boot_seconds()  # not before: what was just observed would count as old
        await self._fence_unreadable(survey)
        await self._monitor.reconcile(survey, now)
        if self._draining:
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
        self._draining = True
        self._monitor.drain_reason = reason

    async def resign(self) -> None:
        await self._leader.resign()

    def _next_poll_seconds(self, survey: Survey, elapsed: float) -> float:
        """`elapsed`: seconds since the survey. They count, or a slow one would poll too rarely."""
        seconds = poll_interval(
            survey,
            self._catalogue.pool(),
            poll_seconds=self._poll_seconds,
            lease_late=self._monitor.lease_late,
        )
        if self._leader.leads:
            for _, at_ms in (*survey.due[:1], *survey.timeouts[:1]):
                seconds = min(seconds, (at_ms - survey.ts) / 1000)
        return max(seconds - elapsed, seconds / 4, 0.01)
