"""What the judge finds: which promise was broken, by which event, and why it thinks so."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

INVARIANTS: Final = {
    1: "no worker holds more agents than its capacity",
    2: "an accepted spawn is exactly one agent, none forgotten, none doubled",
    3: "what was terminated never runs again",
    4: "no event carries an epoch older than a fence before it",
    5: "seq is dense; archive, exports and stream together hold every event once",
    6: "all other state equals a fold of the log",
    7: "at rest nothing is pending, and every key is permanent on purpose or expires",
    8: "no accepted command is lost",
    9: "limits and times are kept: workers, restarts, back-off, cordons, deadlines, pauses, caps,"
    " moves, one leader at a time",
}


@dataclass(frozen=True)
class Offence:
    """One violation. Without an event (seq 0) it concerns the state that was found."""

    invariant: int
    why: str
    pool: str = ""
    generation: int = 0
    seq: int = 0
    type: str = ""
    subject: str = ""

    def __str__(self) -> str:
        where = self.pool or "catalogue"
        event = f" {self.generation}:{self.seq} {self.type}" if self.seq else ""
        subject = f" {self.subject}" if self.subject else ""
        return f"invariant {self.invariant}: {where}{event}{subject}: {self.why}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def in_order(offences: Iterable[Offence]) -> list[Offence]:
    """Sorted for reading: by log, then by event."""
    return sorted(set(offences), key=lambda o: (o.pool, o.generation, o.seq, o.invariant, o.why))
