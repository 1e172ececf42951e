"""What a worker does before its first claim, and after its last agent has ended.

It imports its role, if that was not done before the fork, and enters what the role's
`worker_lifespan` yields: what the agents of one worker share. The worker is in the log meanwhile
and renews its lease; it is ordered capacity, and has no room until it is ready. If that fails, or
takes too long, it ends with a reason that names the role. No agent has failed then: none was
claimed.

The lifespan runs in one task that belongs to no agent, so that it may enter task groups and cancel
scopes. If it ends by itself, what the agents share is gone: the worker is drained.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog

from eventstore.errors import ConfigurationError, MusterError
from workers.api import role_loader
from workers.api.agent import Agent, WorkerInfo
from workers.api.engine import Database
from workers.process.options import WorkerOptions
from workers.runtime.errors import describe
from workers.runtime.loop_guard import SHARED

log = structlog.get_logger("muster.worker")

LINE_MAX = 300
"""Characters of an error in a reason."""


class SetupFailed(MusterError):
    """The worker cannot run agents of its role; the text is the reason for its end."""


class RoleSetup:
    """The role of one worker, from its import to the end of what its agents share."""

    def __init__(
        self,
        options: WorkerOptions,
        roles: MutableMapping[str, type[Agent]],
        database: Database,
        *,
        on_phase: Callable[[str], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self.shared: object = None
        """What the lifespan yielded."""
        self.phase = ""
        """What is to be done first, for people; empty if nothing is."""
        self._options, self._roles, self._database = options, roles, database
        self._on_phase, self._on_ended = on_phase, on_ended
        self._named = f"role {options.role!r} ({options.role_path or 'imported before'})"
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if options.role not in roles:
            self.phase = f"importing {self._named}" if options.role else ""
        elif _has_lifespan(roles[options.role]):
            self.phase = f"setting up {self._named}"

    async def start(self, timeout_seconds: float) -> None:
        """Get ready, in so many seconds besides the import. Raises `SetupFailed`."""
        name = self._options.role
        if name and name not in self._roles:
            self._import()
        role = self._roles.get(name)
        if role is not None and _has_lifespan(role):
            self._on_phase(f"setting up {self._named}")
            await self._enter(role, timeout_seconds)
        self._on_phase("")

    async def stop(self, seconds: float) -> None:
        """Leave the lifespan, in so many seconds; then it is cancelled. May be called again."""
        self._leave.set()
        if self._task is None:
            return
        if not (await asyncio.wait({self._task}, timeout=seconds))[0]:
            log.warning("worker.teardown_cancelled", role=self._options.role, seconds=seconds)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)

    def _import(self) -> None:
        name, path = self._options.role, self._options.role_path
        if not path:
            raise SetupFailed(f"role-not-declared: this host's configuration has no role {name!r}")
        try:
            self._roles[name] = role_loader.load(path, self._options.app_dir).role
        except ConfigurationError as error:
            log.error("worker.import_failed", role=name, path=path, error=str(error))
            raise _failed("import-failed", self._named, error.__cause__ or error) from error

    async def _enter(self, role: type[Agent], timeout_seconds: float) -> None:
        entered = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._live(role, entered))
        await asyncio.wait(
            {self._task, entered}, timeout=timeout_seconds, return_when="FIRST_COMPLETED"
        )
        if entered.done():
            self._task.add_done_callback(self._on_task_done)
            return
        if not self._task.done():
            self._task.cancel()
            raise SetupFailed(f"setup-failed: {self._named} took more than {timeout_seconds:g} s")
        raise _failed("setup-failed", self._named, _error_of(self._task)) from _error_of(self._task)

    async def _live(self, role: type[Agent], entered: "asyncio.Future[None]") -> None:
        options = self._options
        info = WorkerInfo(options.worker_id, options.pool_name, options.role, self._database)
        SHARED.set(True)
        try:
            async with _as_manager(role.worker_lifespan(info)) as self.shared:
                entered.set_result(None)
                await self._leave.wait()
        except Exception:
            log.exception("worker.lifespan_failed", role=options.role)
            raise

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        if not self._leave.is_set():
            self._on_ended(str(_failed("lifespan-failed", self._named, _error_of(task))))


def _as_manager(returned: Any) -> AbstractAsyncContextManager[object]:
    """An async generator without `asynccontextmanager` is accepted, too."""
    if inspect.isasyncgen(returned):
        return asynccontextmanager(lambda: returned)()
    if not isinstance(returned, AbstractAsyncContextManager):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(
            "worker_lifespan must be an async context manager: a classmethod that yields once"
        )
    return returned


def _has_lifespan(role: type[Agent]) -> bool:
    name = "worker_lifespan"
    return inspect.getattr_static(role, name) is not inspect.getattr_static(Agent, name)


def _error_of(task: "asyncio.Task[None]") -> BaseException:
    with contextlib.suppress(asyncio.CancelledError):
        return task.exception() or RuntimeError("it ended by itself")
    return asyncio.CancelledError("it was cancelled")


def _failed(what: str, named: str, error: BaseException) -> SetupFailed:
    described = describe(error)
    first_line = (described.message.splitlines() or [""])[0][:LINE_MAX]
    return SetupFailed(f"{what}: {named}: {described.type}: {first_line}")
