"""One server process of the tests: started on a log file, ended by its own id, never by name."""

import itertools
import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals
from typing import NoReturn

import pytest

from eventstore.embedded.directory import log_tail
from eventstore.embedded.server import end_with_parent
from tests.waiting import until_sync


class ServerProcess:
    """A process with a log. It also ends when the test run is killed (on Linux)."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        uid: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.argv, self.log, self.uid = list(argv), log, uid
        self.environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, f"{self.argv[0]} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        main = threading.current_thread() is threading.main_thread()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **self.environment},
                user=self.uid,
                group=self.uid if self.uid is None else group_of(self.uid),
                extra_groups=None if self.uid is None else [],
                preexec_fn=end_with_parent() if main else None,  # noqa: PLW1509  (main thread)
            )

    def start(self, ready: Callable[[], object], timeout: float = 30.0) -> None:
        """Start it and wait until `ready()` is true."""
        self.launch()
        try:
            until_sync(lambda: not self.running or ready(), timeout=timeout, what="server ready")
            assert self.running, "the server ended at once"
        except BaseException as error:
            self.end([SIGKILL])
            error.add_note(f"{' '.join(self.argv)}\n{log_tail(self.log)}")
            raise

    def send(self, number: Signals) -> None:
        """Send a signal to this very process."""
        os.kill(self.pid, number)

    def end(self, signals: Sequence[Signals], timeout: float = 10.0) -> None:
        """Send each signal in turn until it has ended, waiting `timeout` seconds after each."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for number in [*signals, SIGKILL]:
            process.send_signal(number)
            process.send_signal(SIGCONT)  # a stopped process takes no other signal
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
            return
        raise AssertionError(f"process {process.pid} ({self.argv[0]}) does not end")


def group_of(uid: int) -> int:
    """The main group of a user."""
    import pwd

    return pwd.getpwuid(uid).pw_gid


def free_port() -> int:
    """A free TCP port on 127.0.0.1, outside the range that the system assigns.

    So a server may start late, or restart, and find it free. No other process of this run gets the
    same port, and this one only after all the others.
    """
    for port in itertools.islice(_ports, TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise AssertionError(f"none of {TRIES} ports is free")


def _own_ports() -> Iterator[int]:
    """An equal share, for each process of a run, of the ports below the system's range; else 0."""
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    ports = list(range(LOWEST_PORT + mine, _lowest_ephemeral_port(), SHARES)) or [0]
    random.SystemRandom().shuffle(ports)  # other runs may be under way
    return itertools.cycle(ports)


def _lowest_ephemeral_port() -> int:
    """The lowest port that the system assigns; 0 where that is unknown."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 0


LOWEST_PORT, SHARES, TRIES = 10_000, 16, 1_000
_ports = _own_ports()


def accepts(port: int) -> bool:
    """Whether something listens on that port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def system_tool(name: str) -> str:
    """The path of a program of the system; without it the test is skipped, in CI it fails."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        missing(name, name)
    return found


def missing(what: str, package: str) -> NoReturn:
    """Skip the test, or fail it in CI, for something of the system that is not there."""
    reason = f"{what} is not installed (Debian: apt-get install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
