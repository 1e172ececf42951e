"""Agents that are to run alone, where there are more of them than workers for them.

Each waits for an empty worker, and would have it for the whole suspicion window. While others wait
as well, for one of their own or for any slot that the pool may not have more of, they take turns, a
tenth of the window long, so that as many as ten a worker come by within it. One agent makes
suspects of those beside it: where more wait than two workers hold the cause lies elsewhere (a host
that fails, or that has too much to do already), and those beyond share at once. Nobody waits for
longer than the window: where no worker is to be had, because the pool is full of others that stay,
the suspicion lapses as it does for one that was lost once.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from eventstore.language.agent_commands import Clear
from eventstore.language.agents import Status
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import WorkerStatus
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Outcome
from eventstore.log.survey import Survey
from workers.supervisor.liveness import Stopwatch
from workers.supervisor.reaper import handle_agent_errors

log = structlog.get_logger("muster.isolation")

TURNS_PER_WINDOW: Final = 10
"""How many agents take turns in a worker, one after the other, within a suspicion window."""
CLEAR_BATCH: Final = 50
"""How many are cleared in one look; the others in the next."""


def waiting_max(config: PoolConfig) -> int:
    """How many may wait: as many as have a turn in time, and as two agents can have hurt."""
    return min(config.isolation_limit * TURNS_PER_WINDOW, 2 * config.agents_per_worker)


def contended(survey: Survey, config: PoolConfig) -> bool:
    """Whether others wait for what those that run alone have."""
    workers = [o.worker for o in survey.workers if not o.worker.ended]
    ordered = sum(worker.status is WorkerStatus.REQUESTED for worker in workers)
    free_slots = survey.free + ordered * config.agents_per_worker
    full = len(workers) >= config.max_workers and survey.waiting > free_slots
    return bool(survey.waiting_isolated) or full


def turn_ended(isolated_seconds: float, config: PoolConfig) -> bool:
    """Whether one that has run alone for so long has had its turn, where it is crowded."""
    return isolated_seconds >= config.suspicion_window_seconds / TURNS_PER_WINDOW


def expired(waiting: Sequence[tuple[str, int]], survey: Survey, config: PoolConfig) -> list[str]:
    """Those of (agent id, since when in ms of log time) that have waited for a whole window."""
    until_ms = survey.ts - int(config.suspicion_window_seconds * 1000)
    return [agent_id for agent_id, since_ms in waiting if since_ms <= until_ms]


class Suspects:
    """Those of one pool, as its leader sees them."""

    def __init__(self, pool_log: PoolLog) -> None:
        self._pool_log = pool_log
        self._isolated_times = Stopwatch()

    async def reconcile(self, survey: Survey, config: PoolConfig, now: float) -> None:
        """Clear those that need not be alone any more, or cannot."""
        isolated = [o.isolated_agent for o in survey.workers if o.isolated_agent]
        if not contended(survey, config) and (config.suspicion_window_seconds or not isolated):
            return
        waiting = await self._pool_log.waiting_isolated(CLEAR_BATCH)
        if not config.suspicion_window_seconds:
            agent_ids = (*isolated, *(agent_id for agent_id, _ in waiting))
            await self._clear(agent_ids, "suspicion-off")
            return
        running = await self._running_isolated(isolated)
        seconds = self._isolated_times.observe(running, now)
        had_turn = [
            running[run_key]
            for run_key, isolated_seconds in seconds.items()
            if turn_ended(isolated_seconds, config)
        ]
        await self._clear(had_turn, "turn-over")
        await self._clear(expired(waiting, survey, config), "not-tried")
        excess = await self._pool_log.waiting_isolated(CLEAR_BATCH, offset=waiting_max(config))
        await self._clear([agent_id for agent_id, _ in excess], "too-many")

    async def _running_isolated(self, agent_ids: Sequence[str]) -> dict[str, str]:
        """Those that run, by their incarnations: one that is still to start has shown nothing."""
        running = {}
        for agent_id in agent_ids:
            async with handle_agent_errors(self._pool_log, agent_id):
                agent = await self._pool_log.agent(agent_id)
                if agent is not None and agent.alone and agent.status is Status.RUNNING:
                    running[f"{agent_id}:{agent.incarnation}"] = agent_id
        return running

    async def _clear(self, agent_ids: Sequence[str], reason: str) -> None:
        for agent_id in agent_ids:
            async with handle_agent_errors(self._pool_log, agent_id):
                acted = await self._pool_log.act(agent_id, Clear(reason=reason))
                if acted.outcome is Outcome.DONE:
                    pool = self._pool_log.pool
                    log.info("agent.cleared", pool=pool, agent_id=agent_id, reason=reason)
