"""What a survey says about a pool's size, and which workers a decision concerns: pure functions.

An agent that is to be isolated needs an empty worker. A worker whose event loop is stalled has no
room: its free slots are passed over, so that what waits gets another worker. It counts as one. So
does a cordoned one, which is kept also if it is empty: whoever cordoned it wants to see it. Only
the deletion of its pool removes it. Where consolidation has cordoned it, its slots can be had at
once, and it is removed as it is empty.
"""

from collections.abc import Mapping, Sequence

from eventstore.language.events import PoolScalingDecided
from eventstore.language.pool_config import PoolConfig
from eventstore.language.scaling_state import Decision, Memory, Observation
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey

REASONS = {"load": "pending-spawns"}
"""Why workers are ordered, where it is not the name of the rule."""


def observe(
    survey: Survey, config: PoolConfig, *, start_ms: int = 0, deleted: bool = False
) -> Observation:
    """The part of a survey that a decision uses."""
    waiting, isolated = survey.waiting, survey.waiting_isolated
    if not config.suspicion_window_seconds:  # no agent is isolated any more
        waiting, isolated = waiting + isolated, 0
    # A suspect one may come back.
    alive = [o for o in survey.workers if o.worker.alive and not o.worker.draining]
    ordered = sum(o.worker.status is WorkerStatus.REQUESTED for o in survey.workers)
    claimable = [o.worker.max_agents for o in survey.workers if o.has_room and _is_empty(o)]
    in_use = sum(bool(o.isolated_agent) for o in survey.workers)
    # Those that wait to be isolated get empty workers, then ordered ones, then additional ones.
    wanted = min(isolated, max(config.isolation_limit - in_use, 0))
    reserved = claimable[:wanted]
    arriving = min(wanted - len(reserved), ordered)
    held = sum(o.agent_count for o in alive)
    returnable = sum(o.worker.max_agents - o.agent_count for o in alive if o.may_return)
    ordered_slots = (ordered - arriving) * config.agents_per_worker
    return Observation(
        ts=survey.ts,
        held=held,
        waiting=waiting + survey.restarting,
        capacity=held + survey.room + returnable - sum(reserved) + ordered_slots,
        workers=len(alive) + ordered,
        empty=len(victims(survey, deleted=deleted)) - len(reserved) if not isolated else 0,
        additional=wanted - len(reserved) - arriving,
        start_ms=start_ms,
        deleted=deleted,
        forecast=survey.forecast,
    )


def _is_empty(observed: ObservedWorker, *, deleted: bool = False) -> bool:
    """`deleted`: also if it is cordoned."""
    is_active = observed.worker.status is WorkerStatus.ACTIVE
    removable = observed.has_room or observed.may_return or (deleted and is_active)
    return removable and observed.agent_count == 0


def victims(survey: Survey, count: int | None = None, *, deleted: bool = False) -> Sequence[str]:
    """So many empty workers (None: all): those that were emptied for that, then by age.

    `deleted`: the pool is, and its cordoned workers are not kept.
    """
    empty = [o for o in survey.workers if _is_empty(o, deleted=deleted)]
    empty.sort(key=lambda o: (not o.emptying, o.worker.worker_id))
    return [o.worker.worker_id for o in empty[:count]]


def thinness(survey: Survey, config: PoolConfig) -> float:
    """On how many times as many workers as they need the agents are; at least 1."""
    alive = [o for o in survey.workers if o.worker.alive and not o.worker.draining]
    held = sum(o.agent_count for o in alive)
    needed = -(-held // config.agents_per_worker)
    return max(sum(o.agent_count > 0 for o in alive) / needed, 1.0) if needed else 1.0


def reason_of(decision: Decision, seen: Observation) -> str:
    """The rule that won, or that fewer are needed."""
    if decision.wanted < decision.current and not seen.deleted:
        return "empty"
    return REASONS.get(decision.winner, decision.winner)


def event_of(
    decision: Decision, seen: Observation, memory: Memory, survey: Survey, config: PoolConfig
) -> PoolScalingDecided:
    """The record of a decision. `memory`: what it was made with."""
    return PoolScalingDecided(
        reason=reason_of(decision, seen),
        current=decision.current,
        desired=decision.desired,
        pending=survey.waiting + survey.waiting_isolated,
        restarting=survey.restarting,
        running=sum(o.agent_count for o in survey.workers),
        free=survey.room,
        ordered=sum(o.worker.status is WorkerStatus.REQUESTED for o in survey.workers),
        maximum=config.max_workers,
        wanted=decision.wanted,
        limit=decision.limit,
        candidates=decision.candidates,
        observed=seen,
        memory=memory,
    )


def place_workers(count: int, room: Mapping[str, int], survey: Survey, *, prefer: str) -> list[str]:
    """A host for each new worker: always the one with the fewest, `prefer` among equals.

    `room`: how many each host takes. If they take too few, the list is shorter.
    """
    load = {host: 0 for host, workers in room.items() if workers > 0}
    for observed in survey.workers:
        if observed.worker.host in load and not observed.worker.ended:
            load[observed.worker.host] += 1
    placed: list[str] = []
    while load and len(placed) < count:
        host = min(load, key=lambda name: (load[name], name != prefer, name))
        load[host] += 1
        placed.append(host)
        if placed.count(host) >= room[host]:
            del load[host]
    return placed
