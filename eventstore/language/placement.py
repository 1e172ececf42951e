"""Which worker gets which waiting agent, in a pool with a placer: a pure function.

First the order: by priority, then agents that ran before, then those that have waited longest; with
weights the next agent is of the project that has the fewest for its weight. Caps hold agents back,
which delays no other; an agent counts from its first start until its end. Then the worker: `spread`
takes the least loaded, `pack` the fullest, `affinity` one that has the project, `resource` the one
with the least pressure.

Lives: an agent that is expected to end late goes where others do, so that other workers become
empty. The expected ends are compared on a coarse scale, as an estimate is.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from math import log
from typing import Final, TypeAlias

from msgspec import Struct

from eventstore.language.placement_policy import (
    LABEL_CAP,
    OTHERS,
    PROJECT_CAP,
    Cap,
    PlacementPolicy,
)

PRESSURE_STEPS: Final = 10
"""Differences of pressure below a tenth count as none: it is measured every few seconds."""
PRESSURE_MIN: Final = 0.5
"""So much do the agents of a full worker use, at least, until that is measured."""
LIFE_MIN_SECONDS: Final = 60.0
LIFE_FACTOR: Final = 8.0
"""Lives that differ by less are alike: a minute, 8 minutes, an hour, 9 hours, 3 days, …"""
NEIGHBOUR: Final = 1
EMPTY_WORKER: Final = 2
"""An empty worker is taken rather than one whose agents end much earlier or later."""

Kind: TypeAlias = tuple[int, int, int, int]
"""Agents, slots, pressure in steps, and on which step of lives the last agent ends (-1: not known):
what the choice among all workers depends on. Many workers are of the same kind."""


class Candidate(Struct, frozen=True, kw_only=True):
    """An agent as placement sees it: one that waits, or is in a slot."""

    agent_id: str
    project_id: str = ""
    labels: Mapping[str, str] = {}
    priority: int = 0
    expected_seconds: float | None = None
    returns: bool = False
    """It waits, but ran before: it counts already, and no cap holds it back."""
    claimed_ms: int = 0
    """Since when it is in its slot."""


class Room(Struct, frozen=True, kw_only=True):
    """A worker with its agents. `accepts`: whether it may get others."""

    worker_id: str
    slots: int
    agents: Collection[Candidate] = ()
    accepts: bool = True
    host: str = ""
    pressure: float = 0.0
    """How much of the scarcest resource is in use, of the worker and its host: 0 to 1 and more."""


class Placement(Struct, frozen=True):
    """What to do, in this order, and which agents caps hold back."""

    assignments: tuple[tuple[str, str], ...]
    """(agent id, worker id)"""
    held_back: Mapping[str, Cap]
    """By agent id; of those that were considered."""


def place(
    waiting: Iterable[Candidate],
    workers: Sequence[Room],
    policy: PlacementPolicy,
    *,
    now_ms: int,
    limit: int = 100,
) -> Placement:
    """Choose workers for at most `limit` of those that wait, which come in their order.

    No worker gets more than its slots, no project or label more than its cap.
    """
    queue, rooms = _Queue(waiting, workers, policy), _Rooms(workers, policy, now_ms)
    agents, assignments = iter(queue), list[tuple[str, str]]()
    while rooms.open and len(assignments) < limit and (agent := next(agents, None)):
        assignments.append((agent.agent_id, rooms.book(agent)))
    return Placement(tuple(assignments), queue.held_back)


def held_back(
    waiting: Iterable[Candidate], workers: Sequence[Room], policy: PlacementPolicy
) -> Mapping[str, Cap]:
    """Those that caps would hold back however many slots were free, by agent id."""
    queue = _Queue(waiting, workers, policy)
    deque(queue, maxlen=0)
    return queue.held_back


# ---- order -----------------------------------------------------------------------------------


class _Queue:
    """Yields what is next; each one that it yields is counted as placed."""

    def __init__(
        self, waiting: Iterable[Candidate], workers: Sequence[Room], policy: PlacementPolicy
    ) -> None:
        self.held_back: dict[str, Cap] = {}
        self._policy = policy
        self._projects: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        numbered = list(enumerate(waiting))
        if policy.has_caps or policy.project_weights:
            returning = (agent for _, agent in numbered if agent.returns)
            for agent in chain(returning, *(worker.agents for worker in workers)):
                self._count(agent)
        groups: dict[str, deque[tuple[int, Candidate]]] = {}
        numbered.sort(key=lambda one: (-one[1].priority, not one[1].returns, one[0]))
        for at, agent in numbered:
            group = agent.project_id if policy.project_weights else ""
            groups.setdefault(group, deque()).append((at, agent))
        self._groups = groups

    def __iter__(self) -> Iterator[Candidate]:
        groups = self._groups
        heads = [(self._share(name), group[0][0], name) for name, group in groups.items()]
        heapify(heads)
        while heads:
            _, _, name = heappop(heads)
            group = groups[name]
            _, agent = group.popleft()
            if cap := None if agent.returns else self._cap_of(agent):
                self.held_back[agent.agent_id] = cap
            elif not agent.returns:
                self._count(agent)
            if group:
                heappush(heads, (self._share(name), group[0][0], name))
            if not cap:
                yield agent

    def _share(self, project: str) -> float:
        """How much it has for its weight."""
        weights = self._policy.project_weights
        return self._projects[project] / weights.get(project, weights.get(OTHERS, 1.0))

    def _count(self, agent: Candidate) -> None:
        self._projects[agent.project_id] += 1
        if self._policy.label_caps:
            self._labels.update(pairs_of(agent.labels))

    def _cap_of(self, agent: Candidate) -> Cap | None:
        caps, project = self._policy.project_caps, agent.project_id
        limit = caps.get(project, caps.get(OTHERS))
        if limit is not None and self._projects[project] >= limit:
            return Cap(PROJECT_CAP, project, limit)
        caps = self._policy.label_caps
        for pair in pairs_of(agent.labels) if caps else ():
            limit = caps.get(pair, caps.get(pair.partition("=")[0]))
            if limit is not None and self._labels[pair] >= limit:
                return Cap(LABEL_CAP, pair, limit)
        return None


def pairs_of(labels: Mapping[str, str]) -> list[str]:
    """Labels as `name=value`."""
    return [f"{name}={value}" for name, value in labels.items()]


# ---- workers ---------------------------------------------------------------------------------


class _Booked(Struct):
    """A worker while agents are placed."""

    room: Room
    count: int
    pressure: float
    life: int

    @property
    def kind(self) -> Kind:
        return self.count, self.room.slots, int(self.pressure * PRESSURE_STEPS), self.life


class _Rooms:
    """The workers, by kind; of equal ones the oldest is chosen."""

    def __init__(self, workers: Sequence[Room], policy: PlacementPolicy, now_ms: int) -> None:
        self._policy, self._now_ms = policy, now_ms
        self.open: dict[str, _Booked] = {}
        """Those with free slots."""
        self._kinds: dict[Kind, list[str]] = {}
        self._homes: dict[str, dict[str, None]] = {}
        """With `affinity`: where each project has agents."""
        self._separated: Counter[tuple[str, str]] = Counter()
        """How many agents a worker, or a host, has of a value of an anti-affine label."""
        for worker in workers:
            self._add(worker)

    def book(self, agent: Candidate) -> str:
        """Book a slot for it in the best worker; returns which."""
        worker_id = self._best(agent)
        booked = self.open.pop(worker_id)
        alike = self._kinds[booked.kind]
        del alike[bisect_left(alike, worker_id)]
        if not alike:
            del self._kinds[booked.kind]
        slots, count = booked.room.slots, booked.count
        booked.pressure += max(booked.pressure / (count or 1), PRESSURE_MIN / slots)
        booked.count, booked.life = count + 1, max(booked.life, self._life_of(agent))
        self._settle(agent, booked.room)
        self._offer(booked)
        return worker_id

    def _add(self, room: Room) -> None:
        booked = _Booked(room, len(room.agents), room.pressure, -1)
        for agent in room.agents:
            booked.life = max(booked.life, self._life_of(agent))
            self._settle(agent, room)
        if room.accepts:
            self._offer(booked)

    def _offer(self, booked: _Booked) -> None:
        if booked.count < booked.room.slots:
            self.open[booked.room.worker_id] = booked
            insort(self._kinds.setdefault(booked.kind, []), booked.room.worker_id)

    def _settle(self, agent: Candidate, room: Room) -> None:
        if self._policy.strategy == "affinity":
            self._homes.setdefault(agent.project_id, {})[room.worker_id] = None
        for pair in self._separate_of(agent):
            self._separated[pair, room.worker_id] += 1
            self._separated[pair, f"host {room.host}"] += 1

    def _separate_of(self, agent: Candidate) -> list[str]:
        names = self._policy.anti_affinity
        return [f"{name}={agent.labels[name]}" for name in names if name in agent.labels]

    def _life_of(self, agent: Candidate) -> int:
        """On which step of lives it ends; -1: not known.

        What has outlived its estimate is expected to go on for as long as it has done so.
        """
        seconds = agent.expected_seconds
        if seconds is None and (known := self._policy.label_seconds):
            seconds = max((known[p] for p in pairs_of(agent.labels) if p in known), default=None)
        if seconds is None:
            return -1
        if agent.claimed_ms:
            seconds = abs(seconds - (self._now_ms - agent.claimed_ms) / 1000)
        return int(log(max(seconds / LIFE_MIN_SECONDS, 1.0), LIFE_FACTOR))

    def _best(self, agent: Candidate) -> str:
        life, pairs, workers = self._life_of(agent), self._separate_of(agent), self.open
        if pairs:  # as far as there is room elsewhere

            def order(worker_id: str) -> tuple[float, ...]:
                room, count = workers[worker_id].room, self._separated
                near = sum(count[pair, worker_id] for pair in pairs)
                on_host = sum(count[pair, f"host {room.host}"] for pair in pairs)
                return near, on_host, *self._order(workers[worker_id].kind, life)

            return min(workers, key=lambda one: (order(one), one))
        if homes := [one for one in self._homes.get(agent.project_id, ()) if one in workers]:
            return min(homes, key=lambda one: (self._order(workers[one].kind, life), one))
        kind = min(self._kinds, key=lambda one: (self._order(one, life), self._kinds[one][0]))
        return self._kinds[kind][0]

    def _order(self, kind: Kind, life: int) -> tuple[float, ...]:
        """The worker with the least of this is the best."""
        count, slots, pressure, its_life = kind
        distance = _distance(life, its_life, empty=not count)
        match self._policy.strategy:
            case "spread":
                return count / slots, distance
            case "resource":
                return pressure, count / slots, distance
            case _:
                return distance, slots - count


def _distance(life: int, its_life: int, *, empty: bool) -> int:
    """How far apart the ends of an agent and of a worker's agents are."""
    if life < 0 or empty:
        return EMPTY_WORKER if life >= 0 else 0
    steps = NEIGHBOUR if its_life < 0 else abs(life - its_life)
    return steps if steps <= NEIGHBOUR else steps + 1
