"""Invariant 6 in Redis: hashes, sets, schedules and counters as folded; 2: no agent is forgotten.

A pool is read in one MULTI together with the latest events of its log, so everything is compared
at one position however fast the system changes.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.chaos.judging.agents import Agent
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.pools import Pool
from tests.chaos.judging.streams import PLACER, Registry
from tests.chaos.judging.workers import Worker

LATER: Final = {
    "cordoned": "",
    "drain_ms": "0",
    "cordon_kept": "",
    "alone": "",
    "has_run": "",
    "well_ms": "0",
    "failures_in_row": "0",
    "losses_in_row": "0",
    "restart": "",
    "save": "0",
    "state_sha256": "",
    "state_lost": "",
    "discards": "",
}
"""Fields that hashes of earlier versions do not have, and what that means."""


def judge(pool: Pool, found: Registry) -> Iterator[Offence]:
    """Compare a pool's keys with its fold."""
    yield from _sets(pool, found)
    yield from _hashes(pool, found)
    yield from _counters(pool, found)
    yield from _commands(pool, found)


def _offence(pool: Pool, why: str, subject: str = "", invariant: int = 6) -> Offence:
    return Offence(invariant, why, pool.name, subject=subject)


# ---- sets and schedules ------------------------------------------------------------------------


def _sets(pool: Pool, found: Registry) -> Iterator[Offence]:
    living, workers = pool.living, pool.workers
    yield from _members(pool, "agents", dict.fromkeys(living, 0), dict.fromkeys(found.agents, 0))
    free = {name: worker.free for name, worker in workers.items() if worker.alive}
    yield from _members(pool, "processes", free, found.processes)
    due = {n: a.due_ms for n, a in living.items() if a.status == "restarting"}
    yield from _members(pool, "due", due, found.due)
    timeouts = {n: a.expires_ms for n, a in living.items() if a.expires_ms}
    yield from _members(pool, "timeouts", timeouts, found.timeouts)
    orders = {n: w.deadline_ms for n, w in workers.items() if w.status == "requested"}
    yield from _members(pool, "orders", orders, found.orders)
    alone = {name for name, agent in living.items() if agent.alone and agent.queued}
    yield from _members(pool, "alone", dict.fromkeys(alone, 0), dict.fromkeys(found.alone, 0))
    for name in found.held.keys() & workers.keys():
        worker, held = workers[name], dict.fromkeys(found.held[name], 0)
        yield from _members(pool, f"held:{name}", dict.fromkeys(worker.holds, 0), held)
        if worker.ended and worker.holds and name not in found.lost:
            why = f"{len(worker.holds)} agents are held by it, and no reap of it is due"
            yield _offence(pool, why, name, 2)
    for name in found.lost - {name for name, worker in workers.items() if worker.fenced}:
        yield _offence(pool, "in lost, but the log does not say so", name)


def _members(
    pool: Pool, key: str, expected: Mapping[str, int], found: Mapping[str, int]
) -> Iterator[Offence]:
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            why = f"in {key}: {found.get(name, 'absent')}, the log says "
            yield _offence(pool, f"{why}{expected.get(name, 'absent')}", name)


def _counters(pool: Pool, found: Registry) -> Iterator[Offence]:
    meta = found.meta
    free = sum(worker.free for worker in pool.workers.values())
    pending = [agent for agent in pool.agents.values() if agent.queued]
    waiting = sum(not agent.alone for agent in pending)
    alone = sum(bool(worker.alone) for worker in pool.workers.values())
    for name, expected in (("free", free), ("waiting", waiting), ("alone", alone)):
        if meta.get(name, "0") != str(expected):
            yield _offence(pool, f"meta.{name} is {meta.get(name)}, the log says {expected}")
    highest = max(pool.epochs, default=0)
    if int(meta.get("epoch", 0)) < highest:
        yield _offence(pool, f"meta.epoch is {meta.get('epoch')}, below {highest}", invariant=4)


# ---- hashes ------------------------------------------------------------------------------------


def _hashes(pool: Pool, found: Registry) -> Iterator[Offence]:
    for name, fields in found.agent_hashes.items():
        agent = pool.agents.get(name)
        expected = agent_fields(pool.name, agent) if agent else None
        over = agent is None or agent.ended
        yield from _compare(pool, f"agent hash of {name}", expected, fields, over=over)
        if not over and name in found.fading:
            yield _offence(pool, "it lives, but its hash expires", name, 2)
        if agent is not None and not agent.ended:
            yield from _spec(pool, name, agent, found.specs.get(name, ""))
            if agent.state and not agent.state_lost and found.states.get(name) != agent.state:
                yield _offence(pool, f"its state is not that of save {agent.save}", name, 2)
    for name, fields in found.process_hashes.items():
        worker = pool.workers.get(name)
        expected = worker_fields(pool.name, worker) if worker else None
        over = worker is None or worker.ended
        yield from _compare(pool, f"process hash of {name}", expected, fields, over=over)
        if not over and name in found.fading:
            yield _offence(pool, "it lives, but its hash expires", name)


