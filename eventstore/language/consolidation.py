"""Which workers of a pool to empty, so that fewer are needed: a pure function.

`decide_scale` says how many workers fewer would do if those that hold agents were empty: the
surplus. This chooses them, the cheapest to empty first, and which of their agents are to move now.
A worker is cordoned meanwhile, so that what it releases runs elsewhere; once it is empty, it is
removed as any empty worker is. Where that does not work out, or its slots are needed, it is
uncordoned, and not chosen again for a while.

What is under way is observed, not remembered: the cordons, and which agents were asked to move. So
the next leader goes on from there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

AUTO: Final = "auto"
"""The value of `consolidate` with which a pool's leader moves agents by itself."""
REASON: Final = "consolidation"
"""Why a worker is cordoned whose agents are moved."""
MOVED: Final = "moved"
"""Why these are released."""
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
ANSWER_MS: Final = 30_000
"""An agent that was asked to move may take so long, then it is asked again."""
PATIENCE_MS: Final = 60_000
"""A worker stays cordoned for so long if one of its agents has become busy."""
AGAIN_MS: Final = 300_000
"""A worker that was uncordoned is chosen again after so long."""


class MovePolicy(Struct, frozen=True, kw_only=True):
    """How many agents may be moved; they count as they are asked to."""

    per_minute: int = 20
    per_agent_hour: int = 2
    busy: bool = False
    """Whether busy ones may be."""


class Occupant(Struct, frozen=True, kw_only=True):
    """An agent in a worker. `obstacle`: what keeps it from being moved; empty if nothing does."""

    agent_id: str
    obstacle: str = ""
    saved: bool = False
    """Whether it goes on from a state that it has saved."""


class Occupied(Struct, frozen=True, kw_only=True):
    """A worker and its agents."""

    worker_id: str
    agents: int
    busy: int = 0
    """How many of them were at the last heartbeat."""
    free: int = 0
    """Slots that agents may claim: none in a cordoned worker."""
    emptying: bool = False
    """It is cordoned in order to be emptied."""
    obstacle: str = ""
    """What keeps it from being emptied; empty if nothing does."""
    occupants: tuple[Occupant, ...] | None = None
    """None: they were not read."""


class Fleet(Struct, frozen=True, kw_only=True):
    """The workers of a pool at one time. Times are in milliseconds of log time."""

    ts: int
    workers: tuple[Occupied, ...]
    surplus: int
    """So many workers fewer would do, not counting empty ones."""
    waiting: int = 0
    """Agents that wait for a slot."""
    asked: tuple[tuple[str, int], ...] = ()
    """Agents that were asked to move within the last hour, and when; the latest last."""


class MoveMemory(Struct, frozen=True, kw_only=True):
    """What counts of earlier plans; bounded."""

    emptying: tuple[str, ...] = ()
    busy_since: Mapping[str, int] = {}
    """Workers to be emptied one of whose agents is busy."""
    given_up: Mapping[str, int] = {}
    """Workers that were uncordoned, and when that was seen."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to do, and why, by the ids of workers."""

    victims: tuple[str, ...] = ()
    """All that are to be emptied, one after the other."""
    cordon: tuple[str, ...] = ()
    """Now, as are the next two."""
    uncordon: Mapping[str, str] = {}
    moves: tuple[tuple[str, str], ...] = ()
    """Worker and agent."""
    kept: Mapping[str, str] = {}
    """Why the other workers are not emptied."""
    limit: str = ""
    """The setting that holds back moves now; empty if none does."""

    @property
    def acts(self) -> bool:
        return bool(self.cordon or self.uncordon or self.moves)


def plan_moves(fleet: Fleet, policy: MovePolicy, memory: MoveMemory) -> tuple[Plan, MoveMemory]:
    """Plan, and say what to remember. The same arguments always give the same result."""
    fleet = _with_spent(fleet, policy)
    memory, failed = _remember(fleet, policy, memory)
    victims, kept = _choose(fleet, policy, memory)
    kept |= failed
    if fleet.waiting > sum(one.free for one in fleet.workers):
        kept |= {one.worker_id: "agents wait for its slots" for one in victims}
        victims = []
    present = _within_a_minute(victims, policy)
    chosen = tuple(one.worker_id for one in present)
    moves, limit = _ask(fleet, present, policy)
    plan = Plan(
        victims=tuple(one.worker_id for one in victims),
        cordon=tuple(one.worker_id for one in present if not one.emptying),
        uncordon={
            one.worker_id: kept.get(one.worker_id, "moves_per_minute")
            for one in fleet.workers
            if one.emptying and one.worker_id not in chosen
        },
        moves=moves,
        kept=kept,
        limit=limit,
    )
    given_up = {**memory.given_up, **dict.fromkeys(plan.uncordon, fleet.ts)}
    return plan, replace(memory, emptying=chosen, given_up=given_up)


def shortlist(fleet: Fleet, policy: MovePolicy, count: int) -> list[str]:
    """The workers of whose agents a plan should know more: the first so many that may be chosen."""
    eligible = [one for one in fleet.workers if one.agents and not _obstacle(one, policy)]
    return [one.worker_id for one in sorted(eligible, key=_cost)[:count]]


# ---- which workers --------------------------------------------------------------------------


