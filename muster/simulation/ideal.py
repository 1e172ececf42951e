"""The fewest worker-seconds that are possible where all arrivals are known."""

from array import array
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from eventstore.language.scaling import POLL_SECONDS
from muster.simulation.arrivals import Arrival

WINDOW_SECONDS = 300.0
"""A worker that is needed again within so long is not stopped."""


def ideal_worker_seconds(arrivals: Iterable[Arrival], slots: int, start_seconds: float) -> float:
    """Each worker is full, and started exactly as long before it is needed as its start takes."""
    before, after = int(WINDOW_SECONDS / POLL_SECONDS), int(start_seconds / POLL_SECONDS)
    total = 0
    most: deque[tuple[int, int]] = deque()
    needed = [-(-peak // slots) for peak in _peaks(arrivals)]
    for index in range(-after, len(needed)):  # also what is needed once one has started
        if (coming := index + after) < len(needed):
            while most and most[-1][1] <= needed[coming]:
                most.pop()
            most.append((coming, needed[coming]))
        while most and most[0][0] < index - before:
            most.popleft()
        total += most[0][1] if index >= 0 and most else 0
    return total * POLL_SECONDS


def _peaks(arrivals: Iterable[Arrival]) -> "array[int]":
    """The most agents at once in each `POLL_SECONDS`."""
    peaks = array("i")
    ends: list[float] = []
    load = peak = 0
    until: float | None = None

    def end_those_before(at: float) -> None:
        nonlocal load, peak, until
        while ends and ends[0] <= at:
            close_before(heappop(ends))
            load -= 1
        close_before(at)

    def close_before(at: float) -> None:
        nonlocal peak, until
        until = at + POLL_SECONDS if until is None else until
        while at > until:
            peaks.append(peak)
            until += POLL_SECONDS
            peak = load

    for at, life in arrivals:
        end_those_before(at)
        heappush(ends, at + life)
        load += 1
        peak = max(peak, load)
    if ends:
        end_those_before(max(ends))
        peaks.append(peak)
    return peaks
