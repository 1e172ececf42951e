"""What a worker writes about itself: that it starts, drains, recovers, stops, and, when its log is
lost, which agents it runs.

The recovery compares that report with the archive. The worker itself goes on until its lease
lapses; in the recovered log none of its agents is its own.
"""

import os
from collections.abc import Iterable

import structlog

from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError, MusterError
from eventstore.language.workers import Start, Worker, WorkerCommand
from eventstore.log.pool_log import PoolLog
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, write_reports
from workers.runtime.agent_run import AgentRun

log = structlog.get_logger("muster.survey_report")


class NotOrdered(MusterError):
    """The order for this worker is gone: it lapsed, or was carried out before."""


class Registration:
    """One worker in the log of its pool."""

    def __init__(self, pool_log: PoolLog, worker_id: str) -> None:
        self._pool_log = pool_log
        self.worker_id = worker_id
        self.epoch = 0

    async def register(self, host: str, start_time: int) -> int:
        """Turn the order into a worker; returns how many slots it has.

        Raises `NotOrdered`, or `LogError` when Redis does not answer.
        """
        self.epoch = await self._pool_log.allocate_epoch()
        command = Start(host=host, pid=os.getpid(), start_time=start_time)
        acted = await self._pool_log.act_on_worker(self.worker_id, command, epoch=self.epoch)
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
            )
            for run in runs
        ]
        log.error("log.lost", pool=pool_log.pool, worker_id=self.worker_id, agents=len(reports))
        try:
            await write_reports(pool_log.log, pool_log.pool, reports)
        except LogError as error:
            log.warning("log.report_failed", pool=pool_log.pool, error=str(error))
