"""Judging by the own clock whether another process lives.

A lease is a number that its holder changes every few seconds. A supervisor notes since when it has
not changed, on a clock that also runs while the machine sleeps. Time in which the supervisor itself
observed nothing (Redis was unreachable, or it was suspended) does not count.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

MAX_GAP_SECONDS = 3.0
"""A longer pause between two observations proves nothing about the leases."""


class Observation(Struct, frozen=True):
    renewal: object
    since: float


class LeaseMonitor:
    """For how long each of a set of leases was not renewed."""

    def __init__(self, *, max_gap_seconds: float = MAX_GAP_SECONDS) -> None:
        self._max_gap_seconds = max_gap_seconds
        self._observations: dict[str, Observation] = {}
        self._observed_at = 0.0

    def observe(self, renewals: Mapping[str, object], now: float) -> dict[str, float]:
        """Note the leases as they are now; returns for how many seconds each was not renewed."""
        gap = now - self._observed_at
        ignored = gap if self._observed_at and gap > self._max_gap_seconds else 0.0
        self._observed_at = now
        observations: dict[str, Observation] = {}
        for name, renewal in renewals.items():
            previous = self._observations.get(name)
            if previous is None or previous.renewal != renewal:
                observations[name] = Observation(renewal, now)
            else:
                observations[name] = Observation(renewal, previous.since + ignored)
        self._observations = observations
        return {name: now - observation.since for name, observation in observations.items()}


class Stopwatch:
    """Since when each of a changing set of things has been in it, on the same clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def observe(self, names: Iterable[str], now: float) -> dict[str, float]:
        """For how many seconds each of these has been among them without a break."""
        self._since = {name: self._since.get(name, now) for name in names}
        return {name: now - since for name, since in self._since.items()}
