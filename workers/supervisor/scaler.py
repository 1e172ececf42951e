"""Carrying out what `scaling` decides: ordering workers and draining empty ones, as the leader.

Two scaling steps from the same survey are refused by the scaling version, those of an earlier
leader by its term.
"""

from collections.abc import Sequence

import structlog

from eventstore.language import workers
from eventstore.language.events import PoolScalingDecided, WorkerRequested
from eventstore.language.workers import WorkerStatus
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from eventstore.steps.step import Step
from workers.supervisor import scaling
from workers.supervisor.launch_failures import LaunchTracker
from workers.supervisor.polling import Stopwatch
from workers.supervisor.worker_monitor import CatalogueAccess, WorkerMonitor

log = structlog.get_logger("muster.leader")

WAKE_REPEAT_SECONDS = 1.0
"""Spawns that wait this long although slots are free have their wake-up repeated."""


class Scaler:
    """Scales one pool within one term of its leader."""

    def __init__(
        self,
        pool_log: PoolLog,
        lead: Leadership,
        monitor: WorkerMonitor,
        catalogue: CatalogueAccess,
    ) -> None:
        self._pool_log = pool_log
        self._lead = lead
        self._monitor = monitor
        self._catalogue = catalogue
        self._empty_times = Stopwatch()
        self._unclaimed_times = Stopwatch()
        self._launches = LaunchTracker()
        self._reported_maximum = False

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Order or drain workers, and wake those that have not claimed what waits."""
        await self._scale(survey, now)
        await self._repeat_wake(survey, now)

    async def _scale(self, survey: Survey, now: float) -> None:
        pool = self._catalogue.pool()
        self._launches.observe(survey, now)
        empty = [
            o.worker.worker_id
            for o in survey.workers
            if o.worker.status is WorkerStatus.ACTIVE and o.agent_count == 0
        ]
        decision = scaling.decide(
            survey,
            pool.config,
            empty_seconds=self._empty_times.observe(empty, now),
            deleted=pool.deleted or survey.closed == str(pool.created_seq),
        )
        self._report_maximum(decision.at_maximum, survey)
        if decision.event is None:
            return
        if decision.launch:
            hosts = self._launches.eligible(self._catalogue.joined_hosts(), now)
            await self._order(decision.event, decision.launch, hosts, survey, now)
        else:
            await self._drain(decision.event, decision.drain, survey)

    async def _order(
        self,
        event: PoolScalingDecided,
        count: int,
        hosts: Sequence[str],
        survey: Survey,
        now: float,
    ) -> None:
        pool = self._catalogue.pool()
        placed = scaling.place_workers(count, hosts, survey, prefer=self._lead.host)
        if not placed:
            return
        step = self._scaling_step(survey)
        cause = step.event(event, pool.pool_name).event_id
        ordered = {}
        for host in placed:
            worker_id = self._pool_log.log.new_id()
            order = WorkerRequested(
                host=host,
                max_agents=pool.config.agents_per_worker,
                deadline_ms=survey.ts + int(pool.config.launch_seconds * 1000),
                reason=event.reason,
            )
            step.worker(worker_id, None, (order,), causation_id=cause)
            ordered[worker_id] = host
        if (await self._pool_log.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)
            self._launches.record_ordered(ordered, now)
            await self._monitor.launch(w for w, host in ordered.items() if host == self._lead.host)

    async def _drain(
        self, event: PoolScalingDecided, chosen: Sequence[str], survey: Survey
    ) -> None:
        """Drain empty workers, unless one of them is not empty any more."""
        self._launches.forget(chosen)
        step = self._scaling_step(survey)
        cause = step.event(event, self._pool_log.pool).event_id
        for observed in survey.workers:
            worker = observed.worker
            if worker.worker_id in chosen:
                drains = workers.decide(workers.Drain(reason=event.reason), worker)
                step.worker(worker.worker_id, worker, drains, causation_id=cause)
                step.check(clauses.WorkerIdle(worker.worker_id, nothing_pending=False))
        if (await self._pool_log.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)

    async def _repeat_wake(self, survey: Survey, now: float) -> None:
        empty = any(o.agent_count == 0 for o in survey.workers if o.worker.alive)
        waits = (survey.waiting and survey.free) or (survey.waiting_isolated and empty)
        unclaimed = ["spawns"] if waits else []
        if self._unclaimed_times.observe(unclaimed, now).get("spawns", 0.0) >= WAKE_REPEAT_SECONDS:
            step = self._pool_log.step()
            step.write(clauses.WakeWorkers())
            await self._pool_log.commit(step)

    def _scaling_step(self, survey: Survey) -> Step:
        step = self._pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        step.check(clauses.MetaIs("scaling", survey.scaling))
        step.write(clauses.SetMeta("scaling", survey.scaling + 1))
        return step

    def _report_maximum(self, at_maximum: bool, survey: Survey) -> None:
        if at_maximum and not self._reported_maximum:
            maximum = self._catalogue.pool().config.max_workers
            log.warning(
                "pool.at_maximum", pool=self._pool_log.pool, workers=maximum, waiting=survey.waiting
            )
        self._reported_maximum = at_maximum

    def _log_decision(self, event: PoolScalingDecided) -> None:
        log.info(
            "pool.scaling_decided",
            pool=self._pool_log.pool,
            current=event.current,
            desired=event.desired,
            pending=event.pending,
            reason=event.reason,
        )
