"""How a worker shuts down.

Drained: `worker.draining` is written first, so that nothing more is claimed; what was claimed in a
reply that was lost is delivered again; then all agents are stopped and released at the same time,
and the empty worker writes `worker.stopped`. A part of the time is reserved for that: after the
rest of it agents get no more grace. What cannot be done in time is left to this worker's reaper.

Abandoned: the right to run agents is lost. They are cancelled, and nothing is written.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from eventstore.connection.backoff import Backoff, retry
from eventstore.language.workers import Drain, StopWorker
from workers.process.registration import Registration
from workers.runtime.calls import STUCK_SECONDS
from workers.runtime.slots import Slots
from workers.runtime.worker_context import StopRequest

GRACE_SHARE = 0.8
"""The part of a drain's time after which agents get no more grace."""

log = structlog.get_logger("muster.shutdown")


class ShutdownResult(StrEnum):
    """How a worker shut down."""

    STOPPED = "stopped"
    STUCK = "stuck"
    TIMED_OUT = "late"
    LOST = "lost"


async def drain(
    registration: Registration,
    slots: Slots,
    reason: str,
    seconds: float,
    *,
    on_empty: Callable[[], Awaitable[None]],
) -> ShutdownResult:
    """Release all agents and stop the worker, within `seconds`; to be cancelled on a lost lease.

    `on_empty` is awaited when no agent is left: from then on no lease is needed, and the present
    one ends with `worker.stopped`.
    """
    log.info("worker.draining", reason=reason, agents=len(slots.runs), seconds=seconds)
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            await _release_all(registration, slots, reason, deadline - seconds * (1 - GRACE_SHARE))
            if slots.stuck:
                return ShutdownResult.STUCK
            await on_empty()
            stopped = await registration.write(StopWorker(reason=reason))
            return ShutdownResult.STOPPED if stopped is not None else ShutdownResult.LOST
    except TimeoutError:
        slots.request_stop_all(StopRequest.ABANDON, "drain-timeout")
        await slots.wait_until_empty(1.0)
        return ShutdownResult.TIMED_OUT


async def abandon(slots: Slots) -> ShutdownResult:
    """Cancel all agents and write nothing."""
    slots.request_stop_all(StopRequest.ABANDON, "lost")
    await slots.wait_until_empty(STUCK_SECONDS + 1.0)
    return ShutdownResult.LOST


async def _release_all(
    registration: Registration, slots: Slots, reason: str, grace_ends_at: float
) -> None:
    worker = await registration.write(Drain(reason=reason))
    if worker is None or worker.ended:
        slots.request_stop_all(StopRequest.ABANDON, "lost")
    await retry(Backoff("claim", worker_id=registration.worker_id), slots.recover_claims)
    slots.request_stop_all(StopRequest.RELEASE, reason)
    if not await slots.wait_until_empty(grace_ends_at - asyncio.get_running_loop().time()):
        slots.request_stop_all(StopRequest.RELEASE_NOW, reason)
        await slots.wait_until_empty()
