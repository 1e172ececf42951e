"""What needs attention. An alert says what, since when, about whom, and what to do.

Every gateway answers from what it knows itself: what is open in common adds the ids, and what only
others know (`gateway/health/alert_watch.py`).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from eventstore.keys import CATALOGUE
from eventstore.language.agents import TERMINAL, Status
from gateway.alerts.alerts import Alert, Verdict, evaluate, ordered
from gateway.alerts.ledger import current
from gateway.alerts.rules import RULES
from gateway.backend.backend import Backend
from gateway.following.incidents import LOOP_FAILURES, RECALLED, RECALLED_MS
from gateway.health.alert_facts import gather, own_facts
from gateway.wire.problems import Problem
from projector.queries.views import EventRow

OWN: Final = {name: rule for name, rule in RULES.items() if rule.own}
"""Rules about what only the gateway itself knows."""
TAIL_SECONDS: Final = 0.5
TAIL_POLL_SECONDS: Final = 0.005
RECALLED_MAX: Final = 1_000


async def current_alerts(backend: Backend) -> list[Alert]:
    """All alerts that apply now, the critical ones first; also while the database is away."""
    await _follow_views(backend)
    verdict = evaluate(await gather(backend))
    verdict = replace(verdict, undecided=verdict.undecided | OWN.keys())
    return ordered(current(verdict, backend.ledger.open))


async def _follow_views(backend: Backend) -> None:
    """Wait until this gateway has followed the logs as far as the views have them, if it does soon.

    What went wrong is known from the events: who knows of one from the views must find it here.
    """
    try:
        async with backend.read_views():
            positions = await backend.positions()
    except Problem:
        return
    deadline, tail = time.monotonic() + TAIL_SECONDS, backend.tail
    followed = {p: at.seq for p, at in positions.items() if p in tail.heads}
    while tail.following and time.monotonic() < deadline:
        if all(tail.heads[p].seq >= seq or p in tail.stopped for p, seq in followed.items()):
            return
        await asyncio.sleep(TAIL_POLL_SECONDS)


def own_alerts(backend: Backend) -> list[Alert]:
    """Those that only this gateway can know of."""
    return list(evaluate(own_facts(backend), OWN).alerts.values())


def with_others(verdict: Verdict, reported: Sequence[Alert]) -> Verdict:
    """A verdict, and what other gateways know."""
    return replace(verdict, alerts={**{one.key: one for one in reported}, **verdict.alerts})


async def recall_incidents(backend: Backend) -> None:
    """Read from the archive what went wrong before this gateway followed the logs.

    Raises `Problem`.
    """
    now_ms = backend.log.now_ms
    async with backend.read_views() as views:
        since = min(map(now_ms, (CATALOGUE, *backend.known_pools()))) - RECALLED_MS
        events = await views.recent(RECALLED, since_ms=since, limit=RECALLED_MAX)
        agents = await views.failures_of(sorted({one.subject for one in events}))
    for one in reversed(events):
        if _counts(one, *agents.get(one.subject, ("", 0))):
            backend.incidents.add(one.pool, one.type, one.subject, one.ts, one.data.encode())


def _counts(event: EventRow, status: str, failures: int) -> bool:
    """Whether it was not followed by an end or a restart."""
    if event.type == "agent.failed":
        return status == Status.FAILED
    return event.type == "worker.lost" or (status not in TERMINAL and failures >= LOOP_FAILURES)
