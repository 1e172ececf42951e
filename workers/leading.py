"""One pool's leader: the supervisor that scales it and does what has a time.

The lead is a term in the pool's log. A leader that stands still for a whole lease is followed by
another, and what it still tries is refused by its term; two scaling steps from the same survey are
refused by the scaling version.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec import Struct

from eventstore import agent as agents
from eventstore import worker as workers
from eventstore.events import PoolScalingDecided, WorkerRequested
from eventstore.log import Lead, Log, Outcome, Survey
from eventstore.pool import Pool
from eventstore.step import Origin, Step
from eventstore.worker import WorkerStatus
from workers import scaling
from workers.leases import LeaseWatch, Stopwatch
from workers.watch import Watch

log = structlog.get_logger("muster.leading")

NUDGE_SECONDS = 1.0
"""Spawns that wait this long although there is room have their wake-up repeated."""
FAILED_LAUNCH_SECONDS = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long to wait after so many launches in a row that came to nothing."""
NOBODY = Lead("", 0, 0)


class Catalogued(Struct, frozen=True):
    """What a leader asks of the catalogue."""

    pool: Callable[[], Pool]
    open_hosts: Callable[[], Sequence[str]]
    finish_deletion: Callable[[Pool], Awaitable[None]]
    give_up_host: Callable[[str], Awaitable[None]]
    """Take a host for gone; one that is not says so by joining again."""


