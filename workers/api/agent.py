"""What users write, and what Muster passes to it: `Agent` and `Context`.

All methods of an agent are optional. `start` has `start_timeout_seconds`; once it returned, the
agent is running. `run`, if there is one, is the agent's work: returning means completed, raising
means crashed; without it the agent stays, idle, until its end is requested. `check` is called every
`heartbeat_interval` seconds; raising, or hanging for as long, twice in a row means unhealthy.

`stop` releases what `start` acquired. It is called once after any `start` that returned, when `run`
has ended, unless the agent is to end at once or its worker has lost the right to run it. All three
run in one task. At an end in good order `context.stopping` is set; a `run` that looked at it may
return by itself for half of the grace period, then, or at once if it never looked, it is cancelled.
`stop` has what is left of the grace period, at least a third. A `start` that is still under way
when the agent is to end is cancelled, and `stop` is not called.

A class with `save` and `restore` has a state, which goes on where the agent does. `restore` gets
what was saved last, before `start` and within its time. `save` is called by `context.save()`, and
after `stop` where the agent is released in good order, within what is left of the grace period.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from msgspec import Struct

from eventstore.language.agents import Agent as State
from workers.api.untraced import untraced

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from sqlalchemy.ext.asyncio import AsyncEngine

    from workers.api.engine import Database


class Agent:
    """The base of every role. Made without arguments, once per incarnation."""

    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: "WorkerInfo") -> AsyncIterator[object]:  # noqa: ARG003
        """Around all agents of this role in one worker: yields once, what they share.

        They find it as `context.shared`. It is entered before the worker claims its first agent and
        left after the last one has ended, in one task of the worker's own. Raising, or taking more
        than `start_timeout_seconds`, ends the worker before any agent is started.
        """
        yield None

    async def start(self, context: "Context") -> None:
        """Make ready. Raising is a failed start."""

    async def run(self, context: "Context") -> None:
        """Do the work."""

    async def check(self, context: "Context") -> None:
        """Raise if something is wrong."""

    async def stop(self, context: "Context") -> None:
        """Release what `start` acquired, within the grace period."""

    async def save(self) -> bytes:
        """Its state, at most 1 MiB, for the next incarnation. Needs a `restore`."""
        return b""

    async def restore(self, state: bytes) -> None:
        """Continue from what was saved last. Raising is a failed start."""


class Unavailable(Exception):
    """Raised by `start`, `run` or `check`: the agent cannot work now, and that is not its fault.

    It is started again after `retry_after` seconds (at least `backoff_min_seconds`, at most a day).
    However often that happens, it counts against no limit and lengthens no back-off.
    """

    retry_after: float = 30.0

    def __init__(self, message: str = "", *, retry_after: float = 30.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SaveFailed(Exception):
    """Raised by `context.save()`: the state was not stored, or not as durably as is required.

    The message says why, and which. What was stored last is what the next incarnation gets.
    """


for public in (Unavailable, SaveFailed):
    public.__module__ = "muster"  # the name that users know


def overrides(role: type[Agent], method: str) -> bool:
    """Whether a role has a method of its own."""
    return getattr(role, method) is not getattr(Agent, method)


def keeps_state(role: type[Agent]) -> bool:
    """Whether a role has a state that moves with its agents."""
    return overrides(role, "save") and overrides(role, "restore")


def starts_at_once(role: type[Agent]) -> bool:
    """Whether nothing of a role's own is called before `run`: not to make it, not to start it."""
    own = any(overrides(role, method) for method in ("__new__", "__init__", "start"))
    return type(role) is type(Agent) and not own


class WorkerInfo:
    """The worker whose agents share what `Agent.worker_lifespan` yields."""

    def __init__(
        self, worker_id: str, pool_name: str, role_type: str, database: "Database"
    ) -> None:
        self.worker_id = worker_id
        self.pool_name = pool_name
        self.role_type = role_type
        self.logger: Any = structlog.get_logger("muster.worker").bind(role=role_type)
        """A structlog logger; its lines have the worker's id."""
        self.engine = database.engine
        """The engine of `Context.engine()`."""


