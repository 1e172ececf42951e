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
    demand_suitable,
    demand_writable,
    inspect,
    server_version,
)
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import ConfigurationError, LogError, MusterError, ServerUnsuitable
from eventstore.keys import CATALOGUE
from muster import __version__
from muster.fallback import eligibility
from muster.fallback import standby as probe
from muster.fallback import standby as standin
from muster.fallback.directory import Folder
from muster.fallback.last_seen import Observer
from muster.fallback.standby import StandIn
from muster.process import log_output, running_file
from muster.process.child import Child, Unheard, become_subreaper, descendants, reap_orphans
from muster.process.redis_wait import outlast, pause, unless
from muster.process.restarts import STOP_SECONDS, KeptRole, KeptServer, keep
from muster.process.roles import ROLES, Owner, Part, Told, begin, ending_signals, prepare
from muster.settings.addresses import redacted
from muster.settings.settings import Settings, to_environment
from muster.up import log_messages
from muster.up.exclusivity import check_port, data_folder
from muster.up.log_messages import Tidings
from muster.up.messages import about, line, remedy, say, say_ready
from workers.host.processes import start_time

log = structlog.get_logger("muster.up")

READY_SECONDS = 60.0
FIRST_PAUSES = (0.5, 2.0, 5.0)
"""Seconds until a role that tells nothing is started again; if it still does not, all ends."""
STOP_ORDER = ("gateway", "supervisor", "projector")


