"""`muster up`: everything on one machine, as real processes under one data folder.

It locks the data folder, starts the log's server unless one is given, starts projector, supervisor
and gateway at the same time, prints where everything is, and restarts what ends. On a signal it
stops them in order: no new commands, then the agents, then the views, then the log. A second signal
ends all at once.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from eventstore.embedded.directory import holder, locked, write_holder
from eventstore.errors import ConfigurationError, MusterError
from eventstore.keys import CATALOGUE
from muster import __version__
from muster.fallback import standby
from muster.process import log_output, running_file
from muster.process.child import reap_orphans
from muster.process.forked_roles import ForkedRole
from muster.process.roles import ROLES, stop_signals
from muster.settings.settings import Settings
from muster.up import log_messages
from muster.up.background import Background
from muster.up.log_messages import LogMessages
from muster.up.log_server import LogServer
from muster.up.messages import echo, echo_ready, remedy, report_other_supervisor
from muster.up.role_processes import RoleParts, RoleProcesses
from workers.host.process_tree import become_subreaper, descendants

EXIT_AT_ONCE: Final = 130


def run(settings: Settings, forked: Mapping[str, ForkedRole] | None = None) -> int:
    """Run until a signal; returns the exit code. Errors are one message on standard error.

    `forked`: processes that wait to become roles.
    """
    try:
        standby.require_possible(settings)
        with data_folder_lock(settings.data_dir):
            log_output.configure("up", level=settings.log_level, file=settings.log_dir / "up.jsonl")
            check_port(settings)
            up = Up(settings, forked)
            try:
                return asyncio.run(up.run())
            finally:
                up.log_server.stop()
    except MusterError as error:
        print(f"muster up: {error}", file=sys.stderr)
        return 1


class Up:
    """All processes of one machine."""

    def __init__(self, settings: Settings, forked: Mapping[str, ForkedRole] | None = None) -> None:
        self._forked = forked or {}
        self._data_dir = settings.data_dir
        self._background = Background()
        self.log_server = LogServer(settings, self._background)
        self._roles: RoleProcesses | RoleParts | None = None
        self._signals = 0
        self._started_at = time.monotonic()

    async def run(self) -> int:
        become_subreaper()
        running_file.remove(self._data_dir)  # of one that was killed
        self._handle_signals()
        echo(f"Muster {__version__}, data in {self._data_dir}")
        report_other_supervisor(self.log_server.settings)
        if not await self.log_server.start():
            await self._stop()
            return 0
        try:
            await self._serve(self.log_server.settings)
        finally:
            running_file.remove(self._data_dir)
            await self._stop()
        return 0

    async def _serve(self, settings: Settings) -> None:
        self._follow_logs(settings)
        if settings.single_process:
            for one in self._forked.values():
                one.end()
        self._roles = (
            RoleParts(settings, self._background, self.log_server.fallback)
            if settings.single_process
            else RoleProcesses(settings, self._background, self._forked)
        )
        url = await self._roles.start()
        if not self._background.stopping.is_set():
            self._write_running_file(settings, url)
            echo_ready(settings, url, time.monotonic() - self._started_at)
        await self._background.stopping.wait()

    def _follow_logs(self, settings: Settings) -> None:
        """Print what the roles log of the event log, from before they are started."""
        names = ("up",) if settings.single_process else ROLES
        paths = [settings.log_dir / f"{name}.jsonl" for name in names]
        messages = LogMessages(remedy(settings), () if self.log_server.intact else (CATALOGUE,))
        self._background.run("log_messages", log_messages.follow(paths, messages, echo))

    def _write_running_file(self, settings: Settings, url: str) -> None:
        fallback = self.log_server.fallback
        info = running_file.Running(
            url=url,
            redis_url=settings.redis_url,
            database_url=settings.views_url,
            key_prefix=settings.key_prefix,
            log_dir=str(settings.log_dir.absolute()),
            fallback=fallback.status.description if fallback else "",
            pid=os.getpid(),
        )
        if why := running_file.write(self._data_dir, info):
            stopping = self._background.stopping
            writing = running_file.retry_write(self._data_dir, info, why, stopping, echo)
            self._background.run(running_file.NAME, writing)

    # ---- signals -----------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._on_child_ended)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            echo(f"\n{number.name}: stopping; agents are released first (again: at once)")
            self._background.stopping.set()
        else:
            echo("stopping at once")
            self._end_at_once()

    def _end_at_once(self) -> None:
        """Kill all below; where the system does not list it, the sessions of what was started."""
        _kill(os.kill, descendants(os.getpid()))
        _kill(os.killpg, self._managed_pids())
        if isinstance(self._roles, RoleParts):  # agents of this process would be waited for
            running_file.remove(self._data_dir)
            os._exit(EXIT_AT_ONCE)

    def _on_child_ended(self) -> None:
        """Collect orphans; in a single process the agents' children are among ours, and theirs."""
        if isinstance(self._roles, RoleProcesses):
            reap_orphans(self._managed_pids)

    def _managed_pids(self) -> set[int]:
        server = {self.log_server.pid} if self.log_server.pid else set()
        return server | self._roles.pids if isinstance(self._roles, RoleProcesses) else server

    # ---- the end -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._background.stopping.set()
        if self._roles is not None:
            await self._roles.stop()
        if isinstance(self._roles, RoleParts):
            _kill(os.kill, set(descendants(os.getpid())) - self._managed_pids())
        await self._background.stop()
        if self.log_server.fallback is not None:
            self.log_server.fallback.lock.release()
        echo("stopped")


def _kill(send: Callable[[int, int], None], ids: Iterable[int]) -> None:
    for one in ids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of a zombie
            send(one, signal.SIGKILL)


@contextlib.contextmanager
def data_folder_lock(path: Path) -> Iterator[None]:
    """Lock a data folder for this process. Raises `ConfigurationError`."""
    file = path / "lock"
    with contextlib.ExitStack() as held:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            lock = held.enter_context(locked(file))
        except OSError as error:
            why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
            raise ConfigurationError(
                f"the data folder {path} cannot be used: {why} (--data-dir, MUSTER_DATA_DIR)"
            ) from None
        if lock is None:
            raise ConfigurationError(
                f"the data folder {path} is in use by `muster up` with pid {holder(file)}:"
                " stop that one, or give this one another --data-dir"
            )
        write_holder(lock, os.getpid())
        yield


def check_port(settings: Settings) -> None:
    """Refuse early an address that is not this host's, or is taken. Raises `ConfigurationError`."""
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        change = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with {change}"
        ) from None
