"""The ways a worker leaves.

Drained: `worker.draining` is in the log first, so that nothing more is claimed; what was claimed
without our hearing of it is told again; then all agents are stopped and released at the same time,
and the empty worker writes `worker.stopped`. Part of the time after which no more grace is given is
kept back for that. Whatever cannot be done in time is left to whoever reaps this worker.

Abandoned: the right to run agents is lost. They are cancelled, and nothing is written.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from eventstore.errors import LogError
from eventstore.language.workers import Drain, StopWorker
from workers.process.registration import Registration
from workers.runtime.backoff import Outage
from workers.runtime.calls import STUCK_SECONDS
from workers.runtime.slots import Slots
from workers.runtime.worker_context import Wish

HURRY = 0.8
"""The part of a drain's time after which agents get no more grace."""

log = structlog.get_logger("muster.leaving")


class Left(StrEnum):
    """How a worker left."""

    STOPPED = "stopped"
    STUCK = "stuck"
    LATE = "late"
    LOST = "lost"


async def drain(
    registration: Registration,
    slots: Slots,
    reason: str,
    seconds: float,
    *,
    emptied: Callable[[], Awaitable[None]],
) -> Left:
    """Release all agents and stop the worker, within `seconds`; to be cancelled on a lost lease.

    `emptied` is awaited when no agent is left: from then on no lease is needed, and the one there
    is ends with `worker.stopped`.
    """
    log.info("worker.draining", reason=reason, agents=len(slots.running), seconds=seconds)
    end = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(end):
            await _release_all(registration, slots, reason, end - seconds * (1 - HURRY))
            if slots.stuck:
                return Left.STUCK
            await emptied()
            stopped = await registration.write(StopWorker(reason=reason))
            return Left.STOPPED if stopped is not None else Left.LOST
    except TimeoutError:
        slots.ask_all(Wish.ABANDON, "drain-timeout")
        await slots.emptied(1.0)
        return Left.LATE


async def abandon(slots: Slots) -> Left:
    """Cancel all agents and write nothing."""
    slots.ask_all(Wish.ABANDON, "lost")
    await slots.emptied(STUCK_SECONDS + 1.0)
    return Left.LOST


async def _release_all(
    registration: Registration, slots: Slots, reason: str, hurry_at: float
) -> None:
    worker = await registration.write(Drain(reason=reason))
    if worker is None or worker.ended:
        slots.ask_all(Wish.ABANDON, "lost")
    await _claim_left(slots, registration.worker_id)
    slots.ask_all(Wish.RELEASE, reason)
    if not await slots.emptied(hurry_at - asyncio.get_running_loop().time()):
        slots.ask_all(Wish.RELEASE_NOW, reason)
        await slots.emptied()


async def _claim_left(slots: Slots, worker_id: str) -> None:
    outage = Outage("claim", worker_id=worker_id)
    while True:
        try:
            await slots.claim_left()
            return
        except LogError as error:
            await asyncio.sleep(outage.delay(error))
