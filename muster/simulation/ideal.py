"""The fewest worker-seconds that are possible where all arrivals are known."""

from array import array
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from msgspec import Struct

from eventstore.language.load_growth import POLL_SECONDS
from muster.simulation.arrivals import Arrival
from muster.simulation.outcome import Curve, curve_of

WINDOW_SECONDS = 300.0
"""A worker that is needed again within so long is not stopped."""


class Ideal(Struct, frozen=True):
    """What would be needed at each time. Times in seconds."""

    since: float
    """The first arrival."""
    load: "array[int]"
    """The most agents in each `POLL_SECONDS`..."""
    workers: "array[int]"
    """...and the fewest workers for them."""

    @property
    def worker_seconds(self) -> float:
        return self.worker_seconds_from(self.since)

    def worker_seconds_from(self, at: float) -> float:
        """From a time on."""
        first = int(max(at - self.since, 0.0) / POLL_SECONDS)
        return sum(self.workers[first:]) * POLL_SECONDS

    @property
    def until(self) -> float:
        """The last end."""
        return self.since + len(self.load) * POLL_SECONDS

    def curve(self, values: "array[int]") -> Curve:
        return curve_of(values, self.since, POLL_SECONDS)


def ideal_of(arrivals: Iterable[Arrival], slots: int, start_seconds: float) -> Ideal:
    """Each worker is full, and started exactly as long before it is needed as its start takes."""
    before, after = int(WINDOW_SECONDS / POLL_SECONDS), int(start_seconds / POLL_SECONDS)
    most: deque[tuple[int, int]] = deque()
    since, load = _peaks(arrivals)
    workers = array("i")
    for index in range(-after, len(load)):  # also what is needed once one has started
        if (coming := index + after) < len(load):
            needed = -(-load[coming] // slots)
            while most and most[-1][1] <= needed:
                most.pop()
            most.append((coming, needed))
        while most and most[0][0] < index - before:
            most.popleft()
        if index >= 0:
            workers.append(most[0][1] if most else 0)
    return Ideal(since, load, workers)


def _peaks(arrivals: Iterable[Arrival]) -> tuple[float, "array[int]"]:
    """The first arrival, and the most agents at once in each `POLL_SECONDS` from then on."""
    peaks = array("i")
    ends: list[float] = []
    load = peak = 0
    since: float | None = None
    until = 0.0

    def end_those_before(at: float) -> None:
        nonlocal load, peak, until
        while ends and ends[0] <= at:
            close_before(heappop(ends))
            load -= 1
        close_before(at)

    def close_before(at: float) -> None:
        nonlocal peak, until
        while at > until:
            peaks.append(peak)
            until += POLL_SECONDS
            peak = load

    for at, life in arrivals:
        if since is None:
            since, until = at, at + POLL_SECONDS
        end_those_before(at)
        heappush(ends, at + life)
        load += 1
        peak = max(peak, load)
    if ends:
        end_those_before(max(ends))
        peaks.append(peak)
    return since or 0.0, peaks
