"""Carrying out what `decide_scale` decides, as the leader: workers are ordered, or drained.

Two scaling steps from the same survey are refused by the scaling version, those of an earlier
leader by its term.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from eventstore.language import workers
from eventstore.language.consolidation import AUTO
from eventstore.language.events import PoolScalingDecided, WorkerRequested
from eventstore.language.scaling import decide_scale, resumed
from eventstore.language.scaling_state import Memory, Observation
from eventstore.language.workers import WorkerStatus, is_role_problem
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor import scaling
from workers.supervisor.consolidator import Consolidator
from workers.supervisor.launch_tracker import LaunchTracker
from workers.supervisor.polling import Stopwatch
from workers.supervisor.shadows import Shadows
from workers.supervisor.worker_monitor import PoolContext, WorkerMonitor

log = structlog.get_logger("muster.leader")

LASTING: Final = frozenset(
    {"", "down.tolerance", "up.tolerance", "max_workers", "occupied", "paused"}
)
"""Limits that hold for as long as the same is observed; none is one of them."""

WAKE_REPEAT_SECONDS = 1.0
"""Spawns that wait this long although slots are free have their wake-up repeated."""
BLOCKED_MAX: Final = 500
"""Characters of the sentence that says why no worker is started."""


class Scaler:
    """Scales one pool within one term of its leader."""

    def __init__(self, context: PoolContext, lead: Leadership, monitor: WorkerMonitor) -> None:
        self._context = context
        self._pool_log = context.pool_log
        self._lead = lead
        self._monitor = monitor
        self._unclaimed_times = Stopwatch()
        self._launches = LaunchTracker()
        self._memory: Memory | None = None
        self._shadows = Shadows(context, lead)
        self._consolidator = Consolidator(context, lead)
        self.is_settled = False
        """Whether only another observation leads to another decision: time does not."""

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Order or drain workers, and wake those that have not claimed what waits."""
        hosts_known = self._context.catalogue.state.hosts.values()
        joined = {host.host: host.joined_ms for host in hosts_known if host.status == "joined"}
        await self._observe_launches(survey, joined, now)
        pool = self._context.pool()
        deleted = pool.deleted or survey.closed == str(pool.created_seq)
        start_ms = self._launches.slowest_start_ms()
        seen = scaling.observe(survey, pool.config, start_ms=start_ms, deleted=deleted)
        known = self._memory = self._memory or await self._resume(seen, survey)
        decision, memory = decide_scale(seen, pool.config.scale_policy, known)
        hosts: list[str] = []
        waiting = survey.waiting + survey.waiting_isolated
        blocked = self._launches.role_problem(joined) if waiting else ""
        if decision.order:
            room, full = await self._room(survey, joined, now)
            seen = replace(seen, host_room=sum(room.values()))
            decision, memory = decide_scale(seen, pool.config.scale_policy, known)
            hosts = scaling.place_workers(decision.order, room, survey, prefer=self._lead.host)
            if not any(room.values()) and full and not blocked:
                blocked = "no host has room for another worker: " + "; ".join(full)
        await self._report_blocked(blocked[:BLOCKED_MAX], survey)
        removed = scaling.victims(survey, decision.remove, deleted=deleted)
        done = True
        if hosts or removed or (decision.limit and decision.limit not in known.limits):
            event = scaling.event_of(decision, seen, known, survey, pool.config)
            done = await self._carry_out(event, memory, hosts, removed, survey, now)
        if done:
            self._memory = memory
            await self._consolidator.reconcile(survey, decision, removed, ends=deleted)
        await self._shadows.reconcile(seen, survey)
        changes = hosts or removed or decision.order
        moves = pool.config.consolidate == AUTO and decision.surplus
        self.is_settled = decision.limit in LASTING and not (changes or moves)
        await self._repeat_wake(survey, now)

    async def _resume(self, seen: Observation, survey: Survey) -> Memory:
        """Go on with what the leader before remembered, and with the workers that it empties."""
        recorded = await self._pool_log.log.scaling_memory(self._pool_log.pool)
        emptied = survey.surplus if any(o.emptying for o in survey.workers) else 0
        policy = self._context.pool().config.scale_policy
        return resumed(recorded, seen, policy, surplus=emptied)

    async def _room(
        self, survey: Survey, joined: Collection[str], now: float
    ) -> tuple[dict[str, int], list[str]]:
        """How many workers each host takes now, and why those take none that are full."""
        others = any(host != self._lead.host for host in joined)
        reports, now_ms = await self._context.reports.read() if others else {}, survey.ts
        local, launches = self._context.local, self._context.local.limits.launches
        running = local.running(self._pool_log.pool)
        ordered = [o.worker for o in survey.workers if o.worker.status is WorkerStatus.REQUESTED]
        starting = ordered_on(survey)
        room: dict[str, int] = {}
        full: list[str] = []
        for host in self._launches.eligible(joined, now):
            report, here = reports.get(host), host == self._lead.host
            free, why = local.room() if here else (launches, "")
            if report is not None and not here:
                free, why = (0, "") if report.is_old(now_ms) else (report.room, report.full)
            launched = sum(worker.worker_id in running for worker in ordered) if here else 0
            unlaunched = starting[host] - launched
            if self._launches.failing(host):  # the next are ordered as those have started
                free = min(free, launches - launched)
            room[host] = max(free - unlaunched, 0)
            full += [f"{host}: {why}"] if why else []
        return room, full

    async def _report_blocked(self, blocked: str, survey: Survey) -> None:
        """Let those who ask for a pending agent know why no worker is started; on change only."""
        if blocked != survey.blocked:
            if blocked:
                log.warning("pool.blocked", pool=self._pool_log.pool, reason=blocked)
            await self._context.write_as(self._lead, clauses.SetMeta("blocked", blocked))

    async def _observe_launches(
        self, survey: Survey, joined: Mapping[str, int], now: float
    ) -> None:
        self._launches.forgive_rejoined(joined)
        for worker_id, host in self._launches.observe(survey, now).items():
            found = await self._pool_log.worker(worker_id)
            if found is not None and is_role_problem(found.worker.reason):
                self._launches.record_role_problem(host, found.worker.reason)

    async def _carry_out(
        self,
        event: PoolScalingDecided,
        memory: Memory,
        hosts: Sequence[str],
        removed: Collection[str],
        survey: Survey,
        now: float,
    ) -> bool:
        """Order a worker on each host, or drain empty ones, unless one is not empty any more.

        `memory`: what the next leader goes on with. Returns whether that was done.
        """
        step = self._pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        step.check(clauses.MetaIs("scaling", survey.scaling))
        step.write(clauses.SetMeta("scaling", survey.scaling + 1))
        step.write(clauses.SetMeta("memory", msgspec.json.encode(memory).decode()))
        cause = step.event(replace(event, term=self._lead.term), self._pool_log.pool).event_id
        self._launches.forget(removed)
        for observed in survey.workers:
            worker = observed.worker
            if worker.worker_id in removed:
                drains = workers.decide(workers.Drain(reason=event.reason), worker)
                step.worker(worker.worker_id, worker, drains, causation_id=cause)
                step.check(clauses.WorkerIdle(worker.worker_id, nothing_pending=False))
        ordered = {self._pool_log.log.new_id(): host for host in hosts}
        starting = ordered_on(survey)
        config = self._context.pool().config
        for worker_id, host in ordered.items():
            starting[host] += 1
            turns = -(-starting[host] // self._context.local.limits.launches)
            order = WorkerRequested(
                host=host,
                max_agents=config.agents_per_worker,
                deadline_ms=survey.ts + turns * int(config.launch_seconds * 1000),
                reason=event.reason,
            )
            step.worker(worker_id, None, (order,), causation_id=cause)
        if (await self._pool_log.commit(step)).outcome is not Outcome.DONE:
            return False
        if event.limit == "max_workers":
            name, maximum = self._pool_log.pool, config.max_workers
            log.warning("pool.at_maximum", pool=name, workers=maximum, waiting=survey.waiting)
        if event.desired != event.current:
            log.info(
                "pool.scaling_decided",
                pool=self._pool_log.pool,
                current=event.current,
                desired=event.desired,
                pending=event.pending,
                reason=event.reason,
            )
        self._launches.record_ordered(ordered, now)
        await self._monitor.launch(w for w, host in ordered.items() if host == self._lead.host)
        return True

    async def _repeat_wake(self, survey: Survey, now: float) -> None:
        empty = any(o.agent_count == 0 for o in survey.workers if o.has_room)
        waits = (survey.waiting and survey.room > 0) or (survey.waiting_isolated and empty)
        unclaimed = ["spawns"] if waits else []
        if self._unclaimed_times.observe(unclaimed, now).get("spawns", 0.0) >= WAKE_REPEAT_SECONDS:
            step = self._pool_log.step()
            step.write(clauses.WakeWorkers())
            await self._pool_log.commit(step)


def ordered_on(survey: Survey) -> Counter[str]:
    """How many workers are ordered on each host and have not started."""
    ordered = (o.worker for o in survey.workers if o.worker.status is WorkerStatus.REQUESTED)
    return Counter(worker.host for worker in ordered)
