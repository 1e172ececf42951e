"""`muster up`: everything on one machine, as real processes under one data folder.

The story: take the data folder, start the log's server unless one is given, check it, start
projector, supervisor and gateway side by side, say where everything is, keep them running, and on a
signal end them in order: no new commands, then the agents, then the views, then the log. A second
signal ends all at once.
"""

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.connection.requirements import (
    inspect,
    require_suitable,
    require_writable,
    server_version,
)
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import ConfigurationError, LogError, MusterError, ServerUnsuitable
from eventstore.keys import CATALOGUE
from muster import __version__
from muster.fallback import directory, eligibility, standby
from muster.fallback.last_seen import Recorder
from muster.fallback.standby import ActiveFallback
from muster.process import log_output, running_file
from muster.process.aof_rewrite import rewrite_when_needed
from muster.process.child import Child, NoStatus, become_subreaper, descendants, reap_orphans
from muster.process.redis_wait import retry_until_reachable, run_unless_stopped, wait_for_stop
from muster.process.restarts import (
    STOP_SECONDS,
    RestartableRole,
    RestartableServer,
    restart_on_exit,
)
from muster.process.roles import ROLES, Owner, Part, RoleStatus, prepare, start_role, stop_signals
from muster.settings.addresses import redacted
from muster.settings.loading import to_environment
from muster.settings.settings import Settings
from muster.up import log_messages
from muster.up.exclusivity import check_port, data_folder_lock
from muster.up.log_messages import LogMessages
from muster.up.messages import describe_role, echo, echo_ready, echo_status, remedy
from workers.host.processes import start_time

log = structlog.get_logger("muster.up")

READY_SECONDS = 60.0
START_RETRY_SECONDS = (0.5, 2.0, 5.0)
"""Seconds until a role that tells nothing is started again; if it still does not, all ends."""
STOP_ORDER = ("gateway", "supervisor", "projector")


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
                up.stop_server()
    except MusterError as error:
        print(f"muster up: {error}", file=sys.stderr)
        return 1


