"""Clearing up after a worker that died.

First one step: its epoch is raised, so that nothing it still tries enters the log. Then each agent
it held is ended, if its end was asked for, or put back into the queue as its next incarnation.
Last go its consumer, inbox and keys. Every part may be repeated or taken over by any supervisor: a
lost worker stays listed in the pool's `lost` set until all is done.
"""

import asyncio
from collections.abc import Sequence

import structlog
from redis.exceptions import ResponseError

from eventstore import worker as workers
from eventstore.agent import Lose, Terminate
from eventstore.connection import UNREACHABLE, execute
from eventstore.errors import LogError, LogUnreachable
from eventstore.keys import GROUP
from eventstore.log import Log, Observed, Outcome
from eventstore.step import Fence, Origin, Step
from eventstore.worker import Worker

CHUNK = 50
"""How many agents are put back at the same time."""

log = structlog.get_logger("muster.reaping")


async def declare_lost(
    events: Log,
    pool: str,
    worker_id: str,
    reason: str,
    origin: Origin,
    *,
    renewal: int | None = None,
    term: tuple[str, int] | None = None,
) -> bool:
    """Fence a worker; False if it was not there to be fenced, or proved alive meanwhile.

    `renewal`: only if its lease was not renewed since. `term`: only as this leader.
    """
    epoch = await events.draw_epoch(pool)

    def prepare(step: Step, _worker: Worker) -> None:
        if renewal is not None:
            step.check("renewal", worker_id, renewal)
        if term is not None:
            step.check("leader", *term)

    acted = await events.act_on_worker(
        pool, worker_id, workers.Fence(reason=reason), origin, epoch=epoch, prepare=prepare
    )
    if acted.outcome is Outcome.DONE:
        log.warning("worker.lost", pool=pool, worker_id=worker_id, reason=reason, epoch=epoch)
    return acted.outcome is Outcome.DONE


async def clear(events: Log, pool: str, lost: Observed, origin: Origin) -> bool:
    """Put back or end what a lost worker held, then forget it; True when nothing is left."""
    worker_id, epoch = lost.worker.worker_id, lost.worker.epoch
    fence = Fence(worker_id, epoch, lost=True)
    held = await events.held(pool, worker_id)
    for start in range(0, len(held), CHUNK):
        await asyncio.gather(
            *(
                events.act(
                    pool,
                    agent_id,
                    Lose(
                        worker_id=worker_id,
                        reason=lost.worker.reason or "worker-lost",
                        now_ms=events.now_ms(),
                    ),
                    origin,
                    fence=fence,
                )
                for agent_id in held[start : start + CHUNK]
            )
        )
    await _clear_told(events, pool, worker_id, origin)
    step = events.step(pool, origin)
    step.check("fenced", worker_id, epoch)
    step.check("empty", worker_id)
    step.check("settled", worker_id)
    step.write("forget", worker_id, events.retention.ended_ms)
    done = (await events.commit(step)).outcome is Outcome.DONE
    if done:
        log.info("worker.cleared", pool=pool, worker_id=worker_id, agents=len(held))
    return done


async def _clear_told(events: Log, pool: str, worker_id: str, origin: Origin) -> None:
    """Entries it was told of without a booking: agents whose end was asked for."""
    for entry_id, agent_id in await _pending(events, pool, worker_id):
        acted = await events.act(pool, agent_id, Terminate(), origin) if agent_id else None
        if acted is None or acted.outcome is not Outcome.DONE:
            step = events.step(pool, origin)
            step.write("discard", entry_id)
            await events.commit(step)


async def _pending(events: Log, pool: str, worker_id: str) -> Sequence[tuple[str, str]]:
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
        raise LogUnreachable(f"Redis does not answer: {error}") from error
    except ResponseError as error:
        raise LogError(f"pool {pool!r}: cannot list what is pending: {error}") from error
