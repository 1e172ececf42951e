"""What exports, by the semantic conventions of OpenTelemetry."""

import os
import platform
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.version import __version__ as sdk_version

from eventstore.version import __version__


def resource_of(service: str, instance_id: str, more: Mapping[str, str] = {}) -> Resource:
    """Of a part of Muster in this process; what the environment names counts more."""
    found: dict[str, str | int] = {
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": sdk_version,
        "service.namespace": "muster",
        "service.name": f"muster-{service}",
        "service.instance.id": instance_id,
        "service.version": __version__,
        "host.name": socket.gethostname(),
        "host.arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), ""),
        "os.type": sys.platform,
        "process.pid": os.getpid(),
        "process.executable.name": Path(sys.executable).name,
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": platform.python_version(),
        **more,
    }
    named = {name: value for name, value in found.items() if value != ""}
    resource: Resource = Resource(named).merge(OTELResourceDetector().detect())
    return resource