def _compare(
    pool: Pool,
    what: str,
    expected: Mapping[str, str] | None,
    found: Mapping[str, str],
    *,
    over: bool,
) -> Iterator[Offence]:
    """What is over may be gone, but may not differ."""
    if not found:
        if not over:
            yield _offence(pool, f"{what}: it is gone", invariant=2)
        return
    if expected is None:
        yield _offence(pool, f"{what}: no event mentions it")
        return
    for name, value in expected.items():
        if not _same(value, found.get(name, LATER.get(name))):
            yield _offence(pool, f"{what}: {name} is {found.get(name)!r}, the log says {value!r}")


def _spec(pool: Pool, name: str, agent: Agent, found: str) -> Iterator[Offence]:
    """Its next incarnation gets the spec that was requested."""
    asked = agent.requested.body
    wanted = {part: asked.get(part) or {} for part in ("input", "labels")}
    try:
        passed = {part: json.loads(found or "{}").get(part) or {} for part in wanted}
    except (ValueError, AttributeError):
        passed = {}
    if passed != wanted:
        why = f"its code gets {found[:80] or 'nothing'}, the log says {json.dumps(wanted)[:80]}"
        yield _offence(pool, why, name, 2)


def _same(expected: str, found: str | None) -> bool:
    if expected == found:
        return True
    try:
        return found is not None and float(expected) == float(found)
    except ValueError:
        return False


def agent_fields(pool: str, agent: Agent) -> dict[str, str]:
    asked = agent.requested.body
    idle = asked.get("max_idle_time")
    return {
        "status": agent.status,
        "pool_name": pool,
        "role_type": str(asked.get("role_type", "")),
        "project_id": str(asked.get("project_id", "")),
        "process_id": agent.worker,
        "incarnation": str(agent.incarnation),
        "version": str(agent.version),
        "epoch": str(agent.epoch),
        "claim_seq": str(agent.claim_seq),
        "stop": agent.stop,
        "reason": agent.reason,
        "heartbeat_interval": str(asked.get("heartbeat_interval", 30.0)),
        "max_idle_time": "" if idle is None else str(idle),
        "expires_ms": str(agent.expires_ms),
        "due_ms": str(agent.due_ms),
        "failures": ",".join(map(base36, agent.failures)),
        "losses": ",".join(map(base36, agent.losses)),
        "alone": "1" if agent.alone else "",
        "has_run": "1" if agent.has_run else "",
        "well_ms": str(agent.well_ms),
        "failures_in_row": str(agent.failures_in_row),
        "losses_in_row": str(agent.losses_in_row),
        "restart": "1" if agent.restart else "",
        "save": str(agent.save),
        "state_sha256": agent.state,
        "state_lost": "1" if agent.state_lost else "",
        "discards": "1" if agent.discards else "",
    }


def worker_fields(pool: str, worker: Worker) -> dict[str, str]:
    return {
        "pid": str(worker.pid),
        "pool_name": pool,
        "host": worker.host,
        "status": worker.status,
        "max_agents": str(worker.max_agents),
        "agent_count": str(len(worker.holds)),
        "alone": worker.alone,
        "epoch": str(worker.epoch),
        "version": str(worker.version),
        "start_time": str(worker.start_time),
        "deadline_ms": str(worker.deadline_ms),
        "draining": "1" if worker.draining else "",
        "cordoned": worker.cordoned,
        "drain_ms": str(worker.drain_ms),
        "cordon_kept": worker.kept,
        "reason": worker.reason,
    }


def base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


# ---- the queue ---------------------------------------------------------------------------------


def _commands(pool: Pool, found: Registry) -> Iterator[Offence]:
    """Each agent that waits or starts has its command, once."""
    if not found.grouped:
        yield _offence(pool, "the commands have no consumer group", invariant=2)
    queued: Counter[tuple[str, str]] = Counter(
        (entry.get("agent_id", ""), entry.get("incarnation", ""))
        for entry in found.commands.values()
    )
    wanted = {
        (name, str(agent.incarnation)): agent
        for name, agent in pool.living.items()
        if (agent.queued or agent.status == "starting") and not agent.alone
    }
    for key, agent in wanted.items():
        if queued[key] != 1:
            why = f"{agent.status}, with {queued[key]} commands for incarnation {key[1]}"
            yield _offence(pool, why, key[0], 2)
    for key in queued.keys() - wanted.keys():
        yield _offence(pool, f"a command for incarnation {key[1]}, which none waits for", key[0])
    yield from _deliveries(pool, found)


def _deliveries(pool: Pool, found: Registry) -> Iterator[Offence]:
    """The worker that starts an agent has its command pending, so no other gets it."""
    for entry_id, fields in found.commands.items():
        starting = pool.agents.get(name := fields.get("agent_id", ""))
        if entry_id not in found.pending and starting and starting.status == "starting":
            yield _offence(pool, "starting, but no worker has its command", name, 2)
    for entry_id, consumer in found.pending.items():
        agent_id: Any = found.commands.get(entry_id, {}).get("agent_id", "")
        agent = pool.agents.get(agent_id)
        worker = pool.workers.get(consumer)
        if consumer == PLACER and agent is not None and agent.status == "pending":
            continue
        if worker is None or (worker.ended and consumer not in found.lost):
            yield _offence(
                pool, f"command {entry_id} is pending for a worker that is no more", consumer, 7
            )
        elif agent is not None and agent.status == "starting" and agent.worker != consumer:
            yield _offence(pool, f"its command is pending for {consumer}", agent_id, 2)
