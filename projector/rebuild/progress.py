"""How far a rebuild is."""

from collections.abc import Callable

from msgspec import Struct

from projector.verify.view_comparison import Comparison


class Progress(Struct, frozen=True, kw_only=True):
    """Events folded of those that the logs have, and the time since the start."""

    pool: str = ""
    events: int = 0
    total: int = 0
    seconds: float = 0.0
    finished: bool = False
    comparison: Comparison | None = None
    """With the serving views; None until they were compared."""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while it is unknown."""
        return max(self.total - self.events, 0) / self.rate if self.rate else None


OnProgress = Callable[[Progress], None]
