"""One pool's workers, as every supervisor monitors them.

All leases are monitored, of every host; processes and orders only of the own host. Every step may
be repeated, interrupted, or done by another supervisor at the same time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from eventstore.language import workers
from eventstore.language.catalogue import Pool
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.pool_log import PoolLog
from eventstore.log.reader import Reader
from eventstore.log.replies import Leadership
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.host.processes import Process, resident_bytes
from workers.launch.pool_processes import HostProcesses
from workers.process.retirement import reason_to_kill
from workers.supervisor import reaper
from workers.supervisor.host_reports import HostReports
from workers.supervisor.polling import Stopwatch, max_gap

LATE_SHARE = 0.5
SUSPECT_SHARE = 0.6
"""A worker is suspect once its lease was not renewed for this share of its time."""
STRAY_SECONDS = 10.0
"""A process that outlives its worker's end by this long is ended."""
KILL_AFTER_LEASES = 5
"""How many lease times a fenced process has to end by itself: it may be suspended, and resume."""


OUTDATED = "code-changed"
"""Why a worker drains whose code has changed since it was launched."""


class PoolContext(Struct, frozen=True):
    """What all parts of one host's supervisor of a pool share."""

    host: str
    pool_log: PoolLog
    local: HostProcesses
    catalogue: CatalogueLog
    pool: Callable[[], Pool]
    """The pool as it is now. Raises `LogError` where the catalogue was recovered without it."""
    reports: HostReports
    poll_seconds: float = 1.0
    new_reader: Callable[[], Reader] = lambda: Reader("")
    """For a placer, which follows the pool's events."""

    async def write_as(self, lead: Leadership, *writes: clauses.Write) -> None:
        """In a step of its own, which is refused unless this host leads in that term."""
        step = self.pool_log.step()
        step.check(clauses.Leads(lead.host, lead.term))
        step.write(*writes)
        await self.pool_log.commit(step)


