"""Drains of workers that are ordered in the log: at a deadline, or because they are replaced."""

from typing import Final

from eventstore.ids import new_id
from eventstore.language import workers
from eventstore.language.events import WorkerRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.replacement import REPLACED
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.survey import ObservedWorker, Survey
from eventstore.steps import clauses

COUNTED: Final = frozenset({WorkerStatus.REQUESTED, WorkerStatus.ACTIVE, WorkerStatus.SUSPECT})
"""What counts as a worker of a pool, if it does not drain."""


class Draining:
    """The drains of one pool in one round of its leader."""

    def __init__(
        self, pool_log: PoolLog, lead: Leadership, survey: Survey, config: PoolConfig
    ) -> None:
        self._pool_log = pool_log
        self._lead = lead
        self._survey = survey
        self._config = config
        self._staying = sum(
            o.worker.status in COUNTED and not o.worker.draining for o in survey.workers
        )

    async def drain_due(self) -> None:
        """Drain those whose deadline has come, or which are empty before it."""
        for observed in self._survey.workers:
            worker = observed.worker
            if worker.alive and not worker.draining and is_drain_due(observed, self._survey.ts):
                await self.drain(worker, worker.cordoned)

    async def drain(self, worker: Worker, reason: str) -> None:
        """Drain it, and if it is replaced in a paused pool, order the one that replaces it.

        Nothing else does that there. It is of the same host, where it may start when the other one
        has ended. A pool that has more workers than it may gets none. A worker that has changed
        since the survey, which may be uncordoned, is left to the next round.
        """
        step = self._pool_log.step()
        step.check(clauses.Leads(self._lead.host, self._lead.term))
        step.worker(worker.worker_id, worker, workers.decide(workers.Drain(reason=reason), worker))
        left, config = self._staying - 1, self._config
        if config.paused is not None and reason == REPLACED and left < config.max_workers:
            order = WorkerRequested(
                host=worker.host,
                max_agents=config.agents_per_worker,
                deadline_ms=self._survey.ts
                + int((config.drain_seconds + config.launch_seconds) * 1000),
                reason=REPLACED,
            )
            step.worker(new_id(), None, (order,), causation_id=step.events[-1].event_id)
            left += 1
        if (await self._pool_log.commit(step)).outcome is Outcome.DONE:
            self._staying = left


def is_drain_due(observed: ObservedWorker, now_ms: int) -> bool:
    drain_ms = observed.worker.drain_ms
    return drain_ms > 0 and (drain_ms <= now_ms or observed.agent_count == 0)