def _choose(
    fleet: Fleet, policy: MovePolicy, memory: MoveMemory
) -> tuple[list[Occupied], dict[str, str]]:
    """The workers to be emptied, and why the others are not.

    Their agents must find room in the rest. Where some are too many, empty ones are removed anyway.
    """
    victims: list[Occupied] = []
    kept: dict[str, str] = {}
    room = sum(one.free for one in fleet.workers if one.agents) - fleet.waiting
    for one in sorted(fleet.workers, key=_cost):
        if one.worker_id in memory.given_up:
            kept[one.worker_id] = "it was uncordoned a short time ago"
        elif why := _obstacle(one, policy):
            kept[one.worker_id] = why
        elif not (one.agents or one.emptying):
            kept[one.worker_id] = "it is empty"
        elif len(victims) >= fleet.surplus or not one.agents:
            kept[one.worker_id] = "its slots are needed"
        elif not (one.free or one.emptying):
            kept[one.worker_id] = "it is full"
        elif one.agents + one.free > room:
            kept[one.worker_id] = "its agents have no room in other workers"
        else:
            victims.append(one)
            room -= one.agents + one.free
    return victims, kept


def _cost(one: Occupied) -> tuple[bool, int, int, int, str]:
    """First what is under way, then what moves the fewest agents, and those that lose least."""
    losing = sum(not it.saved for it in one.occupants or ())
    return not one.emptying, one.agents, one.busy, losing, one.worker_id


def _obstacle(one: Occupied, policy: MovePolicy) -> str:
    if one.obstacle:
        return one.obstacle
    if one.busy and not (policy.busy or one.emptying):
        return f"{one.busy} busy agents" if one.busy > 1 else "a busy agent"
    known = [it for it in one.occupants or () if it.obstacle]
    return f"agent {known[0].agent_id} {known[0].obstacle}" if known else ""


def _with_spent(fleet: Fleet, policy: MovePolicy) -> Fleet:
    """The fleet, with agents that may not be asked to move again within the hour."""
    counts, last = Counter(agent for agent, _ in fleet.asked), dict(fleet.asked)
    spent = {
        agent
        for agent, count in counts.items()
        if count >= policy.per_agent_hour and fleet.ts - last[agent] >= ANSWER_MS
    }
    obstacle = f"was asked to move {policy.per_agent_hour} times within the hour"

    def marked(it: Occupant) -> Occupant:
        return replace(it, obstacle=it.obstacle or obstacle) if it.agent_id in spent else it

    workers = (
        replace(one, occupants=tuple(map(marked, one.occupants))) if one.occupants else one
        for one in fleet.workers
    )
    return replace(fleet, workers=tuple(workers)) if spent else fleet


def _remember(
    fleet: Fleet, policy: MovePolicy, memory: MoveMemory
) -> tuple[MoveMemory, dict[str, str]]:
    """The memory after this observation, and why workers are given up now."""
    emptying = {one.worker_id: one for one in fleet.workers if one.emptying}
    busy = {name for name, one in emptying.items() if one.busy and not policy.busy}
    busy_since = {name: memory.busy_since.get(name, fleet.ts) for name in sorted(busy)}
    failed = {name: why for name, one in emptying.items() if (why := _obstacle(one, policy))}
    for name, since in busy_since.items():
        if fleet.ts - since >= PATIENCE_MS:
            failed[name] = f"an agent was busy for {PATIENCE_MS // 1000} s"
    listed = {one.worker_id for one in fleet.workers}
    lifted = [name for name in memory.emptying if name in listed and name not in emptying]
    given_up = {
        name: at_ms for name, at_ms in memory.given_up.items() if fleet.ts - at_ms < AGAIN_MS
    }
    given_up |= dict.fromkeys((*failed, *lifted), fleet.ts)
    return replace(memory, busy_since=busy_since, given_up=given_up), failed


def _within_a_minute(victims: Sequence[Occupied], policy: MovePolicy) -> list[Occupied]:
    """Those that can be emptied soon: the slots of the others may still be claimed."""
    present: list[Occupied] = []
    agents = 0
    for one in victims:
        agents += one.agents
        if not present or agents <= policy.per_minute:
            present.append(one)
    return present


# ---- which agents ---------------------------------------------------------------------------


def _ask(
    fleet: Fleet, present: Sequence[Occupied], policy: MovePolicy
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The agents to move now, and the setting that holds back others.

    A worker with a busy agent is waited for: it may have to be uncordoned.
    """
    last = dict(fleet.asked)
    chosen = {one.worker_id for one in present}
    room = sum(one.free for one in fleet.workers if one.agents and one.worker_id not in chosen)
    room -= fleet.waiting
    movable: list[tuple[str, str]] = []
    for one in present:
        for it in one.occupants or ():
            if fleet.ts - last.get(it.agent_id, -ANSWER_MS) < ANSWER_MS:
                room -= 1  # it is on its way
            elif policy.busy or not one.busy:
                movable.append((one.worker_id, it.agent_id))
    allowed = policy.per_minute - sum(fleet.ts - at_ms < MINUTE_MS for _, at_ms in fleet.asked)
    limit = "moves_per_minute" if allowed < min(len(movable), room) else ""
    return tuple(movable[: max(min(allowed, room), 0)]), limit
