"""How many workers a pool should have: a pure function of what is and was observed.

The load is every agent that wants a slot: running, starting, pending, due for a restart. Each rule
says how many slots it calls for; the rule that calls for most wins, and limits may hold back what
it wants. Ordered capacity counts as if it were there. Only empty workers are removed.

A service level calls for free slots for the growth of the load until a worker that is ordered now
has started: its trend, and the spread that leaves few enough spawns without a slot. Both are
measured as the load is observed, on the assumption that growth is normally distributed.
"""

from math import ceil, erfc, exp, log, pi, sqrt
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.forecast import Forecast, growth_within
from eventstore.language.scale_policy import Behaviour, ScalePolicy
from eventstore.language.schedules import scheduled_workers

AVERAGE_SECONDS: Final = 600.0
"""Over how long trend and spread are averaged."""
PRIOR_SECONDS: Final = 1.0
"""As if the load had not changed for so long before."""
SAMPLE_MS: Final = 1_000
"""At least so long between two samples of the load."""
GROWTHS: Final = 5
"""A change of the load counts up to three times the median of so many..."""
SMALL_GROWTH: Final = 2
"""...or as so many agents, if that is more..."""
BURST: Final = 10
"""...and not at all if it is so many times as large: a burst is no trend."""
RARE_SECONDS: Final = 3_000.0
"""Where fewer than one agent is expected within so long, no slot is kept for it."""
POLL_SECONDS: Final = 2.0
"""So much later than the load changes a worker may be ordered."""
SERVICE_LEVEL: Final = "service-level"
FORECAST: Final = "forecast"
PROVISIONAL: Final = frozenset({SERVICE_LEVEL, FORECAST})
"""Rules that call for free slots for growth that may not come."""
BUCKETS: Final = 16
"""The parts of a window of which each has its extreme remembered."""
RESERVE_SHARE: Final = 1 / 8
"""For so much of the window free slots are kept that only these rules called for."""
SURPLUS_LEFT: Final = 1 / 4
"""If a surplus above the tolerance is removed, so much of the tolerance is left."""
MINUTE_MS: Final = 60_000

Steps = tuple[tuple[int, int], ...]
"""(number of a part of a window, workers), the oldest first."""


class Observation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool at one time."""

    ts: int
    """Log time in milliseconds."""
    held: int = 0
    """Agents in slots."""
    waiting: int = 0
    """Agents that wait for a slot now, or for a restart."""
    capacity: int = 0
    """Slots that agents are in or may claim, those of ordered workers included."""
    workers: int = 0
    """Workers that run or are ordered, without those that drain."""
    empty: int = 0
    """Workers without an agent that could be removed."""
    additional: int = 0
    """Workers that isolated agents need."""
    start_ms: int = 0
    """How long the last worker took that has started since the last observation; 0: none has."""
    host_room: int | None = None
    """Workers that the hosts can start now; None: not known, as none was needed."""
    deleted: bool = False
    forecast: Forecast | None = None
    """None: too little of the load is known, or none is wanted."""


class Memory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What counts of earlier observations; bounded."""

    ts: int = 0
    load: int = 0
    """The last sample, and its time."""
    growths: tuple[int, ...] = ()
    """The sizes of the last changes."""
    weight: float = 0.0
    """How much of the averages has been observed: 0 to 1."""
    trend: float = 0.0
    """How fast the load grows, in agents a second..."""
    spread: float = 0.0
    """...and the variance of that; both times `weight`."""
    start_seconds: float = 0.0
    most: Steps = ()
    fewest: Steps = ()
    """The most and the fewest workers that were called for in parts of the windows."""
    reserve: Steps = ()
    """The most with those of provisional rules, in parts of its shorter window."""
    ordered: Steps = ()
    removed: Steps = ()
    """Of the last minute."""
    limits: tuple[str, ...] = ()
    """What has held back changes since the last one."""


class Decision(Struct, frozen=True, kw_only=True):
    """What to do about a pool's size. `order` and `remove` are never both above 0."""

    current: int
    wanted: int
    desired: int
    winner: str
    limit: str = ""
    """What held back a part of the change that was wanted; empty if nothing did."""
    surplus: int = 0
    """So many workers more would be removed if they were empty."""
    candidates: dict[str, int] = {}
    """How many workers each rule called for."""

    @property
    def order(self) -> int:
        return max(self.desired - self.current, 0)

    @property
    def remove(self) -> int:
        return max(self.current - self.desired, 0)


