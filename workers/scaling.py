"""How many workers a pool should have: a pure decision from what stands in the pool.

Load is everything that wants a slot: running, starting, pending, and waiting for a restart. One
pending spawn is enough to start a first worker; fifteen need two workers, not fifteen. Capacity
that is already ordered counts as if it stood. Only empty workers are given back.
"""

from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct

from eventstore.events import PoolScalingDecided
from eventstore.log import Observed, Survey
from eventstore.pool import PoolConfig
from eventstore.worker import WorkerStatus


class Decision(Struct, frozen=True, kw_only=True):
    """What to do about a pool's size; `launch` and `give_back` are never both set."""

    launch: int = 0
    give_back: tuple[str, ...] = ()
    event: PoolScalingDecided | None = None
    at_maximum: bool = False
    """More workers are needed than the pool may have."""


def decide(
    survey: Survey,
    config: PoolConfig,
    *,
    empty_seconds: Mapping[str, float],
    deleted: bool = False,
) -> Decision:
    """Decide for one pool. `empty_seconds`: for how long each empty worker has been so."""
    active = [w for w in survey.workers if w.worker.status is WorkerStatus.ACTIVE]
    standing = [
        w
        for w in survey.workers
        if w.worker.alive and not w.worker.draining  # a suspect one may come back
    ]
    ordered = sum(w.worker.status is WorkerStatus.REQUESTED for w in survey.workers)
    maximum = 0 if deleted else config.max_workers
    missing = survey.waiting + survey.restarting - survey.free - ordered * config.agents_per_worker
    current = len(standing) + ordered
    wanted = current + max(ceil(missing / config.agents_per_worker), 0)
    wanted = max(wanted, 0 if deleted else config.min_workers)
    desired = min(wanted, max(maximum, current))
    if desired > current:
        reason = "min-workers" if wanted == config.min_workers else "pending-spawns"
        event = _event(survey, config, reason, current, desired, ordered)
        return Decision(launch=desired - current, event=event, at_maximum=wanted > desired)
    surplus = _surplus(active, survey, config, empty_seconds, deleted)
    if surplus:
        reason = "pool-deleted" if deleted else "empty"
        event = _event(survey, config, reason, current, current - len(surplus), ordered)
        return Decision(give_back=surplus, event=event)
    return Decision(at_maximum=wanted > desired)


def _surplus(
    active: Sequence[Observed],
    survey: Survey,
    config: PoolConfig,
    empty_seconds: Mapping[str, float],
    deleted: bool,
) -> tuple[str, ...]:
    """Empty workers whose time is over, those that are empty the longest first."""
    if survey.waiting or survey.restarting:
        return ()
    patience = 0.0 if deleted else config.empty_worker_seconds
    keep = 0 if deleted else config.min_workers
    idle = [
        w.worker.worker_id
        for w in active
        if w.agent_count == 0 and empty_seconds.get(w.worker.worker_id, -1.0) >= patience
    ]
    idle.sort(key=lambda worker_id: -empty_seconds[worker_id])
    return tuple(idle[: max(len(active) - keep, 0)])


def _event(
    survey: Survey, config: PoolConfig, reason: str, current: int, desired: int, ordered: int
) -> PoolScalingDecided:
    return PoolScalingDecided(
        reason=reason,
        current=current,
        desired=desired,
        pending=survey.waiting,
        restarting=survey.restarting,
        running=sum(w.agent_count for w in survey.workers),
        free=survey.free,
        ordered=ordered,
        maximum=config.max_workers,
    )


def place(count: int, hosts: Sequence[str], survey: Survey, *, prefer: str) -> list[str]:
    """A host for each new worker: always the one with the fewest, `prefer` among equals."""
    load = dict.fromkeys(hosts, 0)
    for observed in survey.workers:
        if observed.worker.host in load and not observed.worker.ended:
            load[observed.worker.host] += 1
    placed: list[str] = []
    for _ in range(count if load else 0):
        host = min(load, key=lambda name: (load[name], name != prefer, name))
        load[host] += 1
        placed.append(host)
    return placed