def run(settings: Settings) -> int:
    """Run until a signal; returns the exit code. Errors are one message on standard error."""
    try:
        eligibility.demand_possible(settings)
        with data_folder(settings.data_dir):
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
        self._stand_in: StandIn | None = None
        self._children: dict[str, Child] = {}
        self._parts: list[Part] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._whole = True
        self._signals = 0
        self._began = time.monotonic()
        self._tidings = Tidings(remedy(settings))

    async def run(self) -> int:
        become_subreaper()
        running_file.remove(self._settings.data_dir)  # of one that was killed
        self._listen()
        say(f"Muster {__version__}, data in {self._settings.data_dir}")
        if not await self._start_server():
            await self._stop()
            return 0
        if self._server is None:
            if not await self._outlast(self._reach):
                await self._stop()
                return 0
            begun = await self._change_over()
        else:
            if self._stand_in is None and Folder(self._settings.data_dir).used:
                say("  (a fallback's log waits here; a start with its Redis takes it over)")
            begun = await self._prepare()
        if not begun:
            await self._stop()
            return 0
        self._follow_logs()
        try:
            url = await (
                self._start_parts() if self._settings.single_process else self._start_children()
            )
            if not self._stopping.is_set():
                self._note(url)
                say_ready(self._settings, url, time.monotonic() - self._began)
            await self._stopping.wait()
        finally:
            running_file.remove(self._settings.data_dir)
            await self._stop()
        return 0

    async def _prepare(self) -> bool:
        """See that there is a log, whole or lost; False if the end came before that was known."""

        async def look() -> None:
            self._whole = await prepare(self._settings, say=lambda text: line("views", text))

        if not await self._outlast(look):
            return False
        if not self._whole:
            self._tidings.know_lost(CATALOGUE)
            what = "the log has lost what is archived: commands are refused"
            say(f"{what}; {remedy(self._settings)}")
        return True

    async def _outlast(self, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Carry it out; while Redis is away that is said and waited for. False if the end came."""
        return await outlast(attempt, self._stopping, lambda text: line("redis", text))

    def _note(self, url: str) -> None:
        """Write down where commands find it."""
        settings = self._settings
        told = running_file.Running(
            url=url,
            redis_url=settings.redis_url,
            database_url=settings.views_url,
            key_prefix=settings.key_prefix,
            log_dir=str(settings.log_dir.absolute()),
            fallback=self._stand_in.told.sentence if self._stand_in else "",
            pid=os.getpid(),
        )
        if why := running_file.write(settings.data_dir, told):
            later = running_file.write_later(settings.data_dir, told, why, self._stopping, say)
            self._look_after(running_file.NAME, later)

    def _follow_logs(self) -> None:
        """Of the roles, before they are started."""
        names = ("up",) if self._settings.single_process else ROLES
        paths = [self._settings.log_dir / f"{name}.jsonl" for name in names]
        self._look_after("tidings", log_messages.follow(paths, self._tidings, say))

    def _look_after(self, what: str, work: Coroutine[None, None, None]) -> None:
        """Do it until all ends; that it failed is not to be found out by what it no longer does."""
        task = asyncio.create_task(work, name=what)
        task.add_done_callback(_tell_failure)
        self._keepers.append(task)

    # ---- signals -----------------------------------------------------------------------------

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in ending_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            say(f"\n{number.name}: stopping; agents are handed back first (again: at once)")
            self._stopping.set()
        else:
            say("stopping at once")
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _on_child(self) -> None:
        reap_orphans(self._known)

    def _known(self) -> set[int]:
        known = {child.pid for child in self._children.values() if child.code is None}
        if self._server is not None and self._server.pid:
            known.add(self._server.pid)
        return known

    # ---- the log's server --------------------------------------------------------------------

    async def _start_server(self) -> bool:
        """The one that is ours, if any is; False if the end came before it served."""
        self._stand_in = await standin.begin(self._settings)
        if self._stand_in is not None:
            self._stand(self._stand_in)
        settings = self._settings
        if settings.redis_url and self._stand_in is None:
            return True
        began = time.monotonic()
        folder = self._stand_in.folder.path if self._stand_in else settings.data_dir
        self._server = EmbeddedServer(folder / "redis", appendfsync=settings.appendfsync)
        kept = KeptServer(self._server, self._stopping, say)
        if not await kept.begin():
            return False
        self._settings = replace(settings, redis_url=self._server.url)
        self._look_after("redis", keep(kept, self._stopping, say))

        async def look() -> None:
            text = f"embedded {await self._version()}, append-only file on, fsync"
            line("redis", f"{text} {settings.appendfsync}", kept.pid, began)

        return await self._outlast(look)

    def _stand(self, stand_in: StandIn) -> None:
        """Go on as a fallback: say so, and look out for the real one."""
        say(f"\n  WARNING: {stand_in.told.sentence}")
        say("  Agents of its log do not run meanwhile. What is asked for now is handed over to it")
        say("  at the next start that reaches it.\n")
        self._look_after("probe", probe.watch(self._settings.redis_url, stand_in.told, say))
        self._settings = stand_in.settings

    async def _change_over(self) -> bool:
        """Take over from a fallback that an earlier start left, and watch who else is there.

        False if the end came before that was done.
        """
        from muster.fallback.changeover import ChangeOver

        settings = self._settings
        change = ChangeOver(settings)
        if not await self._outlast(change.check) or not await self._prepare():
            return False
        if change.needed:
            self._server = change.server
            try:
                await change.run(KeptServer(change.server, self._stopping, say), whole=self._whole)
            finally:
                self.stop_server()
                self._server = None
            for text in change.conclude():
                say(text)
        observer = Observer(settings)
        if not await self._outlast(observer.look):
            return False
        self._look_after("surroundings", observer.follow())
        return True

    async def _reach(self) -> None:
        """See that somebody else's server serves. Raises `MusterError`."""
        settings = self._settings
        source = settings.sources.get("redis_url", "settings")
        line("redis", f"{redacted(settings.redis_url)} ({source}), {await self._version()}")

    async def _version(self) -> str:
        """Of a server that is fit and takes writes. Raises `MusterError`."""
        client = connect(self._settings.redis_url, max_connections=1)
        try:
            info = await inspect(client)
            demand_suitable(info)
            await demand_writable(client)
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

        if not await unless(self._stopping, start):
            return ""
        for role in ROLES:
            kept = KeptRole(self._children[role], functools.partial(self._start_and_hear, role))
            self._look_after(role, keep(kept, self._stopping, say))
        return next((url for url in urls if url), "")

    async def _start_child(self, role: str) -> str:
        began = time.monotonic()
        child = self._children[role]
        told = await self._start_patiently(role)
        if told.failed and not self._stopping.is_set():
            raise ConfigurationError(f"{role}: {told.failed}")
        if port := urlsplit(told.url).port:
            child.environment["MUSTER_PORT"] = str(port)  # the same one if it is started again
        line(role, about(role, self._settings, told.url), child.pid, began)
        return told.url

    async def _start_patiently(self, role: str) -> Told:
        """Start it, a few times where it tells nothing: it was killed, or refused a process."""
        child = self._children[role]
        told = await self._start_and_hear(role)
        for seconds in FIRST_PAUSES:
            if not isinstance(told, Unheard) or self._stopping.is_set():
                break
            reason = f"could not be started: {told.failed}"
            line(role, f"{reason}; starting it again in {seconds:g} s")
            log.warning("role.ended", ended=role, reason=reason, again_in_seconds=seconds)
            await child.stop(STOP_SECONDS)
            if await pause(self._stopping, seconds):
                break
            told = await self._start_and_hear(role)
        return told

    async def _start_and_hear(self, role: str) -> Told:
        """Start it, and wait until it tells: a while, but for Redis as long as it takes."""
        child = self._children[role]
        told = await child.start(READY_SECONDS)
        while child.silent and await self._redis_was_away(role):
            told = await child.hear(READY_SECONDS)
        return told

    async def _redis_was_away(self, role: str) -> bool:
        """Whether that is what a silent role waits for; answers once Redis is back."""
        said: list[str] = []

        async def look() -> None:
            await self._version()

        def tell(text: str) -> None:
            said.append(text)
            line(role, text)

        await outlast(look, self._stopping, tell)
        return bool(said)

    # ---- or as parts of this process ---------------------------------------------------------

    async def _start_parts(self) -> str:
        for role in ROLES:
            start = functools.partial(self._start_part, role)
            if not await outlast(start, self._stopping, functools.partial(line, role)):
                return ""
        return next(url for part in self._parts if (url := getattr(part, "url", "")))

    async def _start_part(self, role: str) -> None:
        began = time.monotonic()
        told = self._stand_in.told if self._stand_in else None
        part = await begin(role, self._settings, Owner(), told)
        self._parts.append(part)
        text = about(role, self._settings, getattr(part, "url", ""))
        line(role, f"{text} (in this process)", os.getpid(), began)

    # ---- the end -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._stopping.set()
        limits = {"supervisor": self._settings.shutdown_seconds + STOP_SECONDS}
        for part in reversed(self._parts):
            await part.stop()
        for role in STOP_ORDER:
            child = self._children.get(role)
            if child and not await child.stop(limits.get(role, STOP_SECONDS)):
                say(f"{role} had to be killed")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._stand_in is not None:
            self._stand_in.release()
        say("stopped")


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        say(f"a defect of Muster: nobody looks after {task.get_name()} any more: {error!r}")
        log.error("up.keeper_failed", keeper=task.get_name(), exc_info=error)
