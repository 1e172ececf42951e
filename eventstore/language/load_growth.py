"""How much the load of a pool grows until a worker that is ordered now has started.

Its trend, and the spread that leaves few enough spawns without a slot: both are measured as the
load is observed, on the assumption that growth is normally distributed.
"""

from math import erfc, exp, log, pi, sqrt
from typing import Final

from msgspec.structs import replace

from eventstore.language.scale_policy import ScalePolicy
from eventstore.language.scaling_state import Memory, Observation

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


def sample(seen: Observation, policy: ScalePolicy, memory: Memory) -> Memory:
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


def reserve_for_growth(policy: ScalePolicy, sampled: Memory, expected: int) -> float:
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
