"""Whether an agent was started again when it was to be, and for as often as it may.

No way leads from ended to started without a back-off, except an ordered release and the first loss
of a worker. What an agent calls unavailable counts against nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

FAILURES: Final = frozenset({"agent.start_failed", "agent.crashed", "agent.unhealthy"})
START_LIMIT: Final = 5
"""Unless the pool says otherwise. (A limit of all failures there is only where a pool has one.)"""
EARLIER: Final[Mapping[str, float]] = {"restart_limit": 5, "backoff_max_seconds": 60}
"""Defaults that versions without `start_limit` recorded like settings: they count as not set."""


class Counted(Protocol):
    """What is counted of an agent."""

    well_ms: int
    failures_in_row: int
    losses_in_row: int
    has_run: bool
    failures: list[int]


def unavailable(body: dict[str, Any]) -> bool:
    """Whether the agent said that it was not its fault."""
    return (body.get("error") or {}).get("retry_after_ms") is not None


def judge(agent: Counted, entry: Entry) -> Iterator[Offence]:
    """What is wrong with the counts and the back-off of a failure or loss, before `evolve`."""
    body = entry.body
    lost = entry.type == "agent.lost"
    if not (lost or entry.type in FAILURES):
        return
    at, due, window = (int(body.get(name, 0)) for name in ("at_ms", "due_ms", "window_ms"))
    if due and due <= at:
        yield entry.offence(9, "its back-off is over before it began")
    if unavailable(body):
        if body.get("failures") or not due:
            yield entry.offence(9, "it was unavailable, which counts against nothing")
        return
    well = 0 < agent.well_ms <= at - window and bool(window)
    if failures := int(body.get("failures", 0)):
        before = 0 if well else agent.failures_in_row or _of_earlier_versions(agent, at - window)
        if failures != before + 1:
            yield entry.offence(9, f"failure {failures} in a row, but it was {before} times before")
    losses = int(body.get("losses", 0))
    if losses > 1 and losses != agent.losses_in_row + 1:
        yield entry.offence(9, f"loss {losses} in a row, but it was {agent.losses_in_row} before")
    if losses > 1 and not (due or window):
        yield entry.offence(9, f"no back-off after loss {losses} in a row")


def _of_earlier_versions(agent: Counted, since: int) -> int:
    return sum(at > since for at in agent.failures)


Range = tuple[float, float]
"""The lowest and the highest value that a setting ever had; infinite where it was not set."""


@dataclass(frozen=True)
class Counting:
    """What a failure was counted as. `failed`: it was the last."""

    entry: Entry
    failures: int
    has_run: bool
    failed: bool


def judge_limits(
    counted: Iterable[Counting], limit: Range, start_limit: Range
) -> Iterator[Offence]:
    """Under which settings of its pool a failure was counted is not known, so any of them may
    have been. No pool without its settings is judged."""
    for one in counted:
        ranges = [limit] if one.has_run else [limit, start_limit]
        lowest, highest = (min(values) for values in zip(*ranges, strict=True))
        if one.failed and one.failures <= lowest:
            why = f"it failed for good after {one.failures}, where {lowest} are allowed"
            yield one.entry.offence(9, why)
        if not one.failed and one.failures > highest:
            why = f"it is to run again after {one.failures}, where {highest} are allowed"
            yield one.entry.offence(9, why)


def limits(config: Mapping[str, Any]) -> tuple[float, float]:
    """The two limits of a recorded configuration."""
    limit = settings(config).get("restart_limit")
    return (inf if limit is None else limit), config.get("start_limit", START_LIMIT)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What counts as set of a recorded configuration."""
    earlier = {} if "start_limit" in config else EARLIER
    return {name: value for name, value in config.items() if earlier.get(name) != value}
