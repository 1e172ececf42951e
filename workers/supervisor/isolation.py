"""Agents under suspicion that cannot be isolated: they share a worker again.

An agent that was lost twice within the suspicion window waits for an empty worker. It waits for as
long as one can be had, and never longer than the window, on whose losses the suspicion rests.
Where none can be had (so many are isolated as may be, or the pool is at its maximum and all workers
hold agents) it waits for a tenth of the window. Of those that wait no more than may be isolated at
the same time go on waiting: where one agent kills its worker there are few suspects; where there
are many, a host fails or has too much to do, and each more worker makes that worse. Which of them
share is left to chance, so that the one that kills is isolated in the end.
"""

import random
from collections.abc import Iterable
from typing import Final

import structlog

from eventstore.language.agent_commands import Clear
from eventstore.language.pool_config import PoolConfig
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Outcome
from eventstore.log.survey import Survey
from workers.supervisor.reaper import handle_agent_errors

log = structlog.get_logger("muster.isolation")

WAIT_SHARE: Final = 0.1
"""The part of the suspicion window for which an agent waits where no worker can be had."""
CLEAR_BATCH: Final = 50
"""How many are cleared in one round; the others in the next."""


async def clear_suspects(pool_log: PoolLog, survey: Survey, config: PoolConfig) -> None:
    """Clear those that need not be isolated any more, or cannot."""
    isolated = [o.isolated_agent for o in survey.workers if o.isolated_agent]
    if not (survey.waiting_isolated or (isolated and not config.suspicion_window_seconds)):
        return
    listed = await pool_log.waiting_isolated(config.isolation_limit + CLEAR_BATCH)
    if not config.suspicion_window_seconds:
        waiting = [agent_id for agent_id, _ in listed]
        await _clear(pool_log, (*isolated, *waiting), "suspicion-off")
        return
    expired_ms = survey.ts - int(max_wait_seconds(survey, config) * 1000)
    expired = [agent_id for agent_id, since_ms in listed if since_ms <= expired_ms]
    await _clear(pool_log, expired, "not-tried")
    waiting = [agent_id for agent_id, since_ms in listed if since_ms > expired_ms]
    excess = max(len(waiting) - config.isolation_limit, 0)
    await _clear(pool_log, random.sample(waiting, excess), "too-many")


def max_wait_seconds(survey: Survey, config: PoolConfig) -> float:
    """For how long an agent may wait to be isolated."""
    workers = [o for o in survey.workers if not (o.worker.ended or o.worker.draining)]
    isolated = sum(bool(o.isolated_agent) for o in workers)
    empty_or_new = len(workers) < config.max_workers or any(
        o.agent_count == 0 and not (o.stalled or o.worker.cordoned) for o in workers
    )
    available = isolated < config.isolation_limit and empty_or_new
    return config.suspicion_window_seconds * (1.0 if available else WAIT_SHARE)


async def _clear(pool_log: PoolLog, agent_ids: Iterable[str], reason: str) -> None:
    for agent_id in agent_ids:
        async with handle_agent_errors(pool_log, agent_id):
            acted = await pool_log.act(agent_id, Clear(reason=reason))
            if acted.outcome is Outcome.DONE:
                log.info("agent.cleared", pool=pool_log.pool, agent_id=agent_id, reason=reason)
