"""Whether no more agents were moved together than the pool's settings allow."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

MOVED: Final = "moved"
"""Why an agent is released that another worker is to run."""
PER_MINUTE: Final = 20
PER_AGENT_HOUR: Final = 2
"""Unless the pool says otherwise."""
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
LATE: Final = 2
"""So many times as many may be released: some were asked to in the time before, and what Redis
remembers of requests expires by its clock, which may be stepped."""

Allowed = tuple[int, int]
"""Moves in a minute, and of one agent in an hour."""


def allowed(config: Mapping[str, Any]) -> Allowed:
    """By one configuration of a pool."""
    return (
        int(config.get("moves_per_minute", PER_MINUTE)),
        int(config.get("moves_per_agent_hour", PER_AGENT_HOUR)),
    )


def judge(
    pool: str, moved: Iterable[Entry], asked: Iterable[tuple[str, int]], most: Allowed
) -> Iterator[Offence]:
    """`asked`: which agents were asked to move, and when. `most`: that the pool ever allowed."""
    requests: dict[str, list[int]] = defaultdict(list)
    for agent, at_ms in asked:
        requests[agent].append(at_ms)
    yield from _too_many(pool, "asked to move", requests, most)
    by_generation: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for entry in moved:
        by_generation[entry.generation][entry.subject].append(entry.ts)
    for releases in by_generation.values():
        yield from _too_many(pool, "moved", releases, (most[0] * LATE, most[1] * LATE))


def _too_many(
    pool: str, what: str, times: Mapping[str, list[int]], most: Allowed
) -> Iterator[Offence]:
    per_minute, per_agent_hour = most
    if _exceeds([at for some in times.values() for at in some], per_minute, MINUTE_MS):
        yield Offence(9, f"more than {per_minute} {what} in a minute", pool)
    for agent, some in times.items():
        if _exceeds(some, per_agent_hour, HOUR_MS):
            why = f"{what} more than {per_agent_hour} times in an hour"
            yield Offence(9, why, pool, subject=agent)


def _exceeds(times: list[int], most: int, span_ms: int) -> bool:
    """Whether more than `most` of these times are within a span."""
    ordered = sorted(times)
    return any(last - first < span_ms for first, last in zip(ordered, ordered[most:], strict=False))
