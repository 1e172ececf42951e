"""One pool's leader: the supervisor that scales it, restarts agents, and ends what is overdue.

The lead is a term in the pool's log. A leader that does not renew it for a whole lease (and longer
at an idle pool) is replaced by another, and what it still attempts is refused by its term.
"""

from math import inf
from typing import Final

import structlog
from msgspec.structs import replace

from eventstore.language.agent_commands import Command, Restart, Terminate, Withdraw
from eventstore.language.pool_config import write_config
from eventstore.language.workers import WorkerStatus
from eventstore.log.placing import PLACER
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from eventstore.steps.clauses import Leaves
from workers.supervisor import polling
from workers.supervisor.draining import Draining
from workers.supervisor.host_reports import REPORT_SECONDS
from workers.supervisor.isolation import clear_suspects
from workers.supervisor.placer import IS_PLACED, Placer
from workers.supervisor.reaper import consumers, handle_agent_errors, requeue_unclaimed, unlist
from workers.supervisor.replacer import Replacer
from workers.supervisor.replacing import LAPSED
from workers.supervisor.scaler import Scaler
from workers.supervisor.worker_monitor import PoolContext, WorkerMonitor

log = structlog.get_logger("muster.leader")

STRAYS_SECONDS: Final = 10.0
"""Between two searches for what was read from a group under a name that is no worker's."""
NO_LEADER = Leadership("", 0, 0)


