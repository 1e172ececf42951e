"""Clearing up after a worker that died.

First, in one step, its epoch is raised, so that nothing it still attempts enters the log. Then each
of its agents is ended, if its end was requested, or restarted as its next incarnation. Last its
consumer, inbox and keys are removed. Every part may be repeated, or done by any supervisor: a lost
worker is listed in the pool's `lost` set until all is done.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from msgspec.structs import replace

from eventstore import errors
from eventstore.connection.calls import ask
from eventstore.ids import is_id
from eventstore.keys import GROUP
from eventstore.language import workers
from eventstore.language.agent_commands import MarkLost
from eventstore.language.agents import Agent, Status
from eventstore.language.events import WorkerLost
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import Worker
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Outcome, fields_of
from eventstore.log.survey import ObservedWorker, UnreadableWorker
from eventstore.steps import clauses
from eventstore.steps.clauses import Leaves
from eventstore.steps.step import Fence

LOG_WIDE_ERRORS: Final = (
    errors.LogUnreachable,
    errors.OutcomeUnknown,
    errors.LogMissing,
    errors.RolledBack,
    errors.Halted,
    errors.LayoutTooNew,
)
"""Errors that concern the whole log, not one agent."""
CHUNK = 50
"""How many agents are restarted at the same time."""


log = structlog.get_logger("muster.reaper")


async def declare_lost(
    pool_log: PoolLog, worker_id: str, reason: str, checks: Sequence[clauses.Check]
) -> bool:
    """Fence a worker; False if there is none to be fenced, or a check fails: it proved alive."""
    epoch = await pool_log.allocate_epoch()
    command = workers.DeclareLost(reason=reason)
    acted = await pool_log.act_on_worker(worker_id, command, epoch=epoch, checks=checks)
    if acted.outcome is Outcome.DONE:
        log.warning(
            "worker.lost", pool=pool_log.pool, worker_id=worker_id, reason=reason, epoch=epoch
        )
    return acted.outcome is Outcome.DONE


async def fence_unreadable(pool_log: PoolLog, damaged: UnreadableWorker) -> None:
    """Declare a worker lost whose hash cannot be read, unless another supervisor has done so.

    A minimal hash replaces the damaged one, under a new epoch; `clean_up` restarts its agents. A
    name that Muster did not assign and that has no agents is removed without an event: the log does
    not know it, and an event of it could not be folded.
    """
    worker_id, held = damaged.worker_id, await pool_log.held(damaged.worker_id)
    step = pool_log.step()
    if held or is_id(worker_id):
        pool, version = pool_log.pool, damaged.version
        minimal = Worker(
            worker_id=worker_id, pool_name=pool, host="", max_agents=0, version=version
        )
        lost = WorkerLost(reason=f"its hash cannot be read: {damaged.reason}")
        epoch = await pool_log.allocate_epoch()
        step.worker(worker_id, minimal, (lost,), epoch=epoch, replace=True)
        step.write(clauses.Unpark(f"worker:{worker_id}"))  # the previous version parked it
    else:
        step.check(clauses.WorkerUnchanged(worker_id, damaged.version))
        step.check(clauses.WorkerIdle(worker_id, nothing_pending=True))
        step.write(clauses.PutWorker(worker_id, forget_ms=1))
    if (await pool_log.commit(step)).outcome is Outcome.DONE:
        log.error(
            "worker.unreadable",
            pool=pool_log.pool,
            worker_id=worker_id,
            reason=damaged.reason,
            agents=len(held),
        )


async def clean_up(pool_log: PoolLog, lost: ObservedWorker, config: PoolConfig) -> bool:
    """Restart or end the agents of a lost worker, then forget it; True when nothing is left.

    An agent that cannot be restarted delays no other: a damaged one is parked.
    """
    worker_id, epoch = lost.worker.worker_id, lost.worker.epoch
    origin = replace(pool_log.origin, causation_id=lost.worker.last_event_id)
    held = await pool_log.held(worker_id)
    lost_acts = clauses.WorkerActs(worker_id, epoch, lost=True)

    async def lose(agent_id: str) -> None:
        command = MarkLost(
            worker_id=worker_id,
            reason=lost.worker.reason or "worker-lost",
            now_ms=pool_log.now_ms(),
            only=len(held) == 1,
            suspicion_ms=int(config.suspicion_window_seconds * 1000),
            policy=config.restart_policy,
            jitter=random.random(),
        )
        fence = Fence(worker_id, epoch, lost=True)
        async with handle_agent_errors(pool_log, agent_id, holder=worker_id):
            acted = await pool_log.act(agent_id, command, origin=origin, fence=fence)
            agent = acted.agent
            has_slot = agent is not None and agent.held and agent.worker_id == worker_id
            if acted.outcome in {Outcome.ABSENT, Outcome.ALREADY} and not has_slot:
                await unlist(pool_log, agent_id, agent, Leaves(slot_of=worker_id), lost_acts)

    for start in range(0, len(held), CHUNK):
        await asyncio.gather(*map(lose, held[start : start + CHUNK]))
    await requeue_unclaimed(pool_log, worker_id)
    step = pool_log.step()
    step.check(lost_acts, clauses.WorkerIdle(worker_id, nothing_pending=True))
    # A minimal hash is not what the log records: it may not stay (see `fence_unreadable`).
    ended_ms = pool_log.log.retention.ended_ms if lost.worker.host else 1
    step.write(clauses.PutWorker(worker_id, forget_ms=ended_ms))
    done = (await pool_log.commit(step)).outcome is Outcome.DONE
    if done:
        log.info("worker.cleared", pool=pool_log.pool, worker_id=worker_id, agents=len(held))
    return done


@asynccontextmanager
async def handle_agent_errors(
    pool_log: PoolLog, agent_id: str, *, holder: str = ""
) -> AsyncIterator[None]:
    """Around a step of one agent among many: an error that concerns only this agent ends here.

    Damage is parked; a refusal of Redis is logged, and the step is retried in the next round.
    Errors that concern the whole log are raised.
    """
    try:
        yield
    except errors.Unreadable as error:
        await pool_log.park(error, holder=holder)
    except LOG_WIDE_ERRORS:
        raise
    except errors.LogError as error:
        log.error("agent.skipped", pool=pool_log.pool, agent_id=agent_id, error=str(error))


async def unlist(
    pool_log: PoolLog, agent_id: str, agent: Agent | None, listed: Leaves, *checks: clauses.Check
) -> None:
    """Take an agent that is gone, or that a command found otherwise, out of a list or slot."""
    if agent is None and agent_id in await pool_log.live():
        raise errors.Unreadable("agent", agent_id, "its hash is gone")
    step = pool_log.step()
    step.check(*checks)
    if agent is not None:
        step.check(clauses.AgentUnchanged(agent_id, agent.version, agent.incarnation))
    step.write(clauses.PutAgent(agent_id, leaves=listed))
    await pool_log.commit(step)


async def requeue_unclaimed(pool_log: PoolLog, worker_id: str) -> None:
    """Requeue the entries that were delivered under a name and for which no slot was booked."""
    held = set(await pool_log.held(worker_id))
    for entry_id, agent_id in await pending_for(pool_log, worker_id):
        if agent_id in held:  # it could not be restarted this time
            continue
        async with handle_agent_errors(pool_log, agent_id):
            agent = await pool_log.agent(agent_id) if agent_id else None
            step = pool_log.step()
            if agent is not None and agent.status is Status.PENDING:
                step.check(clauses.AgentUnchanged(agent_id, agent.version, agent.incarnation))
                step.requeue(agent)
            step.write(clauses.DropEntry(entry_id))
            await pool_log.commit(step)


async def pending_for(pool_log: PoolLog, worker_id: str) -> Sequence[tuple[str, str]]:
    """(entry id, agent id) of what is pending for a worker; no agent id if the entry is gone."""
    found = []
    for item in await _ask(pool_log, "XPENDING", GROUP, "-", "+", "1000", worker_id):
        entries = await _ask(pool_log, "XRANGE", item[0], item[0])
        fields = fields_of(entries[0][1]) if entries else {}
        found.append((item[0].decode(), fields.get("agent_id", "")))
    return found


async def consumers(pool_log: PoolLog) -> list[str]:
    """The names for which commands are pending."""
    found = await _ask(pool_log, "XPENDING", GROUP)
    return [name.decode(errors="replace") for name, _ in found[3] or ()]


async def _ask(pool_log: PoolLog, command: str, *arguments: str | bytes) -> Any:
    """Ask about the stream of commands."""
    commands = pool_log.log.keys.pool(pool_log.pool, "commands")
    doing = f"pool {pool_log.pool!r}: cannot list what is pending"
    return await ask(pool_log.log.client, command, commands, *arguments, doing=doing)
