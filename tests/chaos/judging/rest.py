"""Invariants 2 and 7 at rest: without requests, nothing stays unfinished."""

from collections.abc import Iterator

from tests.chaos.judging.agents import Agent
from tests.chaos.judging.catalogue import Catalogue
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.pools import Pool
from tests.chaos.judging.replacements import REPLACED
from tests.chaos.judging.streams import PLACER, Registry


def judge(pool: Pool, found: Registry, catalogue: Catalogue) -> Iterator[Offence]:
    """Offences in a pool that had no requests for a while."""
    yield from _agents(pool, found, catalogue)
    yield from _workers(pool, found, catalogue)
    if halted := found.meta.get("halted"):
        yield Offence(7, f"it is halted: {halted}", pool.name)
    for entry, consumer in found.pending.items():
        yield Offence(7, f"command {entry} is pending", pool.name, subject=consumer)
    for name in found.consumers - {PLACER, *(n for n, w in pool.workers.items() if w.alive)}:
        yield Offence(7, "it is a consumer, but no worker that lives", pool.name, subject=name)


def _agents(pool: Pool, found: Registry, catalogue: Catalogue) -> Iterator[Offence]:
    declared = catalogue.pools.get(pool.name)
    for name, agent in pool.living.items():
        worker = pool.workers.get(agent.worker)
        if agent.status == "pending" and _waits(agent, pool, catalogue):
            continue  # it waits for its turn
        if agent.status == "pending" and agent.state_lost:
            continue  # it waits for a person
        if agent.status == "restarting" and agent.due_ms > found.now_ms:
            continue  # it waits for its time
        if declared is not None and declared.status == "deleted":
            yield Offence(2, "it lives in a pool that was deleted", pool.name, subject=name)
        elif agent.status != "running":
            why = f"at rest it is {agent.status} ({agent.reason or 'no reason'})"
            yield Offence(2, why, pool.name, subject=name)
        elif worker is None or not worker.alive:
            why = f"at rest it belongs to {agent.worker}, which does not live"
            yield Offence(2, why, pool.name, subject=name)


def _waits(agent: Agent, pool: Pool, catalogue: Catalogue) -> bool:
    """It waits for its turn: all slots are used, and no more workers are allowed."""
    alive = [worker for worker in pool.workers.values() if worker.alive]
    if agent.alone and any(worker.alone for worker in alive):
        return True  # few may have a worker for themselves at a time
    return len(alive) >= catalogue.max_workers(pool.name) and not any(w.free for w in alive)


def _workers(pool: Pool, found: Registry, catalogue: Catalogue) -> Iterator[Offence]:
    declared = catalogue.pools.get(pool.name)
    replacement = (declared and declared.replacement) or {}
    replaces = replacement.get("status") == "running"
    for name, worker in pool.workers.items():
        if worker.status == "requested" and worker.deadline_ms > found.now_ms:
            continue
        if worker.status in {"requested", "suspect", "draining"}:
            yield Offence(7, f"at rest it is {worker.status}", pool.name, subject=name)
        elif worker.alive and 0 < worker.drain_ms < found.now_ms:
            yield Offence(7, "at rest its deadline is over", pool.name, subject=name)
        elif worker.alive and worker.cordoned == REPLACED and not replaces:
            yield Offence(
                7, "it is cordoned for a replacement that is over", pool.name, subject=name
            )
        old = worker.epoch < int(replacement.get("epoch", 0)) and not pool.recoveries
        if worker.alive and old and replacement["status"] == "finished":
            yield Offence(9, "it was to be replaced, and lives", pool.name, subject=name)
    for name in found.lost:
        yield Offence(7, "it was never reaped", pool.name, subject=name)
