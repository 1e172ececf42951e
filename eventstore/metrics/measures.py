"""What a process counts and measures, until someone asks for it.

To count is an addition to a number in a dictionary, and to observe one a search among a few bounds:
without locks, since all is done on one event loop. `exposition` makes text of it.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from eventstore.metrics.families import FAMILIES

Labels: TypeAlias = tuple[str, ...]
"""The values of a metric's labels, in the order of their names."""


class Histogram:
    """Counts by upper bound; the last is without one."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def values(self) -> tuple[tuple[int, ...], float]:
        """The counts and the sum."""
        return tuple(self.counts), self.sum

    def clear(self) -> None:
        self.counts = [0] * len(self.counts)
        self.sum = 0.0

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add what another of the same bounds has counted. Raises `ValueError` for other bounds."""
        self.counts = [mine + its for mine, its in zip(self.counts, counts, strict=True)]
        self.sum += total


class Measures:
    """Numbers and histograms by metric and labels. Only names of `FAMILIES` can be reported."""

    def __init__(self) -> None:
        self.numbers = defaultdict[str, defaultdict[Labels, float]](lambda: defaultdict(float))
        self.histograms = defaultdict[str, dict[Labels, Histogram]](dict)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        self.numbers[name][labels] += by

    def set(self, name: str, value: float, *labels: str) -> None:
        self.numbers[name][labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        self.histogram(name, *labels).observe(value)

    def histogram(self, name: str, *labels: str) -> Histogram:
        found = self.histograms[name].get(labels)
        if found is None:
            found = self.histograms[name][labels] = Histogram(FAMILIES[name].bounds)
        return found

    def retain_pools(self, pools: Collection[str]) -> None:
        """Forget what is about any other pool."""
        for store in (self.numbers, self.histograms):
            for name, series in store.items():
                if "pool" in FAMILIES[name].labels:
                    at = FAMILIES[name].labels.index("pool")
                    for labels in [labels for labels in series if labels[at] not in pools]:
                        del series[labels]


def call_observer(measures: Measures, process: str) -> Callable[[str, str, float], None]:
    """For `ScriptRunner.on_answered`: how long calls take that append or claim."""
    appends = measures.histogram("muster_append_seconds", process)

    def observe(script: str, pool: str, seconds: float) -> None:
        if script in ("commit", "admit"):
            appends.observe(seconds)
        elif script in ("claim", "place"):
            measures.observe("muster_claim_seconds", seconds, pool)

    return observe
