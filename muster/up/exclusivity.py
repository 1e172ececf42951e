"""What a `muster up` must have for itself: a data folder, and a port."""

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from eventstore.errors import ConfigurationError


class data_folder_lock:  # noqa: N801  # reads as a statement: with data_folder(path)
    """Lock a data folder for this process. Raises `ConfigurationError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def __enter__(self) -> None:
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._lock = os.open(self._path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
            raise ConfigurationError(
                f"the data folder {self._path} cannot be used: {why} (--data-dir, MUSTER_DATA_DIR)"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode().strip() or "unknown"
            os.close(self._lock)
            raise ConfigurationError(
                f"the data folder {self._path} is in use by `muster up` with pid {holder}:"
                " stop that one, or give this one another --data-dir"
            ) from None
        with contextlib.suppress(OSError):  # a full disk; only the message to the next one needs it
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)


def check_port(host: str, port: int) -> None:
    """Refuse early if the port is taken. Raises `ConfigurationError`."""
    if port == 0:
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from None