def decide_scale(seen: Observation, policy: ScalePolicy, memory: Memory) -> tuple[Decision, Memory]:
    """Decide, and say what to remember. The same arguments always give the same result."""
    sampled = _sample(seen, policy, memory)
    growth = _expected_growth(seen, policy, sampled)
    slots = _slots_by_rule(seen, policy, sampled, growth)
    current = seen.workers
    candidates = {rule: _workers(called, seen, policy) for rule, called in slots.items()}
    candidates["min-workers"] = policy.min_workers
    if policy.schedules:  # so early that they have started by then
        minute = (seen.ts + int(sampled.start_seconds * 1000)) // MINUTE_MS
        candidates["schedule"] = scheduled_workers(policy.schedules, minute)
    acting = [rule for rule in candidates if rule != FORECAST or policy.forecast == "on"]
    winner = max(acting, key=candidates.__getitem__)
    wanted = candidates[winner]
    if seen.deleted:
        wanted, winner = 0, "pool-deleted"
    kept = [candidates[rule] for rule in acting if rule not in PROVISIONAL]
    if FORECAST in acting:  # what is expected comes within a step, not as it begins
        kept.append(_workers(seen.held + seen.waiting + growth, seen, policy))
    firm = min(wanted, max(kept))
    before, window = memory.most, policy.down.window_seconds
    if not memory.ts and window:  # those that are there may have been needed
        before = ((_part(window, seen.ts), current),)
    most = _extreme(before, firm, window, seen.ts, 1)
    reserve = _extreme(memory.reserve, wanted, window * RESERVE_SHARE, seen.ts, 1)
    fewest = _extreme(memory.fewest, wanted, policy.up.window_seconds, seen.ts, -1)
    desired, limit, surplus = current, "", 0
    if policy.paused and not seen.deleted:
        limit = "paused" if wanted != current else ""
    elif wanted > current:
        desired, limit = _limit_up(wanted, fewest[0][1], policy, seen, memory)
    elif wanted < current:
        needed = max(most[0][1], reserve[0][1])
        desired, limit = _limit_down(wanted, needed, policy, seen, memory)
        if (surplus := max(current - seen.empty - desired, 0)) > 0:
            desired, limit = current - seen.empty, "occupied"
    decision = Decision(
        current=current, wanted=wanted, desired=desired, winner=winner, limit=limit,
        surplus=surplus, candidates=candidates,
    )  # fmt: skip
    changed = desired != current
    limits = () if changed else memory.limits
    if limit and limit not in limits:
        limits = (*limits, limit)
    ordered, removed = memory.ordered, memory.removed
    if changed:
        ordered = _add(ordered, decision.order, seen.ts)
        removed = _add(removed, decision.remove, seen.ts)
    return decision, replace(
        sampled, most=most, reserve=reserve, fewest=fewest, ordered=ordered, removed=removed,
        limits=limits,
    )  # fmt: skip


def _workers(called: float, seen: Observation, policy: ScalePolicy) -> int:
    """For so many slots."""
    missing = ceil((called - seen.capacity) / policy.slots)
    return max(seen.workers + missing, 0) + seen.additional


def _expected_growth(seen: Observation, policy: ScalePolicy, sampled: Memory) -> int:
    if policy.forecast == "off":
        return 0
    return growth_within(seen.forecast, seen.ts, sampled.start_seconds + POLL_SECONDS)


def _slots_by_rule(
    seen: Observation, policy: ScalePolicy, sampled: Memory, growth: int
) -> dict[str, float]:
    load = seen.held + seen.waiting
    slots = _slots(load, 0, policy, sampled)
    if growth:
        slots[FORECAST] = max(_slots(load, growth, policy, sampled).values())
    return slots


def _slots(load: int, growth: int, policy: ScalePolicy, sampled: Memory) -> dict[str, float]:
    """For a load that is expected to grow by so many agents."""
    later = load + growth
    slots = {"load": later / policy.target_utilisation}
    if policy.buffer_slots or policy.buffer_share:
        slots["buffer"] = later + max(policy.buffer_slots, later * policy.buffer_share)
    if policy.service_level:
        slots[SERVICE_LEVEL] = load + _growth(policy, sampled, growth)
    return slots


# ---- what is measured -----------------------------------------------------------------------


