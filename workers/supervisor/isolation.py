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
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.survey import Survey
from eventstore.steps.step import Origin
from workers.supervisor.liveness import Stopwatch
from workers.supervisor.reaper import one_agent

log = structlog.get_logger("muster.suspects")

TURNS: Final = 10
"""How many agents take turns in a worker, one after the other, within a suspicion window."""
AT_ONCE: Final = 50
"""How many are cleared in one look; the others in the next."""


def waiting_max(config: PoolConfig) -> int:
    """How many may wait: as many as have a turn in time, and as two agents can have hurt."""
    return min(config.alone_limit * TURNS, 2 * config.agents_per_worker)


def crowded(survey: Survey, config: PoolConfig) -> bool:
    """Whether others wait for what those that run alone have."""
    workers = [o.worker for o in survey.workers if not o.worker.ended]
    coming = sum(worker.status is WorkerStatus.REQUESTED for worker in workers)
    room = survey.free + coming * config.agents_per_worker
    full = len(workers) >= config.max_workers and survey.waiting > room
    return bool(survey.waiting_alone) or full


def over(alone_seconds: float, config: PoolConfig) -> bool:
    """Whether one that has run alone for so long has had its turn, where it is crowded."""
    return alone_seconds >= config.suspicion_window_seconds / TURNS


def lapsed(waiting: Sequence[tuple[str, int]], survey: Survey, config: PoolConfig) -> list[str]:
    """Those of (agent id, since when in ms of log time) that have waited for a whole window."""
    until_ms = survey.ts - int(config.suspicion_window_seconds * 1000)
    return [agent_id for agent_id, since_ms in waiting if since_ms <= until_ms]


class Suspects:
    """Those of one pool, as its leader sees them."""

    def __init__(self, events: Log, origin: Origin) -> None:
        self._events = events
        self._origin = origin
        self._running = Stopwatch()

    async def look(self, pool: str, survey: Survey, config: PoolConfig, now: float) -> None:
        """Clear those that need not be alone any more, or cannot."""
        held = [o.alone for o in survey.workers if o.alone]
        if not crowded(survey, config) and (config.suspicion_window_seconds or not held):
            return
        listed = await self._events.waiting_alone(pool, AT_ONCE)
        if not config.suspicion_window_seconds:
            everybody = (*held, *(agent_id for agent_id, _ in listed))
            await self._clear(pool, everybody, "suspicion-off")
            return
        tried = await self._on_trial(pool, held)
        seconds = self._running.look(tried, now)
        had_turn = [tried[life] for life, alone in seconds.items() if over(alone, config)]
        await self._clear(pool, had_turn, "turn-over")
        await self._clear(pool, lapsed(listed, survey, config), "not-tried")
        beyond = await self._events.waiting_alone(pool, AT_ONCE, first=waiting_max(config))
        await self._clear(pool, [agent_id for agent_id, _ in beyond], "too-many")

    async def _on_trial(self, pool: str, held: Sequence[str]) -> dict[str, str]:
        """Those that run, by their incarnations: one that is still to start has shown nothing."""
        tried = {}
        for agent_id in held:
            async with one_agent(self._events, pool, agent_id):
                agent = await self._events.agent(pool, agent_id)
                if agent is not None and agent.alone and agent.status is Status.RUNNING:
                    tried[f"{agent_id}:{agent.incarnation}"] = agent_id
        return tried

    async def _clear(self, pool: str, agent_ids: Sequence[str], reason: str) -> None:
        for agent_id in agent_ids:
            async with one_agent(self._events, pool, agent_id):
                clear = Clear(reason=reason)
                acted = await self._events.act(pool, agent_id, clear, self._origin)
                if acted.outcome is Outcome.DONE:
                    log.info("agent.cleared", pool=pool, agent_id=agent_id, reason=reason)
