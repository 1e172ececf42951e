"""One run of one agent in its slot, from the claim to the settled end.

Start it, record that, let it work, watch it, stop it, record how it ended. What is requested of it
from outside is a `StopRequest`; a stronger one overrides a weaker one at any time. Two rules hold
throughout: an end, release or restart is written only when nothing of the agent runs any more, and
once the worker has lost the right to run the agent nothing is written at all.
"""

import asyncio
from typing import Final

import structlog

from eventstore.language.agent_commands import Clear, Command, End, Release, Started
from eventstore.language.agents import Status, Stop
from eventstore.language.events import Error
from eventstore.log.replies import AgentResult, ClaimedAgent, Outcome
from workers.api.agent import Agent, Context, FencingToken, overrides, read_spec
from workers.output.lines import Owner, logger_of
from workers.runtime.calls import AgentTask, Call, Stuck
from workers.runtime.children import end_children
from workers.runtime.end_conditions import EndConditions, HealthCheck
from workers.runtime.errors import timeout_error
from workers.runtime.worker_context import StopRequest, WorkerContext, failure, write_outcome

CLOSE_SECONDS: Final = 1.0
"""For generators that an agent left open."""

RUN_SHARE: Final = 2 / 3
"""The part of the grace period after which `stop`, if there is one, may not wait for `run`."""
RETURN_SHARE: Final = 3 / 4
"""The part of that in which a `run` that looks at `context.stopping` may return by itself."""

log = structlog.get_logger("muster.agent_run")

_LOG_EVENTS: Final = {
    Status.RUNNING: "agent.started",
    Status.RESTARTING: "agent.restarting",
    Status.PENDING: "agent.released",
    Status.TERMINATED: "agent.terminated",
    Status.FAILED: "agent.failed",
}


