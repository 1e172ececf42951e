"""What a worker writes about itself: that it starts, drains, recovers, stops, and, when its log is
lost, which agents it runs.

A drain is ordered by the log (`worker.draining` is there, or comes soon), by its supervisor or its
inbox. One that nothing ordered, by a signal or a defect, counts as the loss of the worker: agents
are stopped in good order, but not released; their reaper decides when they start again.

A drain: `worker.draining` is written first, so that nothing more is claimed; what was claimed in a
reply that was lost is delivered again; then all agents are stopped and released at the same time,
and the empty worker writes `worker.stopped`. A part of the time is reserved for that: after the
rest of it agents get no more grace. What cannot be done in time is left to this worker's reaper.

The recovery of a lost log compares the report with the archive. The worker itself goes on until its
lease lapses; in the recovered log none of its agents is its own.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum

import structlog

from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError, MusterError
from eventstore.language.workers import Drain, Start, StopWorker, Worker, WorkerCommand
from eventstore.log.pool_log import PoolLog
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, write_reports
from workers.process.lease import EXIT_LEASE_LOST
from workers.runtime.agent_run import AgentRun
from workers.runtime.slots import Slots
from workers.runtime.stop_signal import StopRequest

ORDER_SECONDS = 1.0
"""For how long a worker that got a signal waits for an order in the log: a system that shuts down
ends all processes at the same time."""
ORDER_POLL_SECONDS = 0.1
GRACE_SHARE = 0.8
"""The part of a drain's time after which agents get no more grace."""

log = structlog.get_logger("muster.registration")


class ShutdownResult(IntEnum):
    """How a worker shut down, as the exit code of its process."""

    STOPPED = 0
    NOT_ORDERED = 73
    LATE = 74
    LOST = EXIT_LEASE_LOST
    STUCK = 77


class NotOrdered(MusterError):
    """The order for this worker is gone: it lapsed, or was carried out before."""


class Registration:
    """One worker in the log of its pool."""

    def __init__(self, pool_log: PoolLog, worker_id: str) -> None:
        self._pool_log = pool_log
        self.worker_id = worker_id
        self.epoch = 0
        self.leaves_agents = False
        """Its agents are left to the reaper, and not released."""

    async def register(self, host: str, start_time: int) -> int:
        """Turn the order into a worker; returns how many slots it has.

        Raises `NotOrdered`, or `LogError` when Redis does not answer.
        """
        self.epoch, ordered = await asyncio.gather(  # sent together, in this order
            self._pool_log.allocate_epoch(), self._pool_log.worker(self.worker_id)
        )
        acted = await self._pool_log.act_on_worker(
            self.worker_id,
            Start(host=host, pid=os.getpid(), start_time=start_time),
            epoch=self.epoch,
            worker=ordered.worker if ordered is not None else None,
        )
        worker = acted.worker
        if worker is None or worker.epoch != self.epoch or not worker.alive:
            raise NotOrdered(f"worker {self.worker_id} was not ordered, or not in time")
        return worker.max_agents

    async def write(self, command: WorkerCommand) -> Worker | None:
        """Carry out a command on the worker, however long Redis is unreachable: to be cancelled.

        Returns the worker as it is then; None if it is not ours any more.
        """
        acted = await retry(
            Backoff("worker", worker_id=self.worker_id),
            lambda: self._pool_log.act_on_worker(self.worker_id, command, epoch=self.epoch),
        )
        worker = acted.worker
        return worker if worker is not None and worker.epoch == self.epoch else None

    async def report_running(self, runs: Iterable[AgentRun]) -> None:
        """Report every agent that runs here. What cannot be written is only logged."""
        pool_log = self._pool_log
        generation, ts = pool_log.high_water_mark()[0], pool_log.now_ms()
        reports = [
            LossReport(
                reporter=f"worker:{self.worker_id}",
                kind=AGENT_HELD,
                agent_id=run.agent_id,
                incarnation=run.incarnation,
                generation=generation,
                seq=run.state.claim_seq,
                ts=ts,
                save=run.state.save,
                sha256=run.state.state_sha256,
            )
            for run in runs
        ]
        log.error("log.lost", pool=pool_log.pool, worker_id=self.worker_id, agents=len(reports))
        try:
            await write_reports(pool_log.log, pool_log.pool, reports)
        except LogError as error:
            log.warning("log.report_failed", pool=pool_log.pool, error=str(error))

    async def drain(
        self,
        slots: Slots,
        reason: str,
        seconds: float,
        on_empty: Callable[[], Awaitable[None]],
        *,
        ordered: bool = True,
    ) -> ShutdownResult:
        """Release all agents and stop the worker in time; to be cancelled on a lost lease.

        `on_empty` is awaited when no agent is left: from then on no lease is needed, and the
        present one ends with `worker.stopped`.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        self.leaves_agents = not (ordered or await self._order_comes())
        log.info(
            "worker.draining",
            reason=reason,
            ordered=not self.leaves_agents,
            agents=len(slots.runs),
            seconds=seconds,
        )
        try:
            async with asyncio.timeout_at(deadline):
                await self._release_all(slots, reason, deadline - seconds * (1 - GRACE_SHARE))
                if slots.stuck:
                    return ShutdownResult.STUCK
                if self.leaves_agents and await self._pool_log.held(self.worker_id):
                    return ShutdownResult.NOT_ORDERED
                await on_empty()
                stopped = await self.write(StopWorker(reason=reason))
                return ShutdownResult.STOPPED if stopped is not None else ShutdownResult.LOST
        except TimeoutError:
            slots.request_stop_all(StopRequest.ABANDON, "drain-timeout")
            await slots.wait_until_empty(1.0)
            return ShutdownResult.LATE

    async def _order_comes(self) -> bool:
        """Whether the log says that the worker is to drain, or does so soon."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ORDER_SECONDS
        while True:
            with contextlib.suppress(LogError):
                found = await self._pool_log.worker(self.worker_id)
                if found is None or found.worker.draining or found.worker.ended:
                    return True
            if clock() >= deadline:
                return False
            await asyncio.sleep(ORDER_POLL_SECONDS)

    async def _release_all(self, slots: Slots, reason: str, grace_ends_at: float) -> None:
        worker = await self.write(Drain(reason=reason))
        if worker is None or worker.ended:
            slots.request_stop_all(StopRequest.ABANDON, "lost")
        await retry(Backoff("claim", worker_id=self.worker_id), slots.recover_claims)
        drained_by = worker.last_event_id if worker is not None and worker.draining else ""
        slots.request_stop_all(StopRequest.RELEASE, reason, drained_by)
        if not await slots.wait_until_empty(grace_ends_at - asyncio.get_running_loop().time()):
            slots.request_stop_all(StopRequest.RELEASE_NOW, reason)
            await slots.wait_until_empty()