class Leader:
    """Leads one pool, or tries to."""

    def __init__(self, host: str, events: Log, watch: Watch, catalogued: Catalogued) -> None:
        self._host = host
        self._events = events
        self._watch = watch
        self._catalogued = catalogued
        self._origin = Origin(actor=f"supervisor:{host}")
        self._lead = NOBODY
        self._rival = LeaseWatch()
        self._empty = Stopwatch()
        self._stuck = Stopwatch()
        self._launched_at = 0.0
        self._reported_maximum = False

    @property
    def leads(self) -> bool:
        return self._lead.term > 0 and self._lead.host == self._host

    async def look(self, survey: Survey, now: float) -> None:
        """Take or keep the lead, and do what a leader does."""
        await self._take_lead(now)
        if self.leads:
            await self._do_what_is_due(survey)
            await self._see_deletion_through(survey)
            await self._scale(survey, now)
            await self._nudge(survey, now)

    async def resign(self) -> None:
        """Give up the lead, so that another host need not wait for the lease."""
        if self.leads:
            step = self._step()
            step.check("leader", self._host, self._lead.term)
            step.write("resign")
            await self._events.commit(step)
            self._lead = NOBODY

    async def _take_lead(self, now: float) -> None:
        name, lease = self._name(), self._pool().config.lease_seconds
        mine = self._lead.term if self.leads else 0
        _, lead = await self._events.lead(name, self._host, mine)
        if lead.host != self._host:
            mark = (lead.term, lead.renewal)
            if self._rival.look({lead.host: mark}, now)[lead.host] > lease:
                _, lead = await self._events.lead(name, self._host, 0, stale=lead)
        if lead.host == self._host and lead.term != mine:
            log.info("lead.taken", pool=name, term=lead.term)
        self._lead = lead

    async def _do_what_is_due(self, survey: Survey) -> None:
        for agent_id, at_ms in survey.due:
            if at_ms <= survey.ts:
                await self._events.act(self._name(), agent_id, agents.Restart(), self._origin)
        for agent_id, at_ms in survey.timeouts:
            if at_ms <= survey.ts:
                await self._events.act(self._name(), agent_id, agents.Withdraw(), self._origin)
        for observed in survey.workers:
            worker = observed.worker
            if worker.status is WorkerStatus.REQUESTED and worker.deadline_ms < survey.ts:
                await self._watch.reap(worker, "it did not start before its deadline")
                if worker.host != self._host:
                    await self._catalogued.give_up_host(worker.host)

    async def _see_deletion_through(self, survey: Survey) -> None:
        """Whoever closed the pool may be gone: end what lives in it, then record its end."""
        pool = self._pool()
        if pool.deleted or survey.closed != str(pool.created_seq):
            return
        for agent_id in await self._events.live(pool.pool_name):
            end = agents.Terminate(reason="pool-deleted")
            await self._events.act(pool.pool_name, agent_id, end, self._origin)
        if not await self._events.live(pool.pool_name):
            await self._catalogued.finish_deletion(pool)

    # ---- scaling -----------------------------------------------------------------------------

    async def _scale(self, survey: Survey, now: float) -> None:
        pool = self._pool()
        empty = [
            o.worker.worker_id
            for o in survey.workers
            if o.worker.status is WorkerStatus.ACTIVE and o.agent_count == 0
        ]
        decision = scaling.decide(
            survey,
            pool.config,
            empty_seconds=self._empty.look(empty, now),
            deleted=pool.deleted or survey.closed == str(pool.created_seq),
        )
        self._report_maximum(decision.at_maximum, survey)
        if decision.event is None:
            return
        if decision.launch:
            failed = min(self._watch.failed_launches, len(FAILED_LAUNCH_SECONDS) - 1)
            if now >= self._launched_at + FAILED_LAUNCH_SECONDS[failed]:
                self._launched_at = now
                await self._order(decision.event, decision.launch, survey)
        else:
            await self._give_back(decision.event, decision.give_back, survey)

    async def _order(self, event: PoolScalingDecided, count: int, survey: Survey) -> None:
        pool = self._pool()
        hosts = scaling.place(count, self._catalogued.open_hosts(), survey, prefer=self._host)
        if not hosts:
            return
        step = self._scaling_step(survey)
        step.event(event, pool.pool_name)
        ours = []
        for host in hosts:
            worker_id = self._events.new_id()
            order = WorkerRequested(
                host=host,
                max_agents=pool.config.agents_per_worker,
                deadline_ms=survey.ts + int(pool.config.launch_seconds * 1000),
                reason=event.reason,
            )
            step.worker(worker_id, None, (order,))
            if host == self._host:
                ours.append(worker_id)
        if (await self._events.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)
            await self._watch.launch(ours)

    async def _give_back(
        self, event: PoolScalingDecided, chosen: Sequence[str], survey: Survey
    ) -> None:
        """Drain workers that are empty, unless one of them is not any more."""
        step = self._scaling_step(survey)
        step.event(event, self._name())
        for observed in survey.workers:
            worker = observed.worker
            if worker.worker_id in chosen:
                drains = workers.decide(workers.Drain(reason=event.reason), worker)
                step.worker(worker.worker_id, worker, drains)
                step.check("empty", worker.worker_id)
        if (await self._events.commit(step)).outcome is Outcome.DONE:
            self._log_decision(event)

    async def _nudge(self, survey: Survey, now: float) -> None:
        stuck = ["spawns"] if survey.waiting and survey.free else []
        if self._stuck.look(stuck, now).get("spawns", 0.0) >= NUDGE_SECONDS:
            step = self._step()
            step.write("wake")
            await self._events.commit(step)

    def _scaling_step(self, survey: Survey) -> Step:
        step = self._step()
        step.check("leader", self._host, self._lead.term)
        step.check("meta", "scaling", survey.scaling)
        step.write("meta", "scaling", survey.scaling + 1)
        return step

    def _report_maximum(self, at_maximum: bool, survey: Survey) -> None:
        if at_maximum and not self._reported_maximum:
            maximum = self._pool().config.max_workers
            log.warning(
                "pool.at_maximum", pool=self._name(), workers=maximum, waiting=survey.waiting
            )
        self._reported_maximum = at_maximum

    def _log_decision(self, event: PoolScalingDecided) -> None:
        log.info(
            "pool.scaling_decided",
            pool=self._name(),
            current=event.current,
            desired=event.desired,
            pending=event.pending,
            reason=event.reason,
        )

    def _pool(self) -> Pool:
        return self._catalogued.pool()

    def _name(self) -> str:
        return self._pool().pool_name

    def _step(self) -> Step:
        return self._events.step(self._name(), self._origin)