class AgentRun:
    """One incarnation of one agent."""

    def __init__(self, worker_context: WorkerContext, claimed: ClaimedAgent) -> None:
        self.worker_context = worker_context
        self.state = claimed.agent
        self.agent_id = claimed.agent.agent_id
        self.incarnation = claimed.agent.incarnation
        self.stop_request = StopRequest.NONE
        self.stuck = False
        self._reason = ""
        self._spec = claimed.spec
        ids: dict[str, object] = {
            "agent_id": self.agent_id,
            "incarnation": self.incarnation,
            "pool": self.state.pool_name,
            "role": self.state.role_type,
            "project_id": self.state.project_id,
            "worker_id": worker_context.fence.worker_id,
        }
        self._owner = Owner(ids, worker_context.output)
        self._variables = self._owner.context()
        self._task = AgentTask(self._owner, self._variables, self.agent_id)
        self._started: tuple[Agent, Context] | None = None
        self._stop_requested = asyncio.get_running_loop().create_future()
        self._log = log.bind(agent_id=self.agent_id, incarnation=self.incarnation)

    @property
    def busy(self) -> bool:
        return self._started is not None and self._started[1].busy

    def owns(self, task: "asyncio.Task[object]") -> bool:
        """Whether its code created the task, or it is one of its calls."""
        return task in self._owner.tasks

    def running_tasks(self) -> "list[asyncio.Task[object]]":
        """Those of its tasks that have not ended."""
        return self._owner.running_tasks()

    def request_stop(self, request: StopRequest, reason: str = "") -> None:
        """Request its end in some way. A weaker request than the present one changes nothing."""
        if request > self.stop_request:
            self.stop_request, self._reason = request, reason or self._reason
            requested = self._stop_requested
            self._stop_requested = asyncio.get_running_loop().create_future()
            requested.set_result(None)

    def apply_stop_flag(self, stop: Stop) -> None:
        """Follow the termination flag."""
        if stop is not Stop.NO:
            now = stop is Stop.NOW
            self.request_stop(StopRequest.STOP_NOW if now else StopRequest.STOP, "requested")

    async def run(self) -> None:
        """All of it. Sets `stuck`, and writes nothing, if its code cannot be ended."""
        self.apply_stop_flag(self.state.stop)
        try:
            command = await self._start()
            if command is None:
                command = await self._run_until_end()
            await self._task.end()
            await self._free_agent()
            if not await end_children(
                self._owner, grace=self.stop_request < StopRequest.RELEASE_NOW
            ):
                raise Stuck
        except Stuck:
            self.stuck = True
            self._log.error("agent.stuck")
            return
        finally:
            self._task.close()
            if self.worker_context.output is not None:
                self.worker_context.output.flush(self._owner)
        await self._settle(command)

    # ---- starting ------------------------------------------------------------------------------

    async def _start(self) -> Command | None:
        """Start it; None once it is recorded as running, else how it ended."""
        if self.stop_request:
            return self._requested_command()
        if problem := self.worker_context.role_problem(self.state.role_type):
            self.worker_context.on_role_problem(problem)
            return Release(reason=problem)
        limit = self.worker_context.config.start_timeout_seconds
        call = self._task.call(self._start_agent)
        await self._wait_for_call(call, limit, StopRequest.RELEASE)
        if not call.done:
            call.cancel()
            await self._task.end()
            if self.stop_request:
                return self._requested_command()
            return failure(self.worker_context, self.state, "start", timeout_error("start", limit))
        if call.error:
            return failure(self.worker_context, self.state, "start", call.error)
        await self._settle(Started(now_ms=self.worker_context.log.now_ms()))
        if self.state.worker_id != self.worker_context.fence.worker_id:
            self._on_fenced(Outcome.ALREADY)
        self.apply_stop_flag(self.state.stop)
        return None

    async def _start_agent(self) -> None:
        worker_context, state = self.worker_context, self.state
        role = worker_context.roles[state.role_type]
        context = self._new_context(role)
        agent = role()
        self._started = agent, context
        await agent.start(context)

    def _new_context(self, role: type[Agent]) -> Context:
        worker_context, state = self.worker_context, self.state
        generation = 0 if worker_context.fallback else worker_context.log.high_water_mark()[0]
        return Context(
            state,
            read_spec(self._spec),
            FencingToken(generation, state.claim_seq),
            logger=logger_of(self._owner),
            database=worker_context.database,
            shared=worker_context.shared,
            has_run=overrides(role, "run"),
        )

    # ---- running -------------------------------------------------------------------------------

    async def _run_until_end(self) -> Command:
        """Let it run until it ends by itself, or has to."""
        assert self._started is not None
        agent, context = self._started
        kind = type(agent)
        context.restart_idle_clock()
        run: Call | None = None
        health_check: HealthCheck | None = None
        if not self.stop_request:
            if overrides(kind, "run"):
                run = self._task.call(lambda: agent.run(context))
            if overrides(kind, "check"):
                health_check = HealthCheck(
                    lambda: self._task.call_apart(lambda: agent.check(context)),
                    self.state.heartbeat_interval,
                )
        conditions = EndConditions(self.worker_context, context, run, health_check)
        command = await self._wait_for_end(conditions)
        if health_check is not None and health_check.call is not None:
            health_check.call.cancel()
        error = await self._stop(agent, context, run)
        return command or self._requested_command(error)

    async def _wait_for_end(self, conditions: EndConditions) -> Command | None:
        """Wait until something ends it; None if that is a request to stop."""
        while not self.stop_request:
            if command := conditions.poll(self.state):
                return command
            if conditions.isolation_ended(self.state):
                await self._settle(Clear(reason="behaved"))
            await self._wait(conditions.calls, conditions.wait_seconds(self.state))
        return None

    async def _stop(self, agent: Agent, context: Context, run: Call | None) -> Error | None:
        """End `run`, then call `stop`, within the grace period; returns what they raised."""
        clock = asyncio.get_running_loop().time
        grace = self.worker_context.config.stop_grace_seconds
        has_stop, deadline = overrides(type(agent), "stop"), clock() + grace
        patient = context.request_stop()
        raised: Error | None = None
        if run is not None:
            if patient:
                share = RETURN_SHARE * (RUN_SHARE if has_stop else 1.0)
                await self._wait_for_call(run, grace * share, StopRequest.RELEASE_NOW)
            await self._cancel(run, deadline - clock())
            raised = run.error
        if has_stop and self.stop_request < StopRequest.RELEASE_NOW:
            seconds = max(deadline - clock(), grace * (1 - RUN_SHARE))
            raised = await self._call_stop(agent, context, seconds) or raised
        return raised

    async def _call_stop(self, agent: Agent, context: Context, seconds: float) -> Error | None:
        stop = self._task.call(lambda: agent.stop(context))
        await self._wait_for_call(stop, seconds, StopRequest.RELEASE_NOW)
        error = stop.error
        if not stop.done:
            stop.cancel()
            if self.stop_request < StopRequest.RELEASE_NOW:
                error = timeout_error("stop", seconds)
        if error:
            self._log.warning("agent.stop_failed", error=error.type, message=error.message)
        return error

    async def _cancel(self, call: Call, seconds: float) -> None:
        """Cancel a call, each second again for code that swallows it, and wait for its end."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not call.done:
            call.cancel()
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0 or self.stop_request >= StopRequest.RELEASE_NOW:
                return
            await self._wait_for_call(call, min(remaining, 1.0), StopRequest.RELEASE_NOW)

    # ---- ending --------------------------------------------------------------------------------

    async def _free_agent(self) -> None:
        """Free the object. Generators that nothing refers to are closed, as tasks of the agent."""
        self._variables.run(self._drop_references)
        await asyncio.sleep(0)  # the event loop starts closing them
        if closing := self._owner.running_tasks():
            skip_grace = self.stop_request >= StopRequest.RELEASE_NOW
            await asyncio.wait(closing, timeout=0.0 if skip_grace else CLOSE_SECONDS)
            await self._task.end()

    def _drop_references(self) -> None:
        self._started = None

    def _requested_command(self, error: Error | None = None) -> Command:
        if self.stop_request in {StopRequest.RELEASE, StopRequest.RELEASE_NOW}:
            return Release(reason=self._reason)
        return End(reason=self._reason, error=error)

    async def _settle(self, command: Command) -> None:
        """Write an outcome, for as long as the right to do so lasts.

        Where that ends, a write under way is not waited for: Redis may not answer.
        """
        if self.stop_request is StopRequest.ABANDON:
            return
        writing = asyncio.get_running_loop().create_task(
            write_outcome(self.worker_context, self.state, command)
        )
        while not writing.done() and self.stop_request < StopRequest.ABANDON:
            await asyncio.wait({self._stop_requested, writing}, return_when=asyncio.FIRST_COMPLETED)
        writing.cancel()
        await asyncio.wait({writing})
        if not writing.cancelled():
            self._on_settled(command, writing.result())

    def _on_settled(self, command: Command, acted: AgentResult | None) -> None:
        if acted is None:
            self.request_stop(StopRequest.ABANDON)
            return
        if acted.outcome not in {Outcome.DONE, Outcome.ALREADY} or acted.agent is None:
            self._on_fenced(acted.outcome)
            return
        self.state = acted.agent
        if isinstance(command, Clear):
            if acted.outcome is Outcome.DONE:  # else the leader has cleared it
                self._log.info("agent.cleared", reason=command.reason)
        elif acted.agent.status in _LOG_EVENTS:
            self._log.info(_LOG_EVENTS[acted.agent.status], reason=acted.agent.reason)

    def _on_fenced(self, outcome: Outcome) -> None:
        """Another worker has the agent now, or none."""
        self._log.warning("agent.fenced", outcome=outcome.value)
        self.request_stop(StopRequest.ABANDON)
        self.worker_context.on_fenced()

    # ---- waiting -------------------------------------------------------------------------------

    async def _wait_for_call(self, call: Call, seconds: float, interrupted_by: StopRequest) -> None:
        """Wait for a call to end, up to some time or until such a request to stop."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while (
            not call.done
            and self.stop_request < interrupted_by
            and (remaining := deadline - clock()) > 0
        ):
            await self._wait((call,), remaining)

    async def _wait(self, calls: tuple[Call | None, ...], seconds: float) -> None:
        """Wait for any of the calls, a request to stop, or the time."""
        ends = [call.ended for call in calls if call is not None and not call.done]
        await asyncio.wait(
            {self._stop_requested, *ends}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
