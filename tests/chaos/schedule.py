"""What a run does and when: all of it from the seed, so that a run can be repeated.

The times of the faults are the schedule's; what they hit (which worker, which connection) is drawn
from a generator of each fault's own, so that one fault more or less does not change the others.
The machine schedules the processes: the same seed injects the same faults, but does not produce
exactly the same events.
"""

from collections.abc import Iterator, Sequence
from random import Random

from msgspec import Struct

TWO_AT_ONCE = 0.25
"""How often a fault meets another one."""
PAUSE_SECONDS = (0.3, 2.0)
OVERLAP_SECONDS = (0.2, 1.5)


class Injection(Struct, frozen=True):
    """One fault: which, when after the start of its round, and the seed of its own choices."""

    fault: str
    after_seconds: float
    seed: str


class Round(Struct, frozen=True):
    """Faults that overlap, after a pause. The system heals before the next round starts."""

    number: int
    pause_seconds: float
    injections: tuple[Injection, ...]

    @property
    def name(self) -> str:
        return " + ".join(injection.fault for injection in self.injections)


def stream(seed: int, purpose: str) -> Random:
    """A generator of its own for each purpose."""
    return Random(f"{seed}/{purpose}")


def rounds(seed: int, faults: Sequence[str]) -> Iterator[Round]:
    """Rounds without end. Every fault comes once before any comes again."""
    random = stream(seed, "schedule")
    number = 0
    deck: list[str] = []
    while True:
        number += 1
        count = 2 if len(faults) > 1 and random.random() < TWO_AT_ONCE else 1
        chosen = []
        for _ in range(count):
            if not deck:
                deck = sorted(faults)
                random.shuffle(deck)
            chosen.append(deck.pop())
        chosen = list(dict.fromkeys(chosen))
        yield Round(
            number,
            random.uniform(*PAUSE_SECONDS),
            tuple(
                Injection(
                    fault,
                    random.uniform(*OVERLAP_SECONDS) if position else 0.0,
                    f"{seed}/{number}/{fault}",
                )
                for position, fault in enumerate(chosen)
            ),
        )
