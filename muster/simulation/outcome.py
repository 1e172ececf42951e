"""What became of the arrivals of a pool: how long they waited, and what that has cost."""

from array import array
from math import ceil

from msgspec import Struct, field

POINTS = 1_000
"""Of a curve."""


class Curve:
    """The highest value in each of the equal parts of a span of time, for a picture."""

    def __init__(self, since: float, until: float) -> None:
        self.since, self.until = since, until
        self.part_seconds = max(until - since, 1e-3) / POINTS
        self.values = [0.0] * POINTS
        self._part, self._value = 0, 0.0

    def peak(self, at: float, value: float) -> None:
        """The value is this at that time."""
        part = self._part_at(at)
        self.values[part] = max(self.values[part], value)

    def step(self, at: float, value: float) -> None:
        """The value is this from that time on."""
        part = self._part_at(at)
        for index in range(self._part, part + 1):
            self.values[index] = max(self.values[index], self._value)
        self._part, self._value = part, value
        self.peak(at, value)

    def _part_at(self, at: float) -> int:
        return min(max(int((at - self.since) / self.part_seconds), 0), POINTS - 1)


def curve_of(values: "array[int]", since: float, each_seconds: float) -> Curve:
    """The curve of many values, one every so many seconds."""
    curve = Curve(since, since + len(values) * each_seconds)
    for part in range(POINTS):
        first, end = (len(values) * number // POINTS for number in (part, part + 1))
        curve.values[part] = max(values[first : max(end, first + 1)], default=0)
    return curve


class Outcome(Struct):
    """What became of all arrivals. Times in seconds."""

    workers: Curve
    longest: Curve
    """The longest wait of those that came then."""
    arrivals: int = 0
    waits: "array[float]" = field(default_factory=lambda: array("d"))
    """Of those that found no slot, in order of size once the simulation has ended."""
    worker_seconds: float = 0.0
    starts: int = 0
    stops: int = 0
    moves: int = 0
    turns: int = 0
    """How often the number of workers went down after up, or up after down."""
    before: "Outcome | None" = None
    """What became of arrivals before those that are counted, if figures begin later."""

    def wait_seconds(self, share: float) -> float:
        """So long, at most, this share of all arrivals has waited."""
        at = ceil(self.arrivals * share) - 1 - (self.arrivals - len(self.waits))
        return self.waits[at] if at >= 0 and self.waits else 0.0
