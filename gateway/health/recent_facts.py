"""What is not read again for each decision about alerts, as nothing says that it has changed.

The views change only with the logs, which a gateway follows. So they are read again for a while
when a log has moved, Redis or the projector says something else, or a read of them has failed, and
while they are behind or show anything that an alert may be about; otherwise once a minute. What
only changes slowly is read once a minute, too.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from eventstore.language.alerts import Case
from gateway.alerts.facts import ViewFacts, Waiting
from gateway.backend.agent_rows import with_blocked
from gateway.backend.backend import Backend
from gateway.health import facts
from gateway.health.slow_facts import SlowFacts, read_slow_facts
from gateway.wire.problems import Problem

CHANGING_PARTS: Final = 4
"""For this part of that time the views are read each time after something changed."""


class ViewAnswers(Struct, frozen=True):
    """What the views say. `pools`: fields of `PoolFacts`, of those pools that have any."""

    error: str = ""
    """Why they cannot be read."""
    pools: dict[str, dict[str, Any]] = {}
    logs: Sequence[ViewFacts] = ()

    @property
    def settled(self) -> bool:
        """Whether they say the same until something happens."""
        followed = all(log.status == "ok" and log.seq >= log.head for log in self.logs)
        return followed and not self.error and not self.pools


class RecentFacts:
    """Of one gateway. What it has read is good for so many seconds; 0: for one answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers = ViewAnswers()
        self._circumstances: object = None
        """When they were read last."""
        self._changed_at = self._read_at = 0.0
        self._slow: tuple[float, SlowFacts] | None = None

    async def views(
        self, backend: Backend, pools: Sequence[str] | None, *seen: object
    ) -> ViewAnswers:
        """What the views say of these pools (None: of all). `seen`: what else is known now."""
        now, circumstances = time.monotonic(), (_followed(backend), seen)
        if circumstances != self._circumstances:
            self._circumstances, self._changed_at = circumstances, now
        changed_for, age = now - self._changed_at, now - self._read_at
        settled = self._answers.settled and changed_for >= self._seconds / CHANGING_PARTS
        if not settled or age >= self._seconds:
            self._answers, self._read_at = await _read_views(backend, pools), now
        return self._answers

    async def slow(self, backend: Backend) -> SlowFacts:
        """What changes slowly."""
        now = time.monotonic()
        if self._slow is None or now - self._slow[0] >= self._seconds:
            self._slow = now, await read_slow_facts(backend)
        return self._slow[1]


def _followed(backend: Backend) -> object:
    """What this gateway has observed of the logs and the views."""
    heads = {pool: head.seq for pool, head in backend.tail.heads.items()}
    return heads, backend.views_error, backend.views_failures


async def _read_views(backend: Backend, pools: Sequence[str] | None) -> ViewAnswers:
    try:
        details = await _pool_details(backend, pools)
        return ViewAnswers(pools=details, logs=await facts.view_facts(backend))
    except Problem as problem:
        return ViewAnswers(str(problem))


async def _pool_details(backend: Backend, pools: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Raises `Problem`."""
    async with backend.read_views() as views:
        waiting = await views.waiting(pools)
        rows = {pool: await views.pool(pool) for pool in waiting}
        lost = await views.lost_states()
    oldest = await with_blocked(backend, [one.oldest for one in waiting.values()])
    reasons = {row.pool_name: row for row in oldest}
    details = defaultdict[str, dict[str, Any]](dict)
    for pool, one in waiting.items():
        found, row, agent = details[pool], rows[pool], reasons[pool]
        newest = tuple(Case(agent_id, ts) for agent_id, ts in one.newest)
        found["waiting"] = Waiting(
            count=one.count, since_ms=agent.changed_at, reason=agent.reason, newest=newest
        )
        if row is not None:
            found["maximum"] = int(str(row.config.get("max_workers", 0)))
            found["workers"], found["free"] = row.process_count, row.available_capacity
    states = defaultdict[str, list[Case]](list)
    for agent_state in lost:
        text = f"save {agent_state.save}"
        case = Case(agent_state.agent_id, agent_state.changed_ms, text)
        states[agent_state.pool_name].append(case)
    for pool, cases in states.items():
        details[pool]["lost_states"] = tuple(cases)
    return dict(details)
