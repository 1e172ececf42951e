"""Clearing up after a worker that died.

First one step: its epoch is raised, so that nothing it still tries enters the log. Then each agent
it held is ended, if its end was asked for, or put back into the queue as its next incarnation.
Last go its consumer, inbox and keys. Every part may be repeated or taken over by any supervisor: a
lost worker stays listed in the pool's `lost` set until all is done.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
from msgspec import Struct
from redis.exceptions import ResponseError

from eventstore.connection.calls import UNREACHABLE, execute, refusal, unreachable
from eventstore.errors import (
    Halted,
    LayoutTooNew,
    LogError,
    LogMissing,
    LogUnreachable,
    OutcomeUnknown,
    Recovered,
    RolledBack,
    Unreadable,
)
from eventstore.keys import GROUP
from eventstore.language import workers
from eventstore.language.agent_commands import MarkLost
from eventstore.language.agents import Status
from eventstore.language.pool_config import RestartPolicy
from eventstore.language.workers import Worker
from eventstore.log.log import Log
from eventstore.log.replies import AgentResult, Outcome
from eventstore.log.survey import ObservedWorker
from eventstore.steps.step import Fence, Origin, Step

LOG_WIDE_ERRORS: Final = (
    LogUnreachable,
    OutcomeUnknown,
    LogMissing,
    RolledBack,
    Halted,
    Recovered,
    LayoutTooNew,
)
"""Errors that are no single agent's."""
CHUNK = 50
"""How many agents are put back at the same time."""


log = structlog.get_logger("muster.reaping")


class LossAttribution(Struct, frozen=True):
    """What the death of a worker means for those that it held: see `eventstore.agent.Lose`."""

    suspicion_ms: int = 0
    tolerated: int = 0
    policy: RestartPolicy = RestartPolicy()


NO_ATTRIBUTION: Final = LossAttribution()


async def declare_lost(
    events: Log,
    pool: str,
    worker_id: str,
    reason: str,
    origin: Origin,
    *,
    renewal: int | None = None,
    version: int | None = None,
    term: tuple[str, int] | None = None,
) -> bool:
    """Fence a worker; False if it was not there to be fenced, or proved alive meanwhile.

    `renewal`: only if its lease was not renewed since. `version`: only if nothing else has happened
    to it since. `term`: only as this leader.
    """
    epoch = await events.allocate_epoch(pool)

    def prepare(step: Step, _worker: Worker) -> None:
        if renewal is not None:
            step.check("renewal", worker_id, renewal)
        if version is not None:
            step.check("process", worker_id, version)
        if term is not None:
            step.check("leader", *term)

    acted = await events.act_on_worker(
        pool, worker_id, workers.DeclareLost(reason=reason), origin, epoch=epoch, prepare=prepare
    )
    if acted.outcome is Outcome.DONE:
        log.warning("worker.lost", pool=pool, worker_id=worker_id, reason=reason, epoch=epoch)
    return acted.outcome is Outcome.DONE


async def clean_up(
    events: Log,
    pool: str,
    lost: ObservedWorker,
    origin: Origin,
    attribution: LossAttribution = NO_ATTRIBUTION,
) -> bool:
    """Put back or end what a lost worker held, then forget it; True when nothing is left.

    An agent that cannot be put back holds up no other: a damaged one is parked.
    """
    worker_id, epoch = lost.worker.worker_id, lost.worker.epoch
    held = await events.held(pool, worker_id)

    async def lose(agent_id: str) -> None:
        command = MarkLost(
            worker_id=worker_id,
            reason=lost.worker.reason or "worker-lost",
            now_ms=events.now_ms(pool),
            suspicion_ms=attribution.suspicion_ms,
            losses_allowed=attribution.tolerated,
            policy=attribution.policy,
            jitter=random.random(),
        )
        fence = Fence(worker_id, epoch, lost=True)
        async with handle_agent_errors(events, pool, agent_id, holder=worker_id):
            acted = await events.act(pool, agent_id, command, origin, fence=fence)
            if acted.outcome in {Outcome.ABSENT, Outcome.ALREADY}:
                await _free_slot(events, pool, agent_id, acted, fence, origin)

    for start in range(0, len(held), CHUNK):
        await asyncio.gather(*map(lose, held[start : start + CHUNK]))
    await _requeue_unclaimed(events, pool, worker_id, origin)
    step = events.step(pool, origin)
    step.check("fenced", worker_id, epoch)
    step.check("empty", worker_id)
    step.check("settled", worker_id)
    step.write("forget", worker_id, events.retention.ended_ms)
    done = (await events.commit(step)).outcome is Outcome.DONE
    if done:
        log.info("worker.cleared", pool=pool, worker_id=worker_id, agents=len(held))
    return done


