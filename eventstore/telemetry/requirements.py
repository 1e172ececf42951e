"""Whether OpenTelemetry can be used, without importing it."""

import importlib.util
import os
from typing import Final

from eventstore.errors import ConfigurationError

PROTOCOL: Final = "http/protobuf"
PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def is_exported(signal: str) -> bool:
    """Whether `TRACES`, `METRICS` or `LOGS` are to be exported: `OTEL_…_EXPORTER=none` says no."""
    return os.environ.get(f"OTEL_{signal}_EXPORTER", "") != "none"


def require_usable(source: str) -> None:
    """Raises `ConfigurationError`. `source`: where it was switched on."""
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigurationError(
            f"{source}: OpenTelemetry is not installed: pip install 'agent-muster[otel]'"
        )
    for name in PROTOCOL_VARIABLES:
        if (protocol := os.environ.get(name, "")) not in ("", PROTOCOL):
            raise ConfigurationError(
                f"{name}: expected {PROTOCOL}, the only one that Muster exports by, got"
                f" {protocol!r}; receivers listen for it on port 4318, as a rule"
            )
