"""`muster up`: everything on one machine, as real processes under one data folder.

It locks the data folder, starts the log's server unless one is given, starts projector, supervisor
and gateway at the same time, prints where everything is, and restarts what ends. On a signal it
stops them in order: no new commands, then the agents, then the views, then the log. A second signal
ends all at once.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from muster import __version__
from muster.fallback import eligibility
from muster.process import log_output, running_file
from muster.process.child import become_subreaper, descendants, reap_orphans
from muster.process.role_main import stop_signals
from muster.process.roles import ROLES
from muster.settings.settings import Settings
from muster.up import log_messages
from muster.up.background import Background
from muster.up.exclusivity import check_port, data_folder_lock
from muster.up.log_messages import LogMessages
from muster.up.log_server import LogServer
from muster.up.messages import echo, echo_ready, remedy
from muster.up.role_processes import RoleParts, RoleProcesses


def run(settings: Settings) -> int:
    """Run until a signal; returns the exit code. Errors are one message on standard error."""
    try:
        eligibility.require_possible(settings)
        with data_folder_lock(settings.data_dir):
            log_output.configure("up", level=settings.log_level, file=settings.log_dir / "up.jsonl")
            check_port(settings.host, settings.port)
            up = Up(settings)
            try:
                return asyncio.run(up.run())
            finally:
                up.log_server.stop()
    except MusterError as error:
        print(f"muster up: {error}", file=sys.stderr)
        return 1


class Up:
    """All processes of one machine."""

    def __init__(self, settings: Settings) -> None:
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
        """Start the roles, and wait for the end."""
        self._follow_logs(settings)
        self._roles = (
            RoleParts(settings, self._background, self.log_server.fallback)
            if settings.single_process
            else RoleProcesses(settings, self._background)
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
        messages = LogMessages(remedy(settings))
        if not self.log_server.intact:
            messages.mark_lost(CATALOGUE)
        self._background.run("log_messages", log_messages.follow(paths, messages, echo))

    def _write_running_file(self, settings: Settings, url: str) -> None:
        """Write down where commands find it."""
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
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            echo(f"\n{number.name}: stopping; agents are released first (again: at once)")
            self._background.stopping.set()
        else:
            echo("stopping at once")
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _on_child(self) -> None:
        reap_orphans(self._managed_pids)

    def _managed_pids(self) -> set[int]:
        server = self.log_server.pid
        return (self._roles.pids if self._roles else set()) | ({server} if server else set())

    # ---- the end -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._background.stopping.set()
        if self._roles is not None:
            await self._roles.stop()
        await self._background.stop()
        if self.log_server.fallback is not None:
            self.log_server.fallback.lock.release()
        echo("stopped")
