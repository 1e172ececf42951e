"""What a worker writes about itself: that it starts, drains, recovers, stops."""

import asyncio
import os

from eventstore.errors import LogError, MusterError
from eventstore.language.workers import Start, Worker, WorkerCommand
from eventstore.log.log import Log
from eventstore.steps.step import Origin
from workers.runtime.backoff import Backoff


class NotOrdered(MusterError):
    """The order for this worker is gone: it lapsed, or was carried out before."""


class Registration:
    """One worker in the log of its pool."""

    def __init__(self, log: Log, pool: str, worker_id: str) -> None:
        self.log = log
        self.pool = pool
        self.worker_id = worker_id
        self.origin = Origin(actor=f"worker:{worker_id}")
        self.epoch = 0

    async def register(self, host: str, start_time: int) -> int:
        """Turn the order into a worker; returns how many agents it may hold.

        Raises `NotOrdered`, or `LogError` when Redis does not answer.
        """
        self.epoch = await self.log.allocate_epoch(self.pool)
        command = Start(host=host, pid=os.getpid(), start_time=start_time)
        acted = await self.log.act_on_worker(
            self.pool, self.worker_id, command, self.origin, epoch=self.epoch
        )
        worker = acted.worker
        if worker is None or worker.epoch != self.epoch or not worker.alive:
            raise NotOrdered(f"worker {self.worker_id} was not ordered, or not in time")
        return worker.max_agents

    async def write(self, command: WorkerCommand) -> Worker | None:
        """Carry out a command on the worker, however long Redis is away: to be cancelled.

        Returns the worker as it is then; None if it is not ours any more.
        """
        backoff = Backoff("worker", worker_id=self.worker_id)
        while True:
            try:
                acted = await self.log.act_on_worker(
                    self.pool, self.worker_id, command, self.origin, epoch=self.epoch
                )
            except LogError as error:
                await asyncio.sleep(backoff.next_delay(error))
                continue
            worker = acted.worker
            return worker if worker is not None and worker.epoch == self.epoch else None
