"""How many workers a pool should have: a pure function of what is and was observed.

The load is every agent that wants a slot: running, starting, pending, due for a restart. Each rule
says how many slots it calls for; the rule that calls for most wins, and limits may hold back what
it wants. Ordered capacity counts as if it were there. Only empty workers are removed.

A service level calls for free slots for the growth that `load_growth` measures.
"""

from math import ceil
from typing import Final

from msgspec.structs import replace

from eventstore.language.forecast import growth_within
from eventstore.language.load_growth import POLL_SECONDS, reserve_for_growth, sample
from eventstore.language.scale_policy import Behaviour, ScalePolicy
from eventstore.language.scaling_state import Decision, Memory, Observation, Steps
from eventstore.language.schedules import scheduled_workers

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


def decide_scale(seen: Observation, policy: ScalePolicy, memory: Memory) -> tuple[Decision, Memory]:
    """Decide, and say what to remember. The same arguments always give the same result."""
    sampled = sample(seen, policy, memory)
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
    if not memory.ts and not before and window:  # those that are there may have been needed
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


def resumed(memory: Memory, seen: Observation, policy: ScalePolicy, *, surplus: int) -> Memory:
    """The memory of a new leader: `memory` is the last that another one recorded.

    What was called for since then is not known. All workers may have been needed, but for the
    `surplus` that was being emptied as the other one led last.
    """
    window, needed = policy.down.window_seconds, max(seen.workers - surplus, 0)
    most = _extreme(memory.most, needed, window, seen.ts, 1) if window else ()
    return replace(memory, most=most)


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
        slots[SERVICE_LEVEL] = load + reserve_for_growth(policy, sampled, growth)
    return slots


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
    kept = [one for one in steps if oldest <= one[0] <= part]  # later: of a shorter window
    while kept and (kept[-1][1] - wanted) * sign <= 0:
        kept.pop()
    if not kept or kept[-1][0] != part:
        kept.append((part, wanted))
    return tuple(kept)
