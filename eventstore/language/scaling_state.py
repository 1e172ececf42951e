"""What a decision about a pool's size is made from, what it remembers, and what it is."""

from msgspec import Struct

from eventstore.language.forecast import Forecast

Steps = tuple[tuple[int, int], ...]
"""(number of a part of a window, workers), the oldest first."""


class Observation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool at one time."""

    ts: int
    """Log time in milliseconds."""
    held: int = 0
    """Agents in slots."""
    waiting: int = 0
    """Agents that wait for a slot now, or for a restart."""
    capacity: int = 0
    """Slots that agents are in or may claim, those of ordered workers included."""
    workers: int = 0
    """Workers that run or are ordered, without those that drain."""
    empty: int = 0
    """Workers without an agent that could be removed."""
    additional: int = 0
    """Workers that isolated agents need."""
    start_ms: int = 0
    """How long the last worker took that has started since the last observation; 0: none has."""
    host_room: int | None = None
    """Workers that the hosts can start now; None: not known, as none was needed."""
    deleted: bool = False
    forecast: Forecast | None = None
    """None: too little of the load is known, or none is wanted."""


class Memory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What counts of earlier observations; bounded."""

    ts: int = 0
    load: int = 0
    """The last sample, and its time."""
    growths: tuple[int, ...] = ()
    """The sizes of the last changes."""
    weight: float = 0.0
    """How much of the averages has been observed: 0 to 1."""
    trend: float = 0.0
    """How fast the load grows, in agents a second..."""
    spread: float = 0.0
    """...and the variance of that; both times `weight`."""
    start_seconds: float = 0.0
    most: Steps = ()
    fewest: Steps = ()
    """The most and the fewest workers that were called for in parts of the windows."""
    reserve: Steps = ()
    """The most with those of provisional rules, in parts of its shorter window."""
    ordered: Steps = ()
    removed: Steps = ()
    """Of the last minute."""
    limits: tuple[str, ...] = ()
    """What has held back changes since the last one."""


class Decision(Struct, frozen=True, kw_only=True):
    """What to do about a pool's size. `order` and `remove` are never both above 0."""

    current: int
    wanted: int
    desired: int
    winner: str
    limit: str = ""
    """What held back a part of the change that was wanted; empty if nothing did."""
    surplus: int = 0
    """So many workers more would be removed if they were empty."""
    candidates: dict[str, int] = {}
    """How many workers each rule called for."""

    @property
    def order(self) -> int:
        return max(self.desired - self.current, 0)

    @property
    def remove(self) -> int:
        return max(self.current - self.desired, 0)
