"""What `muster top` knows of a Muster: the last answers, and what follows from them."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from muster.cli.client.shapes import AgentAnswer, AlertAnswer, PoolAnswer, WorkerAnswer
from muster.cli.events.lines import RecordedEvent

EVENTS_MAX: Final = 1_000
WAITING: Final = ("pending", "restarting")


class Snapshot(Struct, frozen=True, kw_only=True):
    """The dashboard's data, as far as it is shown."""

    version: str = ""
    fallback: str = ""
    pools: tuple[PoolAnswer, ...] = ()
    workers: tuple[WorkerAnswer, ...] = ()
    agents: dict[str, dict[str, int]] = {}
    events: tuple[dict[str, object], ...] = ()
    alerts: tuple[AlertAnswer, ...] = ()


class Trouble(Struct, frozen=True, kw_only=True):
    """Alerts of one kind."""

    name: str
    severity: str
    count: int
    """Of how many pools, workers or other subjects."""
    since: int | None
    """The oldest one's, in ms since 1970."""
    about: str
    message: str


class Model:
    """Changed only by the feed, in the event loop; read by everything that is drawn."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.agents: Sequence[AgentAnswer] = ()
        """All that have not been terminated, in the order of their ids."""
        self.agents_more = False
        """Whether there are more than were read."""
        self.events: deque[RecordedEvent] = deque(maxlen=EVENTS_MAX)
        """The oldest first."""
        self.by_worker: Mapping[str, list[AgentAnswer]] = {}
        self.changes = 0
        """Counts changes of any part."""
        self.is_read = False
        self.stale = False
        """Whether the views are behind."""
        self.lost_at: float | None = None
        """Since when the gateway does not answer, by the monotonic clock; None: it does."""
        self.problem = ""
        self.refused = False
        """Whether it answers, and refuses."""

    def read_snapshot(self, snapshot: Snapshot, *, stale: bool) -> None:
        self.snapshot, self.stale, self.is_read = snapshot, stale, True
        self.lost_at, self.problem = None, ""
        self.changes += 1

    def read_agents(self, agents: Sequence[AgentAnswer], *, more: bool) -> None:
        self.agents, self.agents_more = agents, more
        by_worker: dict[str, list[AgentAnswer]] = {}
        for agent in agents:
            if agent.process_id:
                by_worker.setdefault(agent.process_id, []).append(agent)
        self.by_worker = by_worker
        self.changes += 1

    def add_event(self, event: RecordedEvent) -> None:
        self.events.append(event)
        self.changes += 1

    def lose(self, problem: str, *, refused: bool = False) -> None:
        """The gateway does not answer, or refuses."""
        if self.lost_at is None:
            self.lost_at = time.monotonic()
        self.problem, self.refused = problem, refused
        self.changes += 1

    @property
    def troubles(self) -> list[Trouble]:
        """What is wrong: alerts grouped by name, the critical ones first, then the oldest."""
        groups: dict[tuple[str, str], list[AlertAnswer]] = {}
        for alert in self.snapshot.alerts:
            groups.setdefault((alert.severity, alert.name), []).append(alert)
        found = [_trouble(alerts) for alerts in groups.values()]
        return sorted(found, key=lambda one: (one.severity != "critical", one.since or 0))

    def waits_for(self, pool: str) -> str:
        """Why agents of a pool wait: the most frequent reason, and how many others there are."""
        reasons = Counter(
            agent.reason.partition(":")[0] or agent.status
            for agent in self.agents
            if agent.pool_name == pool and agent.status in WAITING
        )
        if not reasons:
            return ""
        (reason, number), *others = reasons.most_common()
        more = f", {len(others)} other reasons" if len(others) > 1 else ""
        more = f", {others[0][0]} {others[0][1]}" if len(others) == 1 else more
        return f"{reason} {number}{more}"

    def failed(self, pool: str) -> int:
        """How many agents of a pool are `failed`."""
        return sum(one.pool_name == pool and one.status == "failed" for one in self.agents)


def _trouble(alerts: Sequence[AlertAnswer]) -> Trouble:
    times = [one.since for one in alerts if one.since]
    first = alerts[0]
    abouts = list(dict.fromkeys(filter(None, (one.pool_name or one.subject for one in alerts))))
    return Trouble(
        name=first.name,
        severity=first.severity,
        count=sum(max(one.count, 1) for one in alerts),
        since=min(times, default=None),
        about=_few(abouts),
        message=first.message,
    )


def _few(names: Iterable[str]) -> str:
    first, *others = [*names, ""]
    others = [one for one in others if one]
    return f"{first} and {len(others)} more" if others else first