class FencingToken(Struct, frozen=True, order=True):
    """Grows with every claim of an agent. Hand it along with writes to other systems, and let
    them refuse a token lower than the highest they saw: an instruction of a worker that was
    stopped and continued may run after another worker has taken over."""

    generation: int
    seq: int

    def __str__(self) -> str:
        return f"{self.generation}:{self.seq}"


class Spec(Struct, frozen=True):
    """What the spawn request contained."""

    input: dict[str, Any] = {}
    labels: dict[str, str] = {}
    traceparent: str = ""
    """Of the request, where it is traced."""


def read_spec(data: bytes) -> Spec:
    """The spec as a claim returns it; empty bytes are an empty one."""
    return msgspec.json.decode(data, type=Spec) if data else Spec()


class Context:
    """An agent's own data, and what its worker provides."""

    def __init__(
        self,
        state: State,
        spec: Spec,
        token: FencingToken,
        *,
        new_logger: Callable[[], Any],
        database: "Database",
        has_run: bool,
        shared: Any = None,
        save: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.agent_id = state.agent_id
        self.pool_name = state.pool_name
        self.role_type = state.role_type
        self.project_id = state.project_id
        self.incarnation = state.incarnation
        """1 for the first start; a restart adds one."""
        self.input = spec.input
        self.labels = spec.labels
        self.fencing_token = token
        self.shared = shared
        """What the role's `worker_lifespan` yielded: the same for all its agents in this worker."""
        self._stopping: asyncio.Event | None = None
        self._new_logger = new_logger
        self._database = database
        self._has_run = has_run
        self._save = save
        self._idle_depth = 0
        self._idle_since = time.monotonic()

    @cached_property
    def logger(self) -> Any:
        """A structlog logger; its lines have this agent's ids."""
        return self._new_logger()

    @cached_property
    def tracer(self) -> "Tracer":
        """An OpenTelemetry tracer: spans of this agent are children of the one of its start.

        With `otel` off they go where the agent's own OpenTelemetry sends them, or nowhere.
        """
        return untraced()

    @property
    def stopping(self) -> asyncio.Event:
        """Set once the agent is to end: whoever looks at it gets time to return from `run`."""
        self._stopping = self._stopping or asyncio.Event()
        return self._stopping

    def request_stop(self) -> bool:
        """(For the worker.) Set `stopping`; returns whether the agent ever looked at it."""
        seen = self._stopping is not None
        self.stopping.set()
        return seen

    def touch(self) -> None:
        """Restart the idle clock: something happened."""
        self.restart_idle_clock()

    def restart_idle_clock(self) -> None:
        """(For the worker.)"""
        self._idle_since = time.monotonic()

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        """`async with context.idle():` around waiting for work: the agent counts as idle inside.

        May be nested.
        """
        self.restart_idle_clock()
        self._idle_depth += 1
        try:
            yield
        finally:
            self._idle_depth -= 1
            self.restart_idle_clock()

    async def save(self) -> None:
        """Store what the agent's `save` returns now: its next incarnation gets it.

        Waits while Redis does not answer. Raises `SaveFailed`, `TypeError` where the class has no
        `save` and `restore` or `save` returns no bytes, and what `save` raises.
        """
        if self._save is None:
            raise SaveFailed("there is nowhere to store a state")
        await self._save()

    def engine(self) -> "AsyncEngine":
        """The worker's SQLAlchemy engine, shared by all its agents and opened on first use.

        It is closed by the worker, never by an agent. Raises `ConfigurationError` without a URL.
        """
        return self._database.engine()

    @property
    def busy(self) -> bool:
        """Whether it works: it has a `run` and is outside of `idle()`."""
        return self._has_run and self._idle_depth == 0

    @property
    def idle_seconds(self) -> float:
        """For how long it has been idle; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self._idle_since


class Placeholder(Agent):
    """Starts at once and stays until its end is requested."""

    async def start(self, context: Context) -> None:
        context.logger.info("agent.ready")
