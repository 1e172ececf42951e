"""Which workers of a pool could be emptied, so that fewer are needed; and asking for it.

The plan is that of the pool's leader, made here from the same observation. What only the leader
remembers is missing: a worker that could not be emptied a short time ago may be planned again.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.catalogue import Pool
from eventstore.language.consolidation import MoveMemory, Occupied, Plan, plan_moves
from eventstore.language.events import PoolConsolidationRequested
from eventstore.log.consolidation import read_fleet, request_consolidation
from eventstore.log.survey import Survey
from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.requests import ConsolidateRequest, PlanQuery, PoolName


class PlannedWorker(Struct, frozen=True, kw_only=True):
    """A worker, and what the plan says about it. `free`: slots that agents may claim."""

    worker_id: str
    host: str
    agents: int
    busy: int
    free: int
    action: str
    """`keep`, `empty`, or `uncordon`: it was to be emptied."""
    started: bool
    """Whether it is cordoned already in order to be emptied."""
    why: str
    moves: Sequence[str] = ()
    """The agents that would move, as far as they were read."""


class ConsolidationPlan(Struct, frozen=True, kw_only=True):
    """What consolidation would do with a pool now, the workers that come first first.

    `workers_fewer`, `moves`: workers that would be emptied, and their agents. `running`: it was
    requested, or is under way.
    """

    pool_name: str
    workers_fewer: int
    moves: int
    running: bool
    why: str
    workers: Sequence[PlannedWorker]


async def get_plan(call: Call, pool_name: PoolName, query: PlanQuery) -> Answer:
    """Which workers of a pool could be emptied now, and why not the others."""
    pool = await call.backend.pool(pool_name)
    return Answer(await _plan(call, pool, await _survey(call, pool), busy=query.busy))


async def consolidate(call: Call, pool_name: PoolName, body: ConsolidateRequest) -> Answer:
    """Move agents of a pool, so that it needs fewer workers."""
    backend, pool = call.backend, await call.backend.pool(pool_name)
    survey = await _survey(call, pool)
    plan = await _plan(call, pool, survey, busy=body.busy)
    known = survey.consolidation
    if not plan.workers_fewer or (known is not None and known.busy == body.busy):
        return Answer(plan, status=202 if plan.running else 200)
    requested = PoolConsolidationRequested(reason=body.reason, busy=body.busy)
    await request_consolidation(backend.log, pool_name, requested, call.origin)
    backend.report_position(call.read_state, pool_name)
    return Answer(replace(plan, running=True), status=202)


async def _survey(call: Call, pool: Pool) -> Survey:
    return await call.backend.log.survey(pool.pool_name)


async def _plan(call: Call, pool: Pool, survey: Survey, *, busy: bool) -> ConsolidationPlan:
    config = pool.config
    policy = replace(config.move_policy, busy=busy)
    fleet = await read_fleet(
        call.backend.log, pool.pool_name, survey, policy, surplus=survey.surplus
    )
    plan, _ = plan_moves(fleet, policy, MoveMemory())
    hosts = {o.worker.worker_id: o.worker.host for o in survey.workers}
    order = {name: at for at, name in enumerate(plan.victims)}
    rows = [
        PlannedWorker(
            worker_id=one.worker_id,
            host=hosts[one.worker_id],
            agents=one.agents,
            busy=one.busy,
            free=one.free,
            action=_action(one, plan),
            started=one.emptying,
            why=plan.kept.get(one.worker_id, "its agents have room in other workers"),
            moves=[it.agent_id for it in one.occupants or () if one.worker_id in order],
        )
        for one in sorted(
            fleet.workers, key=lambda one: (order.get(one.worker_id, len(order)), one.agents)
        )
    ]
    moves = sum(row.agents for row in rows if row.worker_id in order)
    return ConsolidationPlan(
        pool_name=pool.pool_name,
        workers_fewer=len(plan.victims),
        moves=moves,
        running=survey.consolidation is not None or any(row.started for row in rows),
        why=_why(pool, survey, plan, moves),
        workers=rows,
    )


def _action(one: Occupied, plan: Plan) -> str:
    if one.worker_id in plan.victims:
        return "empty"
    return "uncordon" if one.emptying else "keep"


def _why(pool: Pool, survey: Survey, plan: Plan, moves: int) -> str:
    config = pool.config
    if plan.victims:
        each = config.move_policy.per_minute
        return f"agents that move: {moves}, at most {each} a minute"
    if survey.surplus:
        return f"fewer workers would do ({survey.surplus} fewer), but none can be emptied"
    if config.paused is not None:
        return f"the pool is paused: {config.paused}"
    window = config.scale_policy.down.window_seconds
    return f"the pool needs its workers, or did within the last {window:g} s (down.window_seconds)"
