"""How long Redis keeps what is over. The archive keeps every event; Redis is memory.

Each bound is a setting of a process and should be the same in all of them: whoever ends an agent
sets when its hash goes, the worker's renewals and the projector's sweeps cut heartbeats, and the
projector trims events, never above what the archive holds.
"""

from typing import Final

from msgspec import Struct

INTERNAL_OPERATION_MS: Final = 600_000
"""How long operation ids of our own making are remembered, at most."""
KEYS_MS_MAX: Final = 31_536_000_000
"""The longest that an `Idempotency-Key` may be remembered: a year."""


class Retention(Struct, frozen=True, kw_only=True):
    """Times in milliseconds."""

    age_ms: int = 86_400_000
    """Archived events older than this leave their stream …"""
    events: int = 100_000
    """… and those beyond so many of a pool."""
    ended_ms: int = 600_000
    """The hash of an agent or worker that has ended."""
    heartbeats_ms: int = 600_000
    """Heartbeats, and signals to supervisors."""
    keys_ms: int = 86_400_000
    """An `Idempotency-Key`."""

    @property
    def operation_ms(self) -> int:
        """An operation id of our own making: for repeating a request whose answer was lost."""
        return min(INTERNAL_OPERATION_MS, self.keys_ms)


class TrimResult(Struct, frozen=True):
    """What one step of trimming took. `more`: there is more to take."""

    events: int
    others: int
    """Heartbeats and signals."""
    more: bool
