"""How a projector works: where its servers are, and how often it does what."""

from pathlib import Path

from eventstore.language.forecast import STEP_MS
from eventstore.retention import Retention
from projector.intake.source import Addresses
from projector.store.lease import LEASE_SECONDS


class ProjectorOptions(Addresses, frozen=True, kw_only=True):
    name: str = "projector"
    batch: int = 1000
    """Events of one pool in one transaction."""
    lease_seconds: float = LEASE_SECONDS
    """How long the active projector may be silent before another takes over."""
    heartbeat_seconds: float = 3.0
    """How long heartbeats are collected before they are written."""
    audit_seconds: float = 2.0
    """How often the logs are compared with the checkpoints."""
    metrics: bool = False
    """Whether it measures and counts."""
    otel: bool = False
    """Whether projected events are traced by OpenTelemetry."""
    auto_recover: bool = False
    """Whether lost logs are recovered without an operator."""
    backoff_max_seconds: float = 5.0
    retention: Retention = Retention()
    forecast_seconds: float = STEP_MS / 1000
    """How often the forecasts of pools are published."""
    trim_seconds: float = 10.0
    """How often the streams are trimmed."""
    alert_seconds: float = 5.0
    """How often what was written of alerts is stored."""
    ended_seconds: float = 600.0
    """How often rows of what ended long ago are removed."""
    archive_dir: Path | None = None
    """The folder to which events are exported that the retention removes from the archive."""
    prune_seconds: float = 3600.0
    """How often these are looked for."""

    def count(self, streams: int) -> int:
        """Entries of each stream in one read: fewer where many pools may answer at once."""
        return max(min(self.batch, 10 * self.batch // max(streams, 1)), 1)
