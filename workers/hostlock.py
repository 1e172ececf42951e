"""One supervisor per host.

On Linux the lock is a name in the abstract socket namespace, which ends with its process and
leaves nothing behind; elsewhere it is a locked file in the temporary folder.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

from eventstore.errors import ConfigurationError

PATIENCE_SECONDS = 3.0
"""A supervisor that is just ending gets this long."""


class HostLock:
    """Held for as long as the supervisor lives."""

    def __init__(self, what: str) -> None:
        self._name = f"muster-supervisor-{hashlib.sha256(what.encode()).hexdigest()[:24]}"
        self._socket: socket.socket | None = None
        self._file: int | None = None

    async def acquire(self) -> None:
        """Take the lock. Raises `ConfigurationError` if another process keeps it."""
        for _ in range(int(PATIENCE_SECONDS / 0.1)):
            if self._try():
                return
            await asyncio.sleep(0.1)
        raise ConfigurationError(
            "this host already has a supervisor for that Redis and key prefix; one per host is"
            " enough: it tends all pools"
        )

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try(self) -> bool:
        return self._bind() if sys.platform.startswith("linux") else self._flock()

    def _bind(self) -> bool:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(f"\0{self._name}")
        except OSError:
            held.close()
            return False
        self._socket = held
        return True

    def _flock(self) -> bool:
        path = Path(tempfile.gettempdir()) / f"{self._name}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = handle
            return True
        os.close(handle)
        return False
