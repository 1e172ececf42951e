"""The name of this host."""

import contextlib
import hashlib
import re
import socket
from pathlib import Path

from workers.host.processes import _read


def host_name() -> str:
    """`<hostname>-<8 hex digits>`, the digits from machine id, boot id and pid namespace."""
    parts = [_read("/etc/machine-id"), _read("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    digest = hashlib.sha256("\n".join([socket.gethostname(), *parts]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:48] or "host"
    return f"{name}-{digest[:8]}"
