"""One pool, as one host's supervisor tends it: one survey, then what every supervisor does, then
what the leader does. What goes wrong in one round is seen again in the next.
"""

from eventstore.log.log import Log
from eventstore.log.survey import Survey
from workers.host.clock import boot_seconds
from workers.supervisor.leader import Catalogued, Leader
from workers.supervisor.polling import pause
from workers.supervisor.worker_monitor import LocalWorkers, Watch


class Steward:
    """Tends one pool. Not to be used by two tasks at once."""

    def __init__(
        self,
        host: str,
        events: Log,
        local: LocalWorkers,
        catalogued: Catalogued,
        *,
        poll_seconds: float,
    ) -> None:
        self._events = events
        self._catalogued = catalogued
        self._poll_seconds = poll_seconds
        self._watch = Watch(host, events, local, catalogued.pool)
        self._leader = Leader(host, events, self._watch, catalogued, poll_seconds=poll_seconds)
        self._leaving = False

    async def tend(self) -> float:
        """Look after the pool once; returns after how many seconds to look again at the latest."""
        survey = await self._events.survey(self._catalogued.pool().pool_name)
        now = boot_seconds()  # not before: what has just been seen would count as old
        for damage in survey.unreadable:
            await self._events.park(self._catalogued.pool().pool_name, damage)
        await self._watch.look(survey, now)
        if self._leaving:
            await self.resign()
        else:
            await self._leader.look(survey, now)
        return self._next_look(survey, boot_seconds() - now)

    def leave(self, reason: str) -> None:
        """From now on drain this host's workers, and leave the lead to another host."""
        self._leaving = True
        self._watch.draining = reason

    async def resign(self) -> None:
        await self._leader.resign()

    def _next_look(self, survey: Survey, spent: float) -> float:
        """`spent`: seconds since the survey. They count, or one that is slow would be blind."""
        seconds = pause(
            survey,
            self._catalogued.pool(),
            poll_seconds=self._poll_seconds,
            uneasy=self._watch.uneasy,
        )
        if self._leader.leads:
            for _, at_ms in (*survey.due[:1], *survey.timeouts[:1]):
                seconds = min(seconds, (at_ms - survey.ts) / 1000)
        return max(seconds - spent, seconds / 4, 0.01)
