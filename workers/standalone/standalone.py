"""One agent by itself: no Redis, no lease, no other agents. For tests and for the foreground.

It is called by the same `AgentRun` that a worker uses, so the same code has the same outcome.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import Struct

from eventstore.language.events import (
    AgentFailure,
    AgentReleased,
    AgentRequested,
    AgentTerminated,
    Error,
)
from eventstore.language.pool_config import PoolConfig
from eventstore.log.replies import ClaimedAgent
from eventstore.steps.step import Fence
from workers.api.agent import Agent, Context
from workers.api.engine import Database
from workers.process.options import WorkerOptions
from workers.process.role_setup import RoleSetup, SetupFailed
from workers.runtime.agent_run import AgentRun
from workers.runtime.errors import describe
from workers.runtime.loop_guard import guard_loop
from workers.runtime.stacks import task_stack
from workers.runtime.stop_signal import StopRequest
from workers.runtime.worker_context import WorkerContext
from workers.standalone.memory_log import MemoryLog

if TYPE_CHECKING:
    from eventstore.log.pool_log import PoolLog

FENCE: Final = Fence("standalone", 1)
STUCK: Final = "stuck"
SETUP_FAILED: Final = "setup_failed"
UNAVAILABLE: Final = "unavailable"
RELEASED: Final = "released"
ENDED: Final = frozenset({"completed", "idle", "requested", RELEASED})
"""Outcomes of an agent that did not fail."""


class StandaloneOptions(Struct, frozen=True, kw_only=True):
    """What a spawn request and a pool say elsewhere. Times are in seconds."""

    project_id: str = "project"
    pool_name: str = "standalone"
    role_type: str = "agent"
    input: Mapping[str, Any] = {}
    labels: Mapping[str, str] = {}
    heartbeat_interval: float = 30.0
    max_idle_time: float | None = None
    config: PoolConfig = PoolConfig(restart_limit=0)
    engine_url: str = ""
    """For `context.engine()`."""
    state: bytes | None = None
    """What an earlier incarnation saved."""
    shared: Any = None
    """In place of what the class's `worker_lifespan` yields, which is not entered then."""


class _Run(AgentRun):
    """Keeps what it made."""

    def __init__(
        self, worker: WorkerContext, claimed: ClaimedAgent, adapt: Callable[[Context], Context]
    ) -> None:
        super().__init__(worker, claimed)
        self._adapt = adapt
        self._kept: tuple[Agent, Context] | None = None

    @property
    def made(self) -> tuple[Agent, Context] | None:
        return self._started or self._kept

    def _new_context(self, role: type[Agent]) -> Context:
        return self._adapt(super()._new_context(role))

    def _drop_references(self) -> None:
        self._kept = self._started
        super()._drop_references()


class Standalone:
    """One incarnation. `run` it once, in a running event loop.

    `adapt` may change its context before anything of it is called. `on_saved` is called with every
    state that it saves.
    """

    def __init__(
        self,
        role: type[Agent],
        options: StandaloneOptions,
        adapt: Callable[[Context], Context] = lambda context: context,
        on_saved: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        spec = {"input": options.input, "labels": options.labels}
        request = AgentRequested(
            role_type=options.role_type,
            project_id=options.project_id,
            heartbeat_interval=options.heartbeat_interval,
            max_idle_time=options.max_idle_time,
            labels=dict(options.labels),
        )
        self._log = MemoryLog(request, options.pool_name, FENCE, options.state, on_saved)
        self._database = Database(options.engine_url)
        guard_loop(asyncio.get_running_loop())
        self._worker = WorkerContext(
            log=cast("PoolLog", self._log),  # it has all that an `AgentRun` calls
            fence=FENCE,
            config=options.config,
            roles={options.role_type: role},
            database=self._database,
            output=None,
            shared=options.shared,
        )
        claimed = ClaimedAgent(self._log.agent, msgspec.json.encode(spec))
        self._run = _Run(self._worker, claimed, adapt)
        self._setup = self._new_setup(role, options)
        self._setup_error: Error | None = None

    def _new_setup(self, role: type[Agent], options: StandaloneOptions) -> RoleSetup:
        worker = WorkerOptions(
            redis_url="",
            pool_name=options.pool_name,
            worker_id=FENCE.worker_id,
            host="",
            config=options.config,
            role=options.role_type if options.shared is None else "",
        )
        roles = {options.role_type: role}
        return RoleSetup(
            worker, roles, self._database, on_phase=lambda _: None, on_ended=lambda _: None
        )

    async def run(self) -> None:
        """All of it; raises nothing that its code raises."""
        grace = self._worker.config.stop_grace_seconds
        try:
            await self._setup.start(self._worker.config.start_timeout_seconds)
            self._worker.shared = self._setup.shared or self._worker.shared
            await self._run.run()
        except SetupFailed as error:
            self._setup_error = describe(error.__cause__ or error)
        finally:
            await self._setup.stop(grace)
            await self._database.close()

    @property
    def state(self) -> bytes | None:
        """What it saved last, or an earlier incarnation; None: nothing."""
        return self._log.state

    def request_release(self) -> None:
        """Let it end in good order as if it were to go on elsewhere: with its state saved."""
        self._run.stop.send(StopRequest.RELEASE, "requested")

    def request_stop(self, *, now: bool = False) -> None:
        """Let it end in good order; `now`: cancel it, without its `stop`."""
        self._run.stop.send(StopRequest.STOP_NOW if now else StopRequest.STOP, "requested")

    @property
    def made(self) -> tuple[Agent, Context] | None:
        """The object and its context, also after its end; None if it could not be made."""
        return self._run.made

    @property
    def events(self) -> tuple[str, ...]:
        """The types of what was recorded so far, such as `agent.started`."""
        return tuple(body.type for body in self._log.events)

    @property
    def outcome(self) -> str:
        """`completed`, `idle`, `requested`, `released`; `start_failed`, `crashed`, `unhealthy`,
        `setup_failed`; `unavailable` (it raised `muster.Unavailable`); `stuck` if its code could
        not be ended; empty while it runs."""
        if self._run.stuck:
            return STUCK
        if self._setup_error is not None:
            return SETUP_FAILED
        for body in reversed(self._log.events):
            if isinstance(body, AgentFailure):
                unavailable = body.error.retry_after_ms is not None
                return UNAVAILABLE if unavailable else body.type.removeprefix("agent.")
            if isinstance(body, AgentTerminated):
                return body.reason
            if isinstance(body, AgentReleased):
                return RELEASED
        return ""

    @property
    def error(self) -> Error | None:
        """What its code raised: the cause of a failure, or of an end in bad order."""
        return self._setup_error or self._log.agent.last_error

    def stack(self) -> str:
        """Where its tasks wait, in the user's code."""
        return "".join(task_stack(task) for task in self._run.running_tasks())
