"""Carrying out what `decide_scale` decides, as the leader: workers are ordered, or drained.

Two scaling steps from the same survey are refused by the scaling version, those of an earlier
leader by its term.

A launch has failed when its worker is gone before it had settled. A host where launches fail always
has the fewest workers, so it would get each order, again and again, while others have free slots:
it is skipped, the longer the more of them failed in a row. The same holds, for longer, for a host
whose workers end because they cannot make the agents of the pool: the role is not declared there,
or its import fails. When a host joins again, with other roles perhaps, it is tried again.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.language import workers
from eventstore.language.events import PoolScalingDecided, WorkerRequested
from eventstore.language.scaling import Memory, decide_scale
from eventstore.language.workers import WorkerStatus, is_role_problem
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor import scaling
from workers.supervisor.polling import Stopwatch
from workers.supervisor.worker_monitor import PoolContext, WorkerMonitor

log = structlog.get_logger("muster.leader")

WAKE_REPEAT_SECONDS = 1.0
"""Spawns that wait this long although slots are free have their wake-up repeated."""
BLOCKED_MAX: Final = 500
"""Characters of the sentence that says why no worker is started."""
SETTLED_SECONDS: Final = 5.0
"""A worker that is gone before this age counts as a launch that failed."""
BACKOFF_SECONDS: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""For how long after its last order, after so many failures in a row."""
ROLE_BACKOFF_SECONDS: Final = (0.0, 30.0, 60.0, 120.0, 300.0)
"""The same where the class of the pool's agents was not available."""


class Scaler:
    """Scales one pool within one term of its leader."""

    def __init__(self, context: PoolContext, lead: Leadership, monitor: WorkerMonitor) -> None:
        self._context = context
        self._pool_log = context.pool_log
        self._lead = lead
        self._monitor = monitor
        self._unclaimed_times = Stopwatch()
        self._launches = LaunchTracker()
        self._memory = Memory()

    async def reconcile(self, survey: Survey, now: float) -> None:
        """Order or drain workers, and wake those that have not claimed what waits."""
        known = self._context.catalogue.state.hosts.values()
        joined = {host.host: host.joined_ms for host in known if host.status == "joined"}
        await self._observe_launches(survey, joined, now)
        pool = self._context.pool()
        seen = scaling.observe(
            survey,
            pool.config,
            start_ms=self._launches.slowest_start_ms(),
            deleted=pool.deleted or survey.closed == str(pool.created_seq),
        )
        decision, memory = decide_scale(seen, pool.config.scale_policy, self._memory)
        hosts: list[str] = []
        waiting = survey.waiting + survey.waiting_isolated
        blocked = self._launches.role_problem(joined) if waiting else ""
        if decision.order:
            room, full = await self._room(survey, joined, now)
            seen = replace(seen, host_room=sum(room.values()))
            decision, memory = decide_scale(seen, pool.config.scale_policy, self._memory)
            hosts = scaling.place_workers(decision.order, room, survey, prefer=self._lead.host)
            if not any(room.values()) and full and not blocked:
                blocked = "no host has room for another worker: " + "; ".join(full)
        await self._report_blocked(blocked[:BLOCKED_MAX], survey)
        removed = scaling.victims(survey, decision.remove)
        if hosts or removed or (decision.limit and decision.limit not in self._memory.limits):
            event = scaling.event_of(decision, seen, self._memory, survey, pool.config)
            if not await self._carry_out(event, hosts, removed, survey, now):
                memory = self._memory
        self._memory = memory
        await self._repeat_wake(survey, now)

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
        hosts: Sequence[str],
        removed: Collection[str],
        survey: Survey,
        now: float,
    ) -> bool:
        """Order a worker on each host, or drain empty ones, unless one is not empty any more.

        Returns whether that was done.
        """
        step = self._pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        step.check(clauses.MetaIs("scaling", survey.scaling))
        step.write(clauses.SetMeta("scaling", survey.scaling + 1))
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