class Leader:
    """Leads one pool, or tries to."""

    def __init__(self, context: PoolContext, monitor: WorkerMonitor) -> None:
        self._context = context
        self._host, self._pool_log = context.host, context.pool_log
        self._monitor = monitor
        self._lead = NO_LEADER
        self._lease_seconds = inf
        self._renewed_at = self._strays_sought_at = -inf
        self._other_leader = polling.Stopwatch()
        self._scaler = Scaler(context, NO_LEADER, monitor)
        self._placer = Placer(context, NO_LEADER)
        self._replacer = Replacer(context, NO_LEADER)

    @property
    def leads(self) -> bool:
        return self._lead.term > 0 and self._lead.host == self._host

    @property
    def is_settled(self) -> bool:
        """Whether it does nothing more unless something changes."""
        return self._scaler.is_settled

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Acquire or renew the lead, and do what a leader does."""
        await self._acquire_lead(survey, now)
        if self.leads:
            await run_due(self._pool_log, survey)
            config = self._context.pool().config
            draining = Draining(self._pool_log, self._lead, survey, config)
            await draining.drain_due()
            await self._expire_orders(survey)
            await self._continue_deletion(survey)
            await clear_suspects(self._pool_log, survey, self._context.pool().config)
            await self._requeue_strays(survey, now)
            await self._publish_config(survey)
            await self._placer.reconcile(survey)
            may_run = replace(survey, waiting=self._placer.may_run(survey.waiting))
            await self._scaler.reconcile(may_run, now)
            await self._replacer.reconcile(may_run, now, draining)

    async def stop_placing(self) -> None:
        """Until the next round."""
        await self._placer.stop()

    async def resign(self) -> None:
        """Resign the lead, so that another host need not wait for the lease."""
        await self._placer.stop()
        if self.leads:
            await self._context.write_as(self._lead, clauses.Resign())
            self._lead = NO_LEADER

    async def _acquire_lead(self, survey: Survey, now: float) -> None:
        """Not in each of many rounds: what a leader of before attempts is refused."""
        if self.leads and now - self._renewed_at < self._context.pool().config.lease_seconds / 4:
            return
        own_term = self._lead.term if self.leads else 0
        _, lead = await self._pool_log.lead(self._host, own_term)
        self._renewed_at = now
        if lead.host != self._host and self._is_dead(lead, survey, now):
            _, lead = await self._pool_log.lead(self._host, 0, stale=lead)
        if lead.host == self._host and lead.term != own_term:
            log.info("leader.elected", pool=self._pool_log.pool, term=lead.term)
            # A new one: another led meanwhile, so what was observed before proves nothing.
            self._scaler = Scaler(self._context, lead, self._monitor)
            self._replacer = Replacer(self._context, lead)
            await self._placer.stop()
            self._placer = Placer(self._context, lead)
        elif lead.host != self._host:
            await self._placer.stop()
        self._lead = lead

    def _is_dead(self, other: Leadership, survey: Survey, now: float) -> bool:
        """At an idle pool, or one at rest, it does not renew, which proves nothing later on."""
        pool = self._context.pool()
        idle = polling.is_idle(survey, pool) or polling.is_at_rest(survey, pool)
        timeout = self._lease_seconds = pool.config.lease_seconds
        unrenewed = self._other_leader.observe(
            () if idle else (other,), now, max_gap_seconds=polling.max_gap(timeout)
        )
        return unrenewed.get(other, 0.0) > timeout or (idle and self._is_silent(other))

    def _is_silent(self, other: Leadership) -> bool:
        """Whether its host has not reported for a lease, and for longer than between reports.

        To follow a leader that lives does no harm.
        """
        host = self._context.catalogue.state.hosts.get(other.host)
        if host is not None and host.status == "left":
            return True  # its report is deleted
        seconds = self._context.reports.silent_seconds(other.host)
        return seconds > self._lease_seconds + 2 * REPORT_SECONDS

    def is_gone(self) -> bool:
        """Whether an idle pool, or one at rest, is led by a host that seems to be gone."""
        return not self.leads and self._is_silent(self._lead)

    async def _expire_orders(self, survey: Survey) -> None:
        for observed in survey.workers:
            worker = observed.worker
            if worker.status is WorkerStatus.REQUESTED and worker.deadline_ms < survey.ts:
                expired = await self._monitor.reap(worker, LAPSED)
                if expired and worker.host != self._host:
                    reason = "an order for it lapsed"  # one that has not left joins again
                    await self._context.catalogue.leave_host(
                        worker.host, reason, self._pool_log.origin
                    )

    async def _continue_deletion(self, survey: Survey) -> None:
        """End the agents of a closed pool, then record its end: the gateway may be gone.

        Agents of a deleted pool end too: one that was parked and retried, or one that was requested
        long ago, in an earlier pool of this name.
        """
        pool = self._context.pool()
        closing = survey.live if pool.deleted else survey.closed == str(pool.created_seq)
        if not closing:
            return
        terminate, created_seq = Terminate(reason="pool-deleted"), pool.created_seq
        for agent_id in await self._pool_log.live():
            async with handle_agent_errors(self._pool_log, agent_id):
                await self._pool_log.act(agent_id, terminate, created_seq=created_seq)
        if not await self._pool_log.live() and not pool.deleted:
            origin = self._pool_log.origin
            await self._context.catalogue.delete_pool(pool, origin, reason="requested")

    async def _publish_config(self, survey: Survey) -> None:
        """Let workers that run know the pool's present settings: they read them as they renew."""
        pool = self._context.pool()
        if survey.workers and survey.config_version < pool.config_version:
            config = clauses.SetMeta("config", bytes(write_config(pool.config)).decode())
            version = clauses.SetMeta("config_version", ":".join(map(str, pool.config_version)))
            await self._context.write_as(self._lead, config, version)

    async def _requeue_strays(self, survey: Survey, now: float) -> None:
        """Now and then requeue what was read from the group under a name that is no worker's.

        No step of Muster does that; XREADGROUP by hand does. A worker that started after the
        survey loses nothing: what it claimed is booked.
        """
        if now - self._strays_sought_at < STRAYS_SECONDS:
            return
        self._strays_sought_at = now
        known = {o.worker.worker_id for o in survey.workers}
        known |= {PLACER} if survey.placed == IS_PLACED else set()
        known |= {worker.worker_id for worker in survey.unreadable}
        for name in set(await consumers(self._pool_log)) - known:
            await requeue_unclaimed(self._pool_log, name)
            log.warning("command.requeued", pool=self._pool_log.pool, consumer=name)


async def run_due(pool_log: PoolLog, survey: Survey) -> None:
    """Restart the agents that are due, and end those that have waited too long.

    An agent to which that does not apply leaves the schedule.
    """
    listed: list[tuple[Leaves, Command, tuple[str, int]]] = []
    listed += [(Leaves(due=True), Restart(), one) for one in survey.due]
    listed += [(Leaves(timeout=True), Withdraw(), one) for one in survey.timeouts]
    for schedule, command, (agent_id, at_ms) in listed:
        if at_ms <= survey.ts:
            async with handle_agent_errors(pool_log, agent_id):
                acted = await pool_log.act(agent_id, command)
                if acted.outcome in {Outcome.ABSENT, Outcome.ALREADY}:
                    await unlist(pool_log, agent_id, acted.agent, schedule)