class WorkerMonitor:
    """Monitors one pool's workers from one host."""

    def __init__(self, context: PoolContext) -> None:
        self.drain_reason = ""
        """Why this host's workers are to drain; empty while they are not."""
        self.lease_late = False
        """Whether a lease was not renewed for so long that the pool is to be polled more often."""
        self._host, self._pool_log = context.host, context.pool_log
        self._local, self._pool = context.local, context.pool
        self._leases = Stopwatch()
        self._drain_times = Stopwatch()
        self._stray_times = Stopwatch()
        self.renewing: tuple[str, ...] = ()
        """The workers that lived in the last survey."""
        self.hosts: frozenset[str] = frozenset()
        """Those that had workers in the last survey, or orders."""
        self._stalls: dict[str, str] = {}
        """Where the event loops of workers are stalled, as these reported it."""

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Do for the pool's workers what a host has to do."""
        self.hosts = frozenset(o.worker.host for o in survey.workers if not o.worker.ended)
        self._stalls = {o.worker.worker_id: o.stalled for o in survey.workers if o.stalled}
        self._local.prepare(self._pool())
        self._adopt(survey)
        await self._reap_ended(survey)
        await self._check_leases(survey, now)
        await self._launch_ordered(survey)
        await self._drain_host(survey)
        self._terminate_overdue(survey, now)
        self._kill_too_large(survey)
        for observed in survey.workers:
            if observed.worker.status is WorkerStatus.LOST:
                await reaper.clean_up(self._pool_log, observed, self._pool().config)

    async def _reap_ended(self, survey: Survey) -> None:
        """Reap workers whose process ended on this host without a `worker.stopped`."""
        for observed in survey.workers:
            how = self._local.exit_reason(observed.worker.worker_id)
            if how is not None and not observed.worker.ended:
                await self.reap(observed.worker, how)

    async def _check_leases(self, survey: Survey, now: float) -> None:
        """Each by its length when it was renewed last: the pool's may have changed since."""
        present = self._pool().config.lease_seconds
        alive = {(o.worker.worker_id, o.renewal): o for o in survey.workers if o.worker.alive}
        leases = {key: o.lease_seconds or present for key, o in alive.items()}
        self.renewing = tuple(name for name, _ in alive)
        shares = self.observe_leases(leases, now)
        for (name, renewal), share in shares.items():
            worker = alive[name, renewal].worker
            is_suspect = worker.status is WorkerStatus.SUSPECT
            if share > 1:
                reason = f"its lease was not renewed for {leases[name, renewal]:g} s"
                await self.reap(worker, reason + self._silence(worker), renewal=renewal)
            elif share > SUSPECT_SHARE and not is_suspect:
                suspect = workers.Suspect(reason="its lease is not being renewed")
                checks = [clauses.LeaseNotRenewed(name, renewal)]
                await self._pool_log.act_on_worker(name, suspect, checks=checks)
            elif share < SUSPECT_SHARE and is_suspect:
                await self._pool_log.act_on_worker(name, workers.Recover())

    def observe_leases(
        self, leases: Mapping[tuple[str, int], float], now: float
    ) -> dict[tuple[str, int], float]:
        """How much of each lease has passed without a renewal.

        `leases`: for all workers that live, with the number of their last renewal, in seconds.
        """
        gap = max_gap(min(leases.values(), default=self._pool().config.lease_seconds))
        since_renewal = self._leases.observe(leases, now, max_gap_seconds=gap)
        shares = {key: seconds / leases[key] for key, seconds in since_renewal.items()}
        self.lease_late = max(shares.values(), default=0.0) > LATE_SHARE
        return shares

    def _silence(self, worker: Worker) -> str:
        """Why a process that lives may not renew, where the worker itself could not say."""
        if worker.host != self._host or worker.worker_id in self._stalls:
            return ""
        state = Process(worker.pid, worker.start_time).state()
        if state != "alive":
            return state and f"; its process is {state}"
        return (
            "; its process is alive: Redis does not answer it, the host is overloaded, or code"
            " does not release the interpreter's lock"
        )

    def _adopt(self, survey: Survey) -> None:
        for worker in self._own_workers(survey):
            if worker.alive:
                process = Process(worker.pid, worker.start_time)
                self._local.adopt(self._pool_log.pool, worker.worker_id, process)

    async def _launch_ordered(self, survey: Survey) -> None:
        ordered = [w for w in self._own_workers(survey) if w.status is WorkerStatus.REQUESTED]
        await self.launch(worker.worker_id for worker in ordered)
        for worker in ordered if self.drain_reason else ():
            await self.reap(worker, self.drain_reason)

    async def launch(self, worker_ids: Iterable[str]) -> None:
        """Launch orders of this host at once, without waiting for the next poll.

        None where the host shuts down: that may be over before the process has started.
        """
        if self.drain_reason:
            return
        pool = self._pool()
        await asyncio.gather(*(self._local.launch(pool, name) for name in worker_ids))

    async def _drain_host(self, survey: Survey) -> None:
        """In one step: one that is not draining yet would claim what another releases.

        If one of them has changed since the survey, all drain in the next round.
        """
        drain = workers.Drain(reason=self.drain_reason or OUTDATED)
        step = self._pool_log.step()
        for worker in self._own_workers(survey):
            is_due = self.drain_reason or self._local.is_outdated(worker.worker_id)
            if is_due and worker.alive and not worker.draining:
                step.worker(worker.worker_id, worker, workers.decide(drain, worker))
        if step.events:
            await self._pool_log.commit(step)

    def _terminate_overdue(self, survey: Survey, now: float) -> None:
        """Ask processes to end that should have ended by themselves, then kill them."""
        config = self._pool().config
        own = self._own_workers(survey)
        draining = {w.worker_id for w in own if w.alive and w.draining}
        for name, seconds in self._drain_times.observe(draining, now).items():
            if seconds > config.drain_seconds + config.lease_seconds / 2:
                self._local.terminate(name, grace_seconds=1.0)
        known = {worker.worker_id for worker in own}
        known |= {worker.worker_id for worker in survey.unreadable}
        strays = self._local.running(self._pool_log.pool) - known
        for name, seconds in self._stray_times.observe(strays, now).items():
            if seconds > STRAY_SECONDS:
                self._local.terminate(name, grace_seconds=config.lease_seconds * KILL_AFTER_LEASES)

    def _kill_too_large(self, survey: Survey) -> None:
        config = self._pool().config
        for worker in self._own_workers(survey) if config.memory_max_mb else ():
            if worker.alive and (why := reason_to_kill(config, resident_bytes(worker.pid))):
                self._local.kill(worker.worker_id, why)

    async def reap(self, worker: Worker, reason: str, *, renewal: int | None = None) -> bool:
        """Fence a worker and restart its agents; False if there was none to be fenced.

        An order only while it is open: its process may have started since the survey.
        """
        name, config = worker.worker_id, self._pool().config
        if stall := self._stalls.get(name):
            reason = f"{reason}; {stall}"
        checks: list[clauses.Check] = []
        if renewal is not None:
            checks.append(clauses.LeaseNotRenewed(name, renewal))
        if worker.status is WorkerStatus.REQUESTED:
            checks.append(clauses.WorkerUnchanged(name, worker.version))
        done = await reaper.declare_lost(self._pool_log, name, reason, checks)
        found = await self._pool_log.worker(name) if done else None
        if found is not None and found.worker.status is WorkerStatus.LOST:
            self._local.terminate(name, grace_seconds=config.lease_seconds * KILL_AFTER_LEASES)
            await reaper.clean_up(self._pool_log, found, config)
        return done

    def _own_workers(self, survey: Survey) -> list[Worker]:
        return [o.worker for o in survey.workers if o.worker.host == self._host]
