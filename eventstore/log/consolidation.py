"""What consolidation reads of a pool: which agents are in which workers, and what keeps them there.

That is read from more than one key: what changes in between is noticed by the worker that is asked
to release an agent.
"""

from collections.abc import Collection
from typing import Any, Final

from msgspec.structs import replace

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.language.agents import Status
from eventstore.language.consolidation import (
    HOUR_MS,
    Fleet,
    MovePolicy,
    Occupant,
    Occupied,
    shortlist,
)
from eventstore.language.events import PoolConsolidationRequested
from eventstore.language.workers import WorkerStatus
from eventstore.log.log import Log
from eventstore.log.replies import scores_of
from eventstore.log.survey import Consolidation, ObservedWorker, Survey
from eventstore.steps import clauses
from eventstore.steps.step import Origin

READ_MAX: Final = 100
"""Workers of which the agents are read; of others it is assumed that they can be moved."""
FIELDS: Final = ("status", "stop", "restart", "alone", "state_sha256")


async def read_fleet(
    log: Log,
    pool: str,
    survey: Survey,
    policy: MovePolicy,
    *,
    surplus: int,
    without: Collection[str] = (),
) -> Fleet:
    """The workers of a survey but those in `without`. Raises `LogUnreachable`, `LogError`."""
    seen = [o for o in survey.workers if o.worker.alive and o.worker.worker_id not in without]
    fleet = Fleet(
        ts=survey.ts,
        workers=tuple(map(_occupied, seen)),
        surplus=surplus,
        waiting=survey.waiting + survey.waiting_isolated,
    )
    if not surplus and not any(one.emptying for one in fleet.workers):
        return fleet
    keys, read = log.keys, shortlist(fleet, policy, READ_MAX)
    asked, *held = await _ask(
        log,
        ("ZRANGE", keys.pool(pool, "moves"), "0", "-1", "WITHSCORES"),
        *(("SMEMBERS", keys.pool(pool, f"held:{worker_id}")) for worker_id in read),
    )
    ids = [sorted(member.decode() for member in members) for members in held]
    flat = [agent_id for some in ids for agent_id in some]
    hashes = await _ask(log, *(("HMGET", keys.agent(pool, one), *FIELDS) for one in flat))
    found = dict(zip(flat, map(_occupant, flat, hashes), strict=True))
    occupants = {
        worker_id: tuple(found[one] for one in some)
        for worker_id, some in zip(read, ids, strict=True)
    }
    workers = (replace(one, occupants=occupants.get(one.worker_id)) for one in fleet.workers)
    moves = tuple(
        (member.partition(":")[0], at_ms)
        for member, at_ms in scores_of(asked)
        if survey.ts - at_ms < HOUR_MS
    )
    return replace(fleet, workers=tuple(workers), asked=moves)


async def request_consolidation(
    log: Log, pool: str, requested: PoolConsolidationRequested, origin: Origin
) -> None:
    """Let the pool's leader move agents until there is nothing more to do. Raises as `commit`."""
    step = log.step(pool, origin)
    request = Consolidation(step.event(requested, pool).event_id, requested.busy)
    step.write(clauses.SetMeta("consolidation", request.text))
    step.write(clauses.Signal("consolidate", pool))
    await log.commit(step)


async def _ask(log: Log, *commands: tuple[str, ...]) -> list[Any]:
    with translated_errors("agents in workers cannot be read"):
        return await execute_many(log.client, commands)


def _occupied(observed: ObservedWorker) -> Occupied:
    worker = observed.worker
    obstacle = ""
    if worker.draining:
        obstacle = "it drains"
    elif worker.cordoned and not observed.emptying:
        obstacle = "it is cordoned"
    elif observed.isolated_agent:
        obstacle = "it runs an isolated agent"
    elif worker.status is not WorkerStatus.ACTIVE or observed.stalled:
        obstacle = observed.stalled or f"it is {worker.status}"
    return Occupied(
        worker_id=worker.worker_id,
        agents=observed.agent_count,
        busy=observed.busy,
        free=observed.free if observed.has_room else 0,
        emptying=observed.emptying,
        obstacle=obstacle,
    )


def _occupant(agent_id: str, fields: list[bytes | None]) -> Occupant:
    status, stop, restart, alone, saved = (value and value.decode() for value in fields)
    obstacle = "is isolated" if alone else ""
    if status != Status.RUNNING:
        obstacle = f"is {status or 'not readable'}"
    elif stop or restart:
        obstacle = "is about to be ended" if stop else "is about to be restarted"
    return Occupant(agent_id=agent_id, obstacle=obstacle, saved=bool(saved))
