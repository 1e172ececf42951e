"""How far a rebuild is, as it tells whoever waits for it."""

from collections.abc import Callable

from msgspec import Struct

from projector.verify.view_comparison import Comparison


class Progress(Struct, frozen=True, kw_only=True):
    """How far a rebuild is: events folded of those the log holds, and since when."""

    pool: str = ""
    events: int = 0
    total: int = 0
    seconds: float = 0.0
    finished: bool = False
    comparison: Comparison | None = None
    """With the views that served; None until they were compared."""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while nobody can tell."""
        return max(self.total - self.events, 0) / self.rate if self.rate else None


OnProgress = Callable[[Progress], None]