class Launch(Struct):
    """One that was ordered and has not settled."""

    host: str
    ordered_at: float
    alive_since: float = 0.0
    excused: bool = False
    """If it ends now its launch has not failed."""


class LaunchTracker:
    """The launches of one pool, since this leader leads. Times by its own clock."""

    def __init__(self) -> None:
        self._unsettled: dict[str, Launch] = {}
        self._last_ordered: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._role_problems: dict[str, list[str]] = {}
        self._joined: dict[str, int] = {}
        self._slowest_start = 0.0

    def slowest_start_ms(self) -> int:
        """How long the slowest of those took that were ready since the last call; 0: none was."""
        seconds, self._slowest_start = self._slowest_start, 0.0
        return int(seconds * 1000)

    def record_ordered(self, hosts: Mapping[str, str], now: float) -> None:
        """Workers were ordered, each on its host; to be called before the next survey."""
        self._unsettled |= {worker_id: Launch(host, now) for worker_id, host in hosts.items()}
        self._last_ordered |= dict.fromkeys(hosts.values(), now)

    def forget(self, worker_ids: Iterable[str]) -> None:
        """These are to end, however young they are: their launch has not failed."""
        for worker_id in worker_ids:
            self._unsettled.pop(worker_id, None)

    def forgive_rejoined(self, joined: Mapping[str, int]) -> None:
        """`joined`: hosts, and when they did. Nothing is known any more of those that have left."""
        for host, at_ms in self._joined.items():
            if joined.get(host) != at_ms:
                self._forgive(host)
                self._last_ordered.pop(host, None)
                self.forget([name for name, one in self._unsettled.items() if one.host == host])
        self._joined = dict(joined)

    def record_role_problem(self, host: str, reason: str) -> None:
        """A launch that failed there did so because of the pool's role."""
        known = self._role_problems.get(host, ())
        self._role_problems[host] = [*known, reason][-len(ROLE_BACKOFF_SECONDS) :]

    def role_problem(self, joined: Iterable[str]) -> str:
        """Why no host can run agents of the pool's role; empty if one can, or may."""
        problems = [self._role_problems.get(host) for host in joined]
        return problems[0][-1] if problems and problems[0] and all(problems) else ""

    def failing(self, host: str) -> bool:
        """Whether its last launch has failed."""
        return self._failures[host] > 0

    def _forgive(self, host: str) -> None:
        del self._failures[host]
        self._role_problems.pop(host, None)

    def observe(self, survey: Survey, now: float) -> dict[str, str]:
        """Observe what became of them; returns those that failed, with their hosts.

        Those of a host that end in one round count as one.
        """
        failed: dict[str, str] = {}
        listed = {o.worker.worker_id: o for o in survey.workers if not o.worker.ended}
        for worker_id, launch in tuple(self._unsettled.items()):
            observed = listed.get(worker_id)
            if observed is None or is_role_problem(observed.worker.reason):
                del self._unsettled[worker_id]
                if not launch.excused:
                    failed[worker_id] = launch.host
            elif observed.worker.alive:
                if observed.preparing:  # what ends it before it is ready is a failed launch
                    continue
                if not launch.alive_since:
                    launch.alive_since = now
                    self._slowest_start = max(self._slowest_start, now - launch.ordered_at)
                launch.excused = observed.worker.draining or bool(observed.isolated_agent)
                if now - launch.alive_since > SETTLED_SECONDS:
                    del self._unsettled[worker_id]
                    self._forgive(launch.host)
        self._failures.update(set(failed.values()))
        return failed

    def eligible(self, hosts: Iterable[str], now: float) -> list[str]:
        """The hosts that are not skipped."""
        return [host for host in hosts if now >= self._backoff_until(host)]

    def _backoff_until(self, host: str) -> float:
        failed = min(self._failures[host], len(BACKOFF_SECONDS) - 1)
        problems = len(self._role_problems.get(host, ())[: len(ROLE_BACKOFF_SECONDS) - 1])
        seconds = max(BACKOFF_SECONDS[failed], ROLE_BACKOFF_SECONDS[problems])
        return self._last_ordered.get(host, 0.0) + seconds
