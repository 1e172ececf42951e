"""How many workers a pool should have: a pure decision from a survey.

Load is everything that wants a slot: running, starting, pending, and waiting for a restart. One
pending spawn is enough to start a first worker; fifteen need two workers, not fifteen. Capacity
that is ordered counts as if it were there. Only empty workers are drained.

An agent that is to be isolated needs an empty worker. A worker whose event loop is stalled has no
room: its free slots are passed over, so that what waits gets another worker. It counts as one.
"""

from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.events import PoolScalingDecided
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey


class Decision(Struct, frozen=True, kw_only=True):
    """What to do about a pool's size; `launch` and `drain` are never both set."""

    launch: int = 0
    drain: tuple[str, ...] = ()
    """Empty workers to drain."""
    event: PoolScalingDecided | None = None
    at_maximum: bool = False
    """More workers are needed than the pool may have."""


def decide(
    survey: Survey, config: PoolConfig, *, empty_seconds: Mapping[str, float], deleted: bool = False
) -> Decision:
    """Decide for one pool. `empty_seconds`: for how long each empty worker has been empty."""
    if not config.suspicion_window_seconds:  # no agent is isolated any more
        waiting = survey.waiting + survey.waiting_isolated
        survey = replace(survey, waiting=waiting, waiting_isolated=0)
    active = [w for w in survey.workers if w.has_room]
    # A suspect one may come back.
    alive = [w for w in survey.workers if w.worker.alive and not w.worker.draining]
    ordered = sum(w.worker.status is WorkerStatus.REQUESTED for w in survey.workers)
    maximum = 0 if deleted else config.max_workers
    isolated_slots, isolated_ordered, additional = _isolation_needs(survey, config, active, ordered)
    free_slots = survey.room - isolated_slots
    free_slots += (ordered - isolated_ordered) * config.agents_per_worker
    missing = survey.waiting + survey.restarting - free_slots
    current = len(alive) + ordered
    wanted = current + max(ceil(missing / config.agents_per_worker), 0) + additional
    wanted = max(wanted, 0 if deleted else config.min_workers)
    desired = min(wanted, max(maximum, current))
    drain: tuple[str, ...] = ()
    if desired > current:
        reason = "min-workers" if wanted == config.min_workers else "pending-spawns"
    elif drain := _surplus(active, survey, config, empty_seconds, deleted):
        reason = "pool-deleted" if deleted else "empty"
    else:
        return Decision(at_maximum=wanted > desired)
    event = PoolScalingDecided(
        reason=reason,
        current=current,
        desired=desired - len(drain),
        pending=survey.waiting + survey.waiting_isolated,
        restarting=survey.restarting,
        running=sum(w.agent_count for w in survey.workers),
        free=survey.room,
        ordered=ordered,
        maximum=config.max_workers,
    )
    launch, at_maximum = desired - current, wanted > desired
    return Decision(launch=launch, drain=drain, event=event, at_maximum=at_maximum)


def _isolation_needs(
    survey: Survey, config: PoolConfig, active: Sequence[ObservedWorker], ordered: int
) -> tuple[int, int, int]:
    """How the agents that wait to be isolated will get a worker, within the limit.

    They claim empty workers with so many slots, and so many ordered ones; they need so many more.
    """
    in_use = sum(bool(w.isolated_agent) for w in survey.workers)
    wanted = min(survey.waiting_isolated, max(config.isolation_limit - in_use, 0))
    empty = [w.worker.max_agents for w in active if w.agent_count == 0][:wanted]
    arriving = min(wanted - len(empty), ordered)
    return sum(empty), arriving, wanted - len(empty) - arriving


def _surplus(
    active: Sequence[ObservedWorker],
    survey: Survey,
    config: PoolConfig,
    empty_seconds: Mapping[str, float],
    deleted: bool,
) -> tuple[str, ...]:
    """Workers that were empty for too long, those that are empty the longest first."""
    if survey.waiting or survey.restarting or survey.waiting_isolated:
        return ()
    idle_threshold = 0.0 if deleted else config.empty_worker_seconds
    minimum = 0 if deleted else config.min_workers
    idle = [
        w.worker.worker_id
        for w in active
        if w.agent_count == 0 and empty_seconds.get(w.worker.worker_id, -1.0) >= idle_threshold
    ]
    idle.sort(key=lambda worker_id: -empty_seconds[worker_id])
    return tuple(idle[: max(len(active) - minimum, 0)])


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