@asynccontextmanager
async def handle_agent_errors(
    events: Log, pool: str, agent_id: str, *, holder: str = ""
) -> AsyncIterator[None]:
    """Around a step of one agent among many: what is wrong with it alone ends here.

    Damage is parked; a refusal of Redis is logged, and the step is tried again in the next round.
    What concerns the whole log is raised.
    """
    try:
        yield
    except Unreadable as error:
        await events.park(pool, error, holder=holder)
    except LOG_WIDE_ERRORS:
        raise
    except LogError as error:
        log.error("agent.not_tended", pool=pool, agent_id=agent_id, error=str(error))


async def _free_slot(
    events: Log, pool: str, agent_id: str, acted: AgentResult, fence: Fence, origin: Origin
) -> None:
    """A slot of a lost worker whose agent is gone, or is not in it any more."""
    agent = acted.agent
    if agent is None and agent_id in await events.live(pool):
        raise Unreadable("agent", agent_id, "its hash is gone")
    if agent is not None and agent.held and agent.worker_id == fence.worker_id:
        return
    step = events.step(pool, origin)
    step.check("fenced", fence.worker_id, fence.epoch)
    if agent is not None:
        step.check("agent", agent_id, agent.version, agent.incarnation)
    step.write("vacate", agent_id, fence.worker_id)
    await events.commit(step)


async def _requeue_unclaimed(events: Log, pool: str, worker_id: str, origin: Origin) -> None:
    """Entries that it was handed and booked nobody for."""
    held = set(await events.held(pool, worker_id))
    for entry_id, agent_id in await pending_for(events, pool, worker_id):
        if agent_id in held:  # could not be cleared this time
            continue
        async with handle_agent_errors(events, pool, agent_id):
            await requeue(events, pool, entry_id, agent_id, origin)


async def requeue(events: Log, pool: str, entry_id: str, agent_id: str, origin: Origin) -> None:
    """Delete an entry that was handed to nobody; an agent that waits for it gets another."""
    agent = await events.agent(pool, agent_id) if agent_id else None
    step = events.step(pool, origin)
    if agent is not None and agent.status is Status.PENDING:
        step.check("agent", agent_id, agent.version, agent.incarnation)
        step.write("unqueue", agent_id)
        step.enqueue(agent)
    step.write("discard", entry_id)
    await events.commit(step)


async def pending_for(events: Log, pool: str, worker_id: str) -> Sequence[tuple[str, str]]:
    """(entry id, agent id) of what is pending for a worker; no agent id if the entry is gone."""
    commands = events.keys.pool(pool, "commands")
    try:
        listed = await execute(
            events.client, "XPENDING", commands, GROUP, "-", "+", 1000, worker_id
        )
        found = []
        for item in listed:
            entries = await execute(events.client, "XRANGE", commands, item[0], item[0])
            fields = entries[0][1] if entries else ()
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            found.append((item[0].decode(), named.get(b"agent_id", b"").decode()))
        return found
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        raise refusal(f"pool {pool!r}: cannot list what is pending", error) from error
