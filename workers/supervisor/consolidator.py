"""Emptying workers, as the leader: what `plan_moves` plans is carried out in one step.

Cordons, uncordons and the requests to move agents are refused together if another leads by now, or
one of the workers has changed. A worker that was asked releases the agent itself, unless it has
become busy. One that is empty is removed by the next decision about the pool's size.
"""

from collections.abc import Collection

import structlog
from msgspec.structs import replace

from eventstore.language import workers
from eventstore.language.consolidation import AUTO, REASON, MoveMemory, Plan, plan_moves
from eventstore.language.scaling_state import Decision
from eventstore.log.consolidation import read_fleet
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor.worker_monitor import PoolContext

log = structlog.get_logger("muster.leader")


class Consolidator:
    """Empties the workers of one pool within one term of its leader."""

    def __init__(self, context: PoolContext, lead: Leadership) -> None:
        self._context, self._lead = context, lead
        self._pool_log = context.pool_log
        self._memory = MoveMemory()

    async def reconcile(
        self, survey: Survey, decision: Decision, removed: Collection[str], *, ends: bool
    ) -> None:
        """Do what the plan says now. `removed`: workers that drain from now on.

        `ends`: the pool is being deleted.
        """
        surplus = 0 if ends or survey.waiting_isolated else decision.surplus
        if surplus != survey.surplus:  # for those who ask for a plan
            await self._context.write_as(self._lead, clauses.SetMeta("surplus", surplus or ""))
        config, request = self._context.pool().config, survey.consolidation
        if not (request or config.consolidate == AUTO):
            surplus = 0
        emptying = any(o.emptying for o in survey.workers)
        plan = Plan()
        if surplus or emptying:
            policy = replace(config.move_policy, busy=request is not None and request.busy)
            fleet = await read_fleet(
                self._pool_log.log,
                self._pool_log.pool,
                survey,
                policy,
                surplus=surplus,
                without=removed,
            )
            plan, memory = plan_moves(fleet, policy, self._memory)
            if plan.acts and not await self._carry_out(plan, survey, busy=policy.busy):
                return
            self._memory = memory
        if request and not plan.victims and not removed:
            await self._context.write_as(self._lead, clauses.SetMeta("consolidation", ""))

    async def _carry_out(self, plan: Plan, survey: Survey, *, busy: bool) -> bool:
        """Returns whether that was done."""
        step = self._pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        found = {o.worker.worker_id: o.worker for o in survey.workers}
        cause = survey.consolidation.event_id if survey.consolidation else ""
        for name in plan.cordon:
            bodies = workers.decide(workers.Cordon(reason=REASON), found[name])
            step.worker(name, found[name], bodies, causation_id=cause)
        for name, reason in plan.uncordon.items():
            bodies = workers.decide(workers.Uncordon(reason=reason, own=True), found[name])
            step.worker(name, found[name], bodies)
        for name in {name for name, _ in plan.moves} - {*plan.cordon}:
            step.check(clauses.WorkerUnchanged(name, found[name].version))
        step.write(*(clauses.AskToMove(*move, busy) for move in plan.moves))
        if (await self._pool_log.commit(step)).outcome is not Outcome.DONE:
            return False
        log.info(
            "pool.consolidating",
            pool=self._pool_log.pool,
            moves=len(plan.moves),
            cordoned=len(plan.cordon),
            uncordoned=dict(plan.uncordon),
            victims=len(plan.victims),
        )
        return True