class Up:
    """All processes of one machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: EmbeddedServer | None = None
        self._fallback: ActiveFallback | None = None
        self._children: dict[str, Child] = {}
        self._parts: list[Part] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._log_intact = True
        self._signals = 0
        self._started_at = time.monotonic()
        self._log_messages = LogMessages(remedy(settings))

    async def run(self) -> int:
        become_subreaper()
        running_file.remove(self._settings.data_dir)  # of one that was killed
        self._handle_signals()
        echo(f"Muster {__version__}, data in {self._settings.data_dir}")
        if not await self._start_server():
            await self._stop()
            return 0
        if self._server is None:
            if not await self._retry_until_reachable(self._check_redis):
                await self._stop()
                return 0
            prepared = await self._hand_over()
        else:
            if self._fallback is None and directory.not_handed_over(self._settings.data_dir):
                echo("  (a fallback's log waits here; a start with its Redis hands it over)")
            prepared = await self._prepare()
        if not prepared:
            await self._stop()
            return 0
        self._follow_logs()
        try:
            url = await (
                self._start_parts() if self._settings.single_process else self._start_children()
            )
            if not self._stopping.is_set():
                self._write_running_file(url)
                echo_ready(self._settings, url, time.monotonic() - self._started_at)
            await self._stopping.wait()
        finally:
            running_file.remove(self._settings.data_dir)
            await self._stop()
        return 0

    async def _prepare(self) -> bool:
        """See that there is a log, whole or lost; False if the end came before that was known."""

        async def check() -> None:
            self._log_intact = await prepare(
                self._settings, echo=lambda text: echo_status("views", text)
            )

        if not await self._retry_until_reachable(check):
            return False
        if not self._log_intact:
            self._log_messages.mark_lost(CATALOGUE)
            problem = "the log has lost what is archived: commands are refused"
            echo(f"{problem}; {remedy(self._settings)}")
        return True

    async def _retry_until_reachable(self, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Carry it out; while Redis is away that is said and waited for. False if the end came."""
        return await retry_until_reachable(
            attempt, self._stopping, lambda text: echo_status("redis", text)
        )

    def _write_running_file(self, url: str) -> None:
        """Write down where commands find it."""
        settings = self._settings
        info = running_file.Running(
            url=url,
            redis_url=settings.redis_url,
            database_url=settings.views_url,
            key_prefix=settings.key_prefix,
            log_dir=str(settings.log_dir.absolute()),
            fallback=self._fallback.status.description if self._fallback else "",
            pid=os.getpid(),
        )
        if why := running_file.write(settings.data_dir, info):
            writing = running_file.retry_write(settings.data_dir, info, why, self._stopping, echo)
            self._run_in_background(running_file.NAME, writing)

    def _follow_logs(self) -> None:
        """Of the roles, before they are started."""
        names = ("up",) if self._settings.single_process else ROLES
        paths = [self._settings.log_dir / f"{name}.jsonl" for name in names]
        self._run_in_background("tidings", log_messages.follow(paths, self._log_messages, echo))

    def _run_in_background(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Do it until all ends; that it failed is not to be found out by what it no longer does."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

    # ---- signals -----------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            echo(f"\n{number.name}: stopping; agents are handed back first (again: at once)")
            self._stopping.set()
        else:
            echo("stopping at once")
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _on_child(self) -> None:
        reap_orphans(self._managed_pids)

    def _managed_pids(self) -> set[int]:
        pids = {child.pid for child in self._children.values() if child.code is None}
        if self._server is not None and self._server.pid:
            pids.add(self._server.pid)
        return pids

    # ---- the log's server --------------------------------------------------------------------

    async def _start_server(self) -> bool:
        """The one that is ours, if any is; False if the end came before it served."""
        self._fallback = await standby.start_if_needed(self._settings)
        if self._fallback is not None:
            self._enter_fallback(self._fallback)
        settings = self._settings
        if settings.redis_url and self._fallback is None:
            return True
        started_at = time.monotonic()
        folder = self._fallback.folder.path if self._fallback else settings.data_dir
        self._server = EmbeddedServer(folder / "redis", appendfsync=settings.appendfsync)
        server = RestartableServer(self._server, self._stopping, echo)
        if not await server.first_start():
            return False
        self._settings = replace(settings, redis_url=self._server.url)
        self._run_in_background("redis", restart_on_exit(server, self._stopping, echo))
        rewriting = rewrite_when_needed(self._server.url, self._stopping)
        self._run_in_background("redis.rewrite", rewriting)

        async def check() -> None:
            text = f"embedded {await self._version()}, append-only file on, fsync"
            echo_status("redis", f"{text} {settings.appendfsync}", server.pid, started_at)

        return await self._retry_until_reachable(check)

    def _enter_fallback(self, fallback: ActiveFallback) -> None:
        """Go on as a fallback: say so, and look out for the real one."""
        echo(f"\n  WARNING: {fallback.status.description}")
        echo("  Agents of its log do not run meanwhile. What is asked for now is handed over to it")
        echo("  at the next start that reaches it.\n")
        self._run_in_background(
            "probe", standby.watch(self._settings.redis_url, fallback.status, echo)
        )
        self._settings = fallback.settings

    async def _hand_over(self) -> bool:
        """Take over from a fallback that an earlier start left, and watch who else is there.

        False if the end came before that was done.
        """
        from muster.fallback.changeover import Handover

        settings = self._settings
        handover = Handover(settings)
        if not await self._retry_until_reachable(handover.check) or not await self._prepare():
            return False
        if handover.needed:
            self._server = handover.server
            server = RestartableServer(handover.server, self._stopping, echo)
            try:
                for text in await handover.run(server, intact=self._log_intact):
                    echo(text)
            finally:
                self.stop_server()
                self._server = None
        recorder = Recorder(settings)
        if not await self._retry_until_reachable(recorder.refresh):
            return False
        self._run_in_background("surroundings", recorder.follow())
        return True

    async def _check_redis(self) -> None:
        """See that somebody else's server serves. Raises `MusterError`."""
        settings = self._settings
        source = settings.sources.get("redis_url", "settings")
        echo_status("redis", f"{redacted(settings.redis_url)} ({source}), {await self._version()}")

    async def _version(self) -> str:
        """Of a server that is fit and takes writes. Raises `MusterError`."""
        client = connect(self._settings.redis_url, max_connections=1)
        try:
            info = await inspect(client)
            require_suitable(info)
            await require_writable(client)
        except (LogError, ServerUnsuitable) as error:
            raise type(error)(f"{redacted(self._settings.redis_url)}: {error}") from None
        finally:
            await client.aclose()
        kind, version = server_version(info)
        return f"{kind.capitalize()} {'.'.join(map(str, version))}"

    def stop_server(self) -> None:
        if self._server is not None:
            self._server.stop()

    # ---- roles as processes ------------------------------------------------------------------

    async def _start_children(self) -> str:
        environment = {
            **os.environ,
            **to_environment(replace(self._settings, fallback="none", embedded=False)),
            "MUSTER_OWNER_PID": str(os.getpid()),
            "MUSTER_OWNER_START": str(start_time(os.getpid())),
        }
        if self._settings.embedded:
            for name in ("DATABASE_URL", "PGBOUNCER_URL", "REDIS_URL", "MUSTER_EMBEDDED"):
                environment.pop(name, None)
        for role in ROLES:
            logs = self._settings.log_dir
            self._children[role] = Child(
                role,
                [sys.executable, "-P", "-m", "muster", role],
                {**environment, "MUSTER_ROLE_LOG": str((logs / f"{role}.jsonl").absolute())},
                logs / f"{role}.err",
            )
        urls: list[str] = []

        async def start() -> None:
            urls.extend(await asyncio.gather(*(self._start_child(role) for role in ROLES)))

        if not await run_unless_stopped(self._stopping, start):
            return ""
        for role in ROLES:
            process = RestartableRole(
                self._children[role], functools.partial(self._start_and_wait, role)
            )
            self._run_in_background(role, restart_on_exit(process, self._stopping, echo))
        return next((url for url in urls if url), "")

    async def _start_child(self, role: str) -> str:
        started_at = time.monotonic()
        child = self._children[role]
        status = await self._start_with_retries(role)
        if status.failed and not self._stopping.is_set():
            raise ConfigurationError(f"{role}: {status.failed}")
        if port := urlsplit(status.url).port:
            child.environment["MUSTER_PORT"] = str(port)  # the same one if it is started again
        echo_status(role, describe_role(role, self._settings, status.url), child.pid, started_at)
        return status.url

    async def _start_with_retries(self, role: str) -> RoleStatus:
        """Start it, a few times where it tells nothing: it was killed, or refused a process."""
        child = self._children[role]
        status = await self._start_and_wait(role)
        for seconds in START_RETRY_SECONDS:
            if not isinstance(status, NoStatus) or self._stopping.is_set():
                break
            reason = f"could not be started: {status.failed}"
            echo_status(role, f"{reason}; starting it again in {seconds:g} s")
            log.warning("role.ended", process=role, reason=reason, again_in_seconds=seconds)
            await child.stop(STOP_SECONDS)
            if await wait_for_stop(self._stopping, seconds):
                break
            status = await self._start_and_wait(role)
        return status

    async def _start_and_wait(self, role: str) -> RoleStatus:
        """Start it, and wait until it tells: a while, but for Redis as long as it takes."""
        child = self._children[role]
        status = await child.start(READY_SECONDS)
        while child.awaiting_status and await self._redis_was_unreachable(role):
            status = await child.wait_status(READY_SECONDS)
        return status

    async def _redis_was_unreachable(self, role: str) -> bool:
        """Whether that is what a silent role waits for; answers once Redis is back."""
        messages: list[str] = []

        async def check() -> None:
            await self._version()

        def report(text: str) -> None:
            messages.append(text)
            echo_status(role, text)

        await retry_until_reachable(check, self._stopping, report)
        return bool(messages)

    # ---- or as parts of this process ---------------------------------------------------------

    async def _start_parts(self) -> str:
        for role in ROLES:
            start = functools.partial(self._start_part, role)
            if not await retry_until_reachable(
                start, self._stopping, functools.partial(echo_status, role)
            ):
                return ""
        return next(url for part in self._parts if (url := getattr(part, "url", "")))

    async def _start_part(self, role: str) -> None:
        started_at = time.monotonic()
        fallback = self._fallback.status if self._fallback else None
        part = await start_role(role, self._settings, Owner(), fallback)
        self._parts.append(part)
        text = describe_role(role, self._settings, getattr(part, "url", ""))
        echo_status(role, f"{text} (in this process)", os.getpid(), started_at)

    # ---- the end -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._stopping.set()
        limits = {"supervisor": self._settings.shutdown_seconds + STOP_SECONDS}
        for part in reversed(self._parts):
            await part.stop()
        for role in STOP_ORDER:
            child = self._children.get(role)
            if child and not await child.stop(limits.get(role, STOP_SECONDS)):
                echo(f"{role} had to be killed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fallback is not None:
            self._fallback.lock.release()
        echo("stopped")


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        echo(f"a defect of Muster: nobody looks after {task.get_name()} any more: {error!r}")
        log.error("up.task_failed", task=task.get_name(), exc_info=error)
