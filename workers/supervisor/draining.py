"""Drains of workers that are ordered in the log: at a deadline, or because they are replaced."""

from eventstore.ids import new_id
from eventstore.language import workers
from eventstore.language.events import WorkerRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.replacement import REPLACED
from eventstore.language.workers import Worker
from eventstore.log.pool_log import PoolLog
from eventstore.log.survey import ObservedWorker, Survey
from eventstore.steps.step import Step


async def drain_due(pool_log: PoolLog, survey: Survey, config: PoolConfig) -> None:
    """Drain those whose deadline has come, or which are empty before it.

    One that has changed since the survey, which may be uncordoned, is left to the next round.
    """
    for observed in survey.workers:
        worker = observed.worker
        if worker.alive and not worker.draining and is_drain_due(observed, survey.ts):
            step = pool_log.step()
            add_drain(step, worker, worker.cordoned, config, survey.ts)
            await pool_log.commit(step)


def is_drain_due(observed: ObservedWorker, now_ms: int) -> bool:
    drain_ms = observed.worker.drain_ms
    return drain_ms > 0 and (drain_ms <= now_ms or observed.agent_count == 0)


def add_drain(step: Step, worker: Worker, reason: str, config: PoolConfig, now_ms: int) -> None:
    """Drain it, and if it is replaced in a paused pool, order the one that replaces it.

    Nothing else does that there. It is of the same host, where it may start when the other one has
    ended.
    """
    step.worker(worker.worker_id, worker, workers.decide(workers.Drain(reason=reason), worker))
    if config.paused is not None and reason == REPLACED:
        order = WorkerRequested(
            host=worker.host,
            max_agents=config.agents_per_worker,
            deadline_ms=now_ms + int((config.drain_seconds + config.launch_seconds) * 1000),
            reason=REPLACED,
        )
        step.worker(new_id(), None, (order,), causation_id=step.events[-1].event_id)
