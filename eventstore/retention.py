"""How long Redis retains what has ended. The archive retains every event; Redis is memory.

Each bound is a setting of a process and should be the same in all of them: the process that ends an
agent sets the expiry of its hash, workers trim heartbeats when they renew their lease, and the
projector trims events that are archived, heartbeats and signals.
"""

from typing import Final

from msgspec import Struct

INTERNAL_OPERATION_MS: Final = 600_000
"""How long operation ids that Muster makes are remembered, at most."""
CATALOGUE_EVENTS: Final = 100
"""So many events of the catalogue remain in its stream: all processes fold them at their start."""
KEYS_MS_MAX: Final = 31_536_000_000
"""The longest that an `Idempotency-Key` may be remembered: a year."""


class Retention(Struct, frozen=True, kw_only=True):
    """Times in milliseconds; of Redis, but for the last three."""

    age_ms: int = 86_400_000
    """Archived events that are older are trimmed …"""
    events: int = 100_000
    """… and those of a pool beyond this number."""
    ended_ms: int = 600_000
    """The hash of an agent or worker that has ended."""
    heartbeats_ms: int = 600_000
    """Heartbeats, and signals to supervisors."""
    keys_ms: int = 86_400_000
    """An `Idempotency-Key`."""
    alerts_ms: int = 7_776_000_000
    """Closed alerts in the database: 90 days. In Redis they stay as long as events, `age_ms`."""
    views_ms: int = 0
    """Rows of agents and workers that have ended, in the views; 0: they stay."""
    archive_ms: int = 0
    """Events in the archive, of which an export has every one; 0: they stay."""

    @property
    def catalogue_events(self) -> int:
        """Archived events of the catalogue beyond this number, or twice as many, are trimmed."""
        return min(CATALOGUE_EVENTS, self.events)

    @property
    def operation_ms(self) -> int:
        """An operation id that Muster makes, to repeat a request whose reply was lost."""
        return min(INTERNAL_OPERATION_MS, self.keys_ms)


class TrimResult(Struct, frozen=True):
    """How much one step of trimming removed. `more`: there is more to remove."""

    events: int
    others: int
    """Heartbeats and signals."""
    more: bool
