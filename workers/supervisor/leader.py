"""One pool's leader: the supervisor that scales it and does what has a time.

The lead is a term in the pool's log. A leader that stands still for a whole lease (and longer at an
idle pool) is followed by another, and what it still tries is refused by its term; two scaling steps
from the same survey are refused by the scaling version.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf

import structlog
from msgspec import Struct

from eventstore.errors import Unreadable
from eventstore.language import agent_commands, workers
from eventstore.language.catalogue import Pool
from eventstore.language.events import PoolScalingDecided, WorkerRequested
from eventstore.language.workers import WorkerStatus
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps.step import Step
from workers.supervisor import scaling
from workers.supervisor.isolation import clear_suspects
from workers.supervisor.launch_failures import LaunchTracker
from workers.supervisor.liveness import LeaseMonitor, Stopwatch
from workers.supervisor.polling import idle_leader_timeout, is_idle
from workers.supervisor.reaper import consumers, handle_agent_errors, requeue_unclaimed
from workers.supervisor.worker_monitor import WorkerMonitor

log = structlog.get_logger("muster.leader")

WAKE_REPEAT_SECONDS = 1.0
"""Spawns that wait this long although there is room have their wake-up repeated."""
NO_LEADER = Leadership("", 0, 0)


class CatalogueAccess(Struct, frozen=True):
    """What a leader asks of the catalogue."""

    pool: Callable[[], Pool]
    joined_hosts: Callable[[], Sequence[str]]
    finish_deletion: Callable[[Pool], Awaitable[None]]
    remove_host: Callable[[str], Awaitable[None]]
    """Take a host for gone; one that is not says so by joining again."""


class Leader:
    """Leads one pool, or tries to."""

    def __init__(
        self,
        host: str,
        pool_log: PoolLog,
        monitor: WorkerMonitor,
        catalogue: CatalogueAccess,
        *,
        poll_seconds: float,
    ) -> None:
        self._host = host
        self._pool_log = pool_log
        self._monitor = monitor
        self._catalogue = catalogue
        self._lead = NO_LEADER
        self._poll_seconds = poll_seconds
        self._other_leader = LeaseMonitor()
        self._idle_other_leader = LeaseMonitor(
            max_gap_seconds=inf
        )  # following one that lives does no harm
        self._reported_maximum = False
        self._start_term()

    def _start_term(self) -> None:
        """Forget what was seen in an earlier one: another led since, and much may have happened."""
        self._empty_times = Stopwatch()
        self._unclaimed_times = Stopwatch()
        self._launches = LaunchTracker()

    @property
    def leads(self) -> bool:
        return self._lead.term > 0 and self._lead.host == self._host

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Take or keep the lead, and do what a leader does."""
        await self._acquire_lead(survey, now)
        if self.leads:
            await self._run_due(survey)
            await self._continue_deletion(survey)
            await clear_suspects(self._pool_log, survey, self._pool().config)
            await self._requeue_strays(survey)
            await self._scale(survey, now)
            await self._repeat_wake(survey, now)

    async def resign(self) -> None:
        """Give up the lead, so that another host need not wait for the lease."""
        if self.leads:
            step = self._pool_log.step()
            step.check("leader", self._host, self._lead.term)
            step.write("resign")
            await self._pool_log.commit(step)
            self._lead = NO_LEADER

    async def _acquire_lead(self, survey: Survey, now: float) -> None:
        own_term = self._lead.term if self.leads else 0
        _, lead = await self._pool_log.lead(self._host, own_term)
        if lead.host != self._host and self._is_dead(lead, survey, now):
            _, lead = await self._pool_log.lead(self._host, 0, stale=lead)
        if lead.host == self._host and lead.term != own_term:
            log.info("leader.elected", pool=self._pool_log.pool, term=lead.term)
            self._start_term()
        self._lead = lead

    def _is_dead(self, other: Leadership, survey: Survey, now: float) -> bool:
        """At an idle pool it looks as rarely as we do, and that says nothing later on."""
        pool = self._pool()
        renewal = {other.host: (other.term, other.renewal)}
        idle = is_idle(survey, pool)
        unrenewed = self._other_leader.observe({} if idle else renewal, now)
        idle_unrenewed = self._idle_other_leader.observe(renewal if idle else {}, now)
        idle_timeout = idle_leader_timeout(pool, poll_seconds=self._poll_seconds)
        return (
            unrenewed.get(other.host, 0.0) > pool.config.lease_seconds
            or idle_unrenewed.get(other.host, 0.0) > idle_timeout
        )

    async def _run_due(self, survey: Survey) -> None:
        for schedule, command, listed in (
            ("due", agent_commands.Restart(), survey.due),
            ("timeout", agent_commands.Withdraw(), survey.timeouts),
        ):
            for agent_id, at_ms in listed:
                if at_ms <= survey.ts:
                    await self._run_scheduled(schedule, agent_id, command)
        for observed in survey.workers:
            worker = observed.worker
            if worker.status is WorkerStatus.REQUESTED and worker.deadline_ms < survey.ts:
                expired = await self._monitor.reap(worker, "it did not start before its deadline")
                if expired and worker.host != self._host:
                    await self._catalogue.remove_host(worker.host)

    async def _run_scheduled(
        self, schedule: str, agent_id: str, command: agent_commands.Command
    ) -> None:
        """Carry out what is due, and take off the list what is not on it rightly."""
        async with handle_agent_errors(self._pool_log, agent_id):
            acted = await self._pool_log.act(agent_id, command)
            if acted.outcome is Outcome.ABSENT and agent_id in await self._pool_log.live():
                raise Unreadable("agent", agent_id, "its hash is gone")
            if acted.outcome in {Outcome.ABSENT, Outcome.ALREADY}:
                step = self._pool_log.step()
                if acted.agent is not None:
                    agent = acted.agent
                    step.check("agent", agent_id, agent.version, agent.incarnation)
                step.write(f"un{schedule}", agent_id)
                await self._pool_log.commit(step)

    async def _continue_deletion(self, survey: Survey) -> None:
        """Whoever closed the pool may be gone: end what lives in it, then record its end.

        What a deleted one still holds ends too: an agent that was put aside and came back, or that
        was asked for long ago, in an earlier pool of this name.
        """
        pool = self._pool()
        closing = survey.live if pool.deleted else survey.closed == str(pool.created_seq)
        if not closing:
            return
        for agent_id in await self._pool_log.live():
            end = agent_commands.Terminate(reason="pool-deleted")
            async with handle_agent_errors(self._pool_log, agent_id):
                await self._pool_log.act(agent_id, end, created_seq=pool.created_seq)
        if not pool.deleted and not await self._pool_log.live():
            await self._catalogue.finish_deletion(pool)

    async def _requeue_strays(self, survey: Survey) -> None:
        """Requeue what was read from the group under a name that is no worker's.

        No step of Muster does that; XREADGROUP by hand does. A worker that started after the
        survey loses nothing: what it claimed it holds.
        """
        known = {o.worker.worker_id for o in survey.workers}
        known |= {worker.worker_id for worker in survey.unreadable}
        for name in set(await consumers(self._pool_log)) - known:
            await requeue_unclaimed(self._pool_log, name)
            log.warning("command.requeued", pool=self._pool_log.pool, consumer=name)

    # ---- scaling -----------------------------------------------------------------------------

    async def _scale(self, survey: Survey, now: float) -> None:
        pool = self._pool()
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
        pool = self._pool()
        placed = scaling.place_workers(count, hosts, survey, prefer=self._host)
        if not placed:
            return
        step = self._scaling_step(survey)
        step.event(event, pool.pool_name)
        ordered = {}
        for host in placed:
            worker_id = self._pool_log.log.new_id()
            order = WorkerRequested(
                host=host,
                max_agents=pool.config.agents_per_worker,
                deadline_ms=survey.ts + int(pool.config.launch_seconds * 1000),
                reason=event.reason,
            )
            step.worker(worker_id, None, (order,))
            ordered[worker_id] = host
        if (await self._pool_log.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)
            self._launches.record_ordered(ordered, now)
            await self._monitor.launch(w for w, host in ordered.items() if host == self._host)

    async def _drain(
        self, event: PoolScalingDecided, chosen: Sequence[str], survey: Survey
    ) -> None:
        """Drain empty workers, unless one of them is not empty any more."""
        self._launches.forget(chosen)
        step = self._scaling_step(survey)
        step.event(event, self._pool_log.pool)
        for observed in survey.workers:
            worker = observed.worker
            if worker.worker_id in chosen:
                drains = workers.decide(workers.Drain(reason=event.reason), worker)
                step.worker(worker.worker_id, worker, drains)
                step.check("empty", worker.worker_id)
        if (await self._pool_log.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)

    async def _repeat_wake(self, survey: Survey, now: float) -> None:
        empty = any(o.agent_count == 0 for o in survey.workers if o.worker.alive)
        waits = (survey.waiting and survey.free) or (survey.waiting_isolated and empty)
        unclaimed = ["spawns"] if waits else []
        if self._unclaimed_times.observe(unclaimed, now).get("spawns", 0.0) >= WAKE_REPEAT_SECONDS:
            step = self._pool_log.step()
            step.write("wake")
            await self._pool_log.commit(step)

    def _scaling_step(self, survey: Survey) -> Step:
        step = self._pool_log.step()
        step.check("leader", self._host, self._lead.term)
        step.check("meta", "scaling", survey.scaling)
        step.write("meta", "scaling", survey.scaling + 1)
        return step

    def _report_maximum(self, at_maximum: bool, survey: Survey) -> None:
        if at_maximum and not self._reported_maximum:
            maximum = self._pool().config.max_workers
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

    def _pool(self) -> Pool:
        return self._catalogue.pool()