def _sample(seen: Observation, policy: ScalePolicy, memory: Memory) -> Memory:
    """The memory with the averages after this observation."""
    start_seconds = memory.start_seconds or policy.start_seconds
    if seen.start_ms:  # a slower start counts at once, a quicker one by and by
        start_seconds = max(seen.start_ms / 1000, start_seconds * 0.8 + seen.start_ms / 5000)
    load, seconds = seen.held + seen.waiting, (seen.ts - memory.ts) / 1000
    if not memory.ts:
        return replace(memory, ts=seen.ts, load=load, start_seconds=start_seconds)
    if seconds * 1000 < SAMPLE_MS:
        return replace(memory, start_seconds=start_seconds)
    growth = load - memory.load
    growths = (*memory.growths[1 - GROWTHS :], abs(growth))
    bound = SMALL_GROWTH
    if len(growths) == GROWTHS:
        bound = max(3 * sorted(growths)[GROWTHS // 2], SMALL_GROWTH)
    growth = max(min(growth, bound), -bound) if abs(growth) <= BURST * bound else 0
    kept = exp(-seconds / AVERAGE_SECONDS)
    return replace(
        memory,
        ts=seen.ts,
        load=load,
        growths=growths,
        weight=memory.weight * kept + 1 - kept,
        trend=memory.trend * kept + growth / seconds * (1 - kept),
        spread=memory.spread * kept + growth * growth / seconds * (1 - kept),
        start_seconds=start_seconds,
    )


def _growth(policy: ScalePolicy, sampled: Memory, expected: int) -> float:
    """How many agents more there may be when a worker that is ordered now has started.

    `expected`: by a forecast; where the load already grows faster, that counts.
    """
    if not sampled.spread:
        return float(expected)
    weight = sampled.weight + PRIOR_SECONDS / AVERAGE_SECONDS
    trend, spread = sampled.trend / weight, sampled.spread / weight
    seconds = sampled.start_seconds + POLL_SECONDS
    observed = PRIOR_SECONDS - AVERAGE_SECONDS * log(1 - min(sampled.weight, 0.999))
    deviation = sqrt(spread * seconds * (1 + seconds / observed))  # also of the trend itself
    rate = max(spread / 2, trend)  # as many come as end, where nothing grows
    if rate * RARE_SECONDS < 1:
        return float(expected)
    arrivals = rate * seconds
    return max(trend * seconds, expected) + deviation * _deviations(
        (1 - policy.service_level) * arrivals / deviation
    )


def _deviations(loss: float) -> float:
    """Above so many standard deviations a normal variable exceeds by `loss` on average."""
    low, high = 0.0, 6.0
    for _ in range(14):
        z = (low + high) / 2
        if exp(-z * z / 2) / sqrt(2 * pi) - z * erfc(z / sqrt(2)) / 2 > loss:
            low = z
        else:
            high = z
    return high


# ---- limits ---------------------------------------------------------------------------------


def _limit_up(
    wanted: int, fewest: int, policy: ScalePolicy, seen: Observation, memory: Memory
) -> tuple[int, str]:
    desired, limit = wanted, ""
    if fewest < desired:
        desired, limit = fewest, "up.window_seconds"
    if desired - seen.workers < policy.up.tolerance * seen.workers:
        desired, limit = seen.workers, "up.tolerance"
    allowed = _allowed(policy.up, seen, memory.ordered)
    if allowed is not None and desired > seen.workers + allowed:
        desired, limit = seen.workers + allowed, "up.workers_per_minute"
    if desired > policy.max_workers:
        desired, limit = policy.max_workers, "max_workers"
    if seen.host_room is not None and desired > seen.workers + seen.host_room:
        desired, limit = seen.workers + seen.host_room, "host_room"
    return max(desired, seen.workers), limit


def _limit_down(
    wanted: int, needed: int, policy: ScalePolicy, seen: Observation, memory: Memory
) -> tuple[int, str]:
    current, desired, limit = seen.workers, wanted, ""
    if not seen.deleted:
        if needed > desired:
            desired, limit = needed, "down.window_seconds"
        if wanted and policy.down.tolerance:
            surplus, band = current - desired, policy.down.tolerance * current
            if surplus < band:
                desired, limit = current, "down.tolerance"
            else:
                desired = current - max(int(surplus - band * SURPLUS_LEFT), 1)
        allowed = _allowed(policy.down, seen, memory.removed)
        if allowed is not None and desired < current - allowed:
            desired, limit = current - allowed, "down.workers_per_minute"
    return min(desired, current), limit


def _allowed(behaviour: Behaviour, seen: Observation, changes: Steps) -> int | None:
    """How many more workers may change now; None: any number."""
    if not behaviour.workers_per_minute and not behaviour.percent_per_minute:
        return None
    share = int(seen.workers * behaviour.percent_per_minute / 100)
    oldest = (seen.ts - MINUTE_MS) * BUCKETS // MINUTE_MS
    recent = sum(count for part, count in changes if part > oldest)
    return max(max(behaviour.workers_per_minute, share) - recent, 0)


def _add(changes: Steps, count: int, ts: int) -> Steps:
    part = ts * BUCKETS // MINUTE_MS
    kept = tuple(one for one in changes if one[0] > part - BUCKETS)
    if count and kept and kept[-1][0] == part:
        return (*kept[:-1], (part, kept[-1][1] + count))
    return (*kept, (part, count)) if count else kept


def _part(window_seconds: float, ts: int) -> int:
    return ts // max(int(window_seconds * 1000 / BUCKETS), 1)


def _extreme(steps: Steps, wanted: int, window_seconds: float, ts: int, sign: int) -> Steps:
    """The steps of a window after one more: the first has its maximum, or minimum (`sign` -1)."""
    part = _part(window_seconds, ts)
    if not window_seconds:
        return ((part, wanted),)
    oldest = part - BUCKETS
    kept = [one for one in steps if one[0] >= oldest]
    while kept and (kept[-1][1] - wanted) * sign <= 0:
        kept.pop()
    if not kept or kept[-1][0] != part:
        kept.append((part, wanted))
    return tuple(kept)
