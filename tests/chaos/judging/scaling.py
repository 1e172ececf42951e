"""Whether a pool has no more workers than it may, and one leader at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.workers import Worker

COUNTED: Final = frozenset({"requested", "active", "suspect"})
"""Statuses of workers that count: those that drain are about to go."""


@dataclass
class Leader:
    """The last leader of a pool that decided something."""

    term: int = 0
    actor: str = ""
    generation: int = 0
    maximum: int | None = None
    """The workers that its last decision allowed."""
    highest: int = 0
    """The most that any decision allowed."""
    most: Entry | None = None
    """That decision."""

    def decided(self, entry: Entry) -> Iterator[Offence]:
        """Terms only grow, and each is of one host. (A log that was recovered starts again, and
        versions that recorded no term are not judged.)"""
        term = int(entry.body.get("term", 0))
        if term and entry.generation == self.generation:
            if term < self.term:
                yield entry.offence(9, f"decided in term {term}, after one in term {self.term}")
            elif term == self.term and entry.actor != self.actor:
                yield entry.offence(9, f"term {term} is of {self.actor}, not of {entry.actor}")
        if term:
            self.term, self.actor, self.generation = term, entry.actor, entry.generation
        self.maximum = int(entry.body.get("maximum", 0))
        if self.maximum > self.highest:
            self.highest, self.most = self.maximum, entry

    def ordered(self, entry: Entry, workers: Mapping[str, Worker]) -> Iterator[Offence]:
        """A worker was ordered, and is among the workers."""
        if self.maximum is None or not entry.actor.startswith("supervisor:"):
            return  # by a test
        count = sum(one.status in COUNTED and not one.draining for one in workers.values())
        if count > self.maximum:
            yield entry.offence(9, f"worker {count}, where {self.maximum} are the most")

    def judge(self, most: int | None) -> Iterator[Offence]:
        """`most`: the highest `max_workers` that the pool ever had; None: not known."""
        if most is not None and self.most is not None and self.highest > most:
            yield self.most.offence(9, f"allows {self.highest} workers, where {most} are the most")
