"""One supervisor per host.

On Linux the lock is a name in the abstract socket namespace, which ends with its process and
leaves nothing behind; elsewhere it is a locked file in the temporary folder.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import structlog

from eventstore.errors import ConfigurationError, MusterError

LOCK_TIMEOUT_SECONDS = 30.0
"""A supervisor that is just ending gets this long: it may have workers to drain."""
FALLBACK_LOCK_TIMEOUT_SECONDS = 3.0
"""And this long by the start of a fallback, which is not interrupted meanwhile."""

log = structlog.get_logger("muster.supervisor")


class LockRefused(MusterError):
    """The system refuses the lock."""


class HostLock:
    """Held for as long as the supervisor lives."""

    def __init__(self, host: str, redis_url: str, key_prefix: str) -> None:
        names = f"{host}|{redis_url}|{key_prefix}"
        self.scope = hashlib.sha256(names.encode()).hexdigest()[:24]
        """Which supervisor's, of which there is one at a time; without the password in it."""
        self._name = f"muster-supervisor-{self.scope}"
        self._held = contextlib.ExitStack()

    async def acquire(self, timeout_seconds: float) -> None:
        """Take the lock. Raises `ConfigurationError` if another process has it, `LockRefused`."""
        deadline, logged = time.monotonic() + timeout_seconds, False
        while not self._try_acquire():
            if time.monotonic() >= deadline:
                raise ConfigurationError(
                    "this host already has a supervisor for that Redis and key prefix; one per host"
                    " is enough: it supervises all pools"
                )
            if not logged:
                log.warning("supervisor.waits_for_another", seconds=timeout_seconds)
                logged = True
            await asyncio.sleep(0.1)

    def is_taken(self) -> bool:
        """Whether another process has it now. Raises `LockRefused`."""
        if not self._try_acquire():
            return True
        self.release()
        return False

    def release(self) -> None:
        self._held.close()

    def _try_acquire(self) -> bool:
        try:
            return self._bind() if sys.platform.startswith("linux") else self._flock()
        except OSError as error:
            raise LockRefused(f"the lock of this host's supervisor is refused: {error}") from error

    def _bind(self) -> bool:
        lock_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock_socket.bind(f"\0{self._name}")
        except OSError as error:
            lock_socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held.push(lock_socket)
        return True

    def _flock(self) -> bool:
        path = Path(tempfile.gettempdir()) / f"{self._name}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._held.callback(os.close, handle)
            return True
        os.close(handle)
        return False
