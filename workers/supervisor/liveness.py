"""Judging by one's own clock whether somebody far away still lives.

A lease is a number that its holder moves every few seconds. Whoever watches it notes, on a clock
that also runs while the machine sleeps, since when it has stood still. Time in which the watcher
itself saw nothing (Redis was away, or the watcher was stopped) does not count.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

BLIND_SECONDS = 3.0
"""A longer pause between two looks proves nothing about those that were watched."""


class Seen(Struct, frozen=True):
    mark: object
    since: float


class LeaseWatch:
    """For how long each of a set of leases has stood still."""

    def __init__(self, *, blind_seconds: float = BLIND_SECONDS) -> None:
        self._blind_seconds = blind_seconds
        self._seen: dict[str, Seen] = {}
        self._looked = 0.0

    def look(self, marks: Mapping[str, object], now: float) -> dict[str, float]:
        """Note what stands now; returns for how many seconds each has stood still."""
        pause = now - self._looked
        blind = pause if self._looked and pause > self._blind_seconds else 0.0
        self._looked = now
        seen: dict[str, Seen] = {}
        for name, mark in marks.items():
            before = self._seen.get(name)
            if before is None or before.mark != mark:
                seen[name] = Seen(mark, now)
            else:
                seen[name] = Seen(mark, before.since + blind)
        self._seen = seen
        return {name: now - held.since for name, held in seen.items()}


class Stopwatch:
    """Since when each of a changing set of things has been so, on the same clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, names: Iterable[str], now: float) -> dict[str, float]:
        """For how many seconds each of these has been among them without a break."""
        self._since = {name: self._since.get(name, now) for name in names}
        return {name: now - since for name, since in self._since.items()}
