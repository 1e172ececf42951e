"""The options of a projector."""

from msgspec import Struct

from eventstore.retention import Retention
from projector.store.lease import LEASE_SECONDS


class ProjectorOptions(Struct, frozen=True, kw_only=True):
    redis_url: str
    database_url: str
    key_prefix: str = ""
    name: str = "projector"
    batch: int = 1000
    """Events of one pool in one transaction."""
    lease_seconds: float = LEASE_SECONDS
    """How long the active projector may be silent before another takes over."""
    heartbeat_seconds: float = 1.0
    """How long heartbeats are collected before they are written."""
    audit_seconds: float = 2.0
    """How often the logs are compared with the checkpoints."""
    auto_recover: bool = False
    """Whether lost logs are recovered without an operator."""
    backoff_max_seconds: float = 5.0
    retention: Retention = Retention()
    trim_seconds: float = 5.0
    """How often the streams are trimmed."""

    def count(self, streams: int) -> int:
        """Entries of each stream in one read: fewer where many pools may answer at once."""
        return max(min(self.batch, 10 * self.batch // max(streams, 1)), 1)
