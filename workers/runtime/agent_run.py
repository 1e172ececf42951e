"""One run of one agent in its slot, from the claim to the settled end.

Start it, record that, let it work, watch it, stop it, record how it ended. What is requested of it
from outside is a `StopRequest`; a stronger one overrides a weaker one at any time. Two rules hold
throughout: an end, release or restart is written only when nothing of the agent runs any more, and
once the worker has lost the right to run the agent nothing is written at all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from eventstore.language.agent_commands import Clear, Command, Fail, Release, Started
from eventstore.language.agents import Agent as State
from eventstore.language.agents import Status
from eventstore.language.consolidation import MOVED
from eventstore.log.replies import ClaimedAgent, Outcome
from workers.api.agent import Agent, Context, FencingToken, overrides, read_spec
from workers.output.lines import Owner, logger_of
from workers.runtime.calls import STUCK_SECONDS, AgentTask, Call, Stuck
from workers.runtime.children import end_children
from workers.runtime.end_conditions import EndConditions, HealthCheck
from workers.runtime.errors import describe, timeout_error
from workers.runtime.orderly_end import OrderlyEnd
from workers.runtime.saved_state import SavedState
from workers.runtime.settlement import Settlement, failure
from workers.runtime.stop_signal import StopRequest, StopSignal
from workers.runtime.threads import call_stacks, end_thread_calls, report_threads
from workers.runtime.worker_context import WorkerContext

CLOSE_SECONDS: Final = 1.0
"""For generators that an agent left open."""


class AgentRun:
    """One incarnation of one agent."""

    def __init__(self, worker_context: WorkerContext, claimed: ClaimedAgent) -> None:
        self.worker_context = worker_context
        self.agent_id = claimed.agent.agent_id
        self.incarnation = claimed.agent.incarnation
        self._loop = worker_context.loop
        self.stop = StopSignal(self._loop)
        self._settlement = Settlement(worker_context, claimed.agent, self.stop)
        self._saved = SavedState(worker_context, self._settlement)
        self.stuck = self._moves = False
        self._spec = claimed.spec
        ids: dict[str, object] = {
            "agent_id": self.agent_id,
            "incarnation": self.incarnation,
            "pool": self.state.pool_name,
            "role": self.state.role_type,
            "project_id": self.state.project_id,
            "worker_id": worker_context.fence.worker_id,
        }
        threads_max = worker_context.config.threads_per_agent
        self._owner = Owner(ids, worker_context.output, threads_max=threads_max)
        self._task = AgentTask(self._loop, self._owner, self.agent_id)
        self._started: tuple[Agent, Context] | None = None
        self._end_in_order = OrderlyEnd(
            worker_context, self._task, self.stop, self._settlement, self._saved
        )

    @property
    def state(self) -> State:
        """As the log has it."""
        return self._settlement.state

    @property
    def busy(self) -> bool:
        started = self._started  # read once: a thread asks, too
        return started is not None and started[1].busy

    def request_move(self, *, busy: bool) -> None:
        """Let it be released, if it runs and is idle at that time, or `busy`."""
        if busy:
            self.stop.send(StopRequest.RELEASE, MOVED)
        elif self.state.status is Status.RUNNING:
            self._moves = True
            self.stop.wake()

    def owns(self, task: "asyncio.Task[object]") -> bool:
        """Whether its code created the task, or it is one of its calls."""
        return task in self._owner.tasks

    def running_tasks(self) -> "list[asyncio.Task[object]]":
        """Those of its tasks that have not ended."""
        return self._owner.running_tasks()

    async def run(self) -> None:
        """All of it. Sets `stuck`, and writes nothing, if its code cannot be ended."""
        self.stop.apply_flag(self.state.stop)
        try:
            command = await self._start()
            if command is None:
                command = await self._run_until_end()
            await self._end()
        except Stuck as stuck:
            self.stuck = True
            self._settlement.log.error("agent.stuck", stacks=stuck.stacks)
            return
        finally:
            self._task.close()
            if self.worker_context.output is not None:
                self.worker_context.output.flush(self._owner)
        await self._settlement.write(self._saved.release(command))

    # ---- starting ------------------------------------------------------------------------------

    async def _start(self) -> Command | None:
        """Start it; None once it is recorded as running, else how it ended."""
        if self.stop.request:
            return self.stop.command()
        if problem := self.worker_context.role_problem(self.state.role_type):
            self.worker_context.on_role_problem(problem)
            return Release(reason=problem)
        if self.state.state_sha256:
            role = self.worker_context.roles[self.state.role_type]
            failed = await self.stop.unless_abandoned(self._saved.read(role))
            if failed or self.stop.request:
                return failed or self.stop.command()
        if self.state.status is Status.RUNNING:  # claimed and started in one step
            return self._make_started()
        limit = self.worker_context.config.start_timeout_seconds
        call = self._call(self._start_agent)
        await self.stop.wait_for_end(call, limit, StopRequest.RELEASE)
        if not call.done:
            error = timeout_error("start", limit, call.stack)
            await self._task.end()
            if self.stop.request:
                return self.stop.command()
            return failure(self.worker_context, self.state, "start", error)
        if call.error:
            return failure(self.worker_context, self.state, "start", call.error)
        await self._settlement.write(Started(now_ms=self.worker_context.log.now_ms()))
        if self.state.worker_id != self.worker_context.fence.worker_id:
            self._settlement.on_fenced(Outcome.ALREADY)
        self.stop.apply_flag(self.state.stop)
        return None

    def _make_started(self) -> Command | None:
        """Make the object of an agent that has nothing to do before it runs."""
        try:
            self._task.variables.run(self._make_agent)
        except BaseException as error:  # noqa: BLE001  as in `Call`
            return failure(self.worker_context, self.state, "run", describe(error))
        self._settlement.log_status()
        return None

    async def _start_agent(self) -> None:
        agent, context = self._make_agent()
        if self._saved.restored is not None:
            await agent.restore(self._saved.restored)
            self._saved.restored = None
        await agent.start(context)

    def _make_agent(self) -> tuple[Agent, Context]:
        role = self.worker_context.roles[self.state.role_type]
        context = self._new_context(role)
        self._started = role(), context
        return self._started

    def _new_context(self, role: type[Agent]) -> Context:
        worker_context, state = self.worker_context, self.state
        generation = 0 if worker_context.fallback else worker_context.log.high_water_mark()[0]
        return Context(
            state,
            read_spec(self._spec),
            FencingToken(generation, state.claim_seq),
            new_logger=partial(logger_of, self._owner),
            database=worker_context.database,
            shared=worker_context.shared,
            has_run=overrides(role, "run"),
            save=self._save,
        )

    async def _save(self) -> None:
        if self._started is None:
            raise RuntimeError(
                "a state cannot be saved before the agent was made, or after its end"
            )
        await self._saved.save(self._started[0])

    # ---- running -------------------------------------------------------------------------------

    async def _run_until_end(self) -> Command:
        """Let it run until it ends by itself, or has to."""
        assert self._started is not None
        agent, context = self._started
        kind = type(agent)
        context.restart_idle_clock()
        run: Call | None = None
        health_check: HealthCheck | None = None
        if not self.stop.request:
            run = self._call(lambda: agent.run(context) if overrides(kind, "run") else _stay())
            if overrides(kind, "check"):

                def start_check() -> Call:
                    return self._task.call_apart(lambda: agent.check(context), self.stop.wake)

                health_check = HealthCheck(start_check, self.state.heartbeat_interval)
        conditions = EndConditions(self.worker_context, context, run, health_check)
        command = await self._wait_for_end(conditions)
        if health_check is not None and health_check.call is not None:
            health_check.call.cancel()
        error = await self._end_in_order.run(agent, context, run)
        if error and run is not None and run.interrupted and isinstance(command, Fail):
            return replace(command, error=error)  # of what `start` left open, and `stop` closed
        return command or self.stop.command(error)

    async def _wait_for_end(self, conditions: EndConditions) -> Command | None:
        """Wait until something ends it; None if that is a request to stop."""
        while not self.stop.request:
            if command := conditions.poll(self.state):
                return command
            if self._moves:  # what comes until its code is cancelled does not let that run on
                self._moves = False
                if not self.busy:
                    self.stop.send(StopRequest.RELEASE, MOVED)
                continue
            if conditions.isolation_ended(self.state):
                await self._settlement.write(Clear(reason="behaved"))
                continue  # what happened meanwhile has woken nothing
            await self.stop.wait(conditions.wait_seconds(self.state))
        return None

    def _call(self, function: Callable[[], Awaitable[None]], *, sheltered: bool = False) -> Call:
        return self._task.call(function, self.stop.wake, sheltered=sheltered)

    # ---- ending --------------------------------------------------------------------------------

    async def _end(self) -> None:
        """End all that the incarnation has under way. Raises `Stuck`."""
        await self._task.end()
        await self._free_agent()
        await self._end_calls_and_children()
        report_threads(self._owner)

    async def _end_calls_and_children(self) -> None:
        """End calls in threads, and processes: each may wait for one of the other, or start one."""
        clock = self._loop.time
        deadline = clock() + STUCK_SECONDS
        if self.stop.in_good_order:
            deadline = max(deadline, self._end_in_order.grace_ends_at)
        while True:
            has_calls = bool(self._owner.calls)
            if not await end_children(self._owner, grace=self.stop.in_good_order):
                raise Stuck(())
            if not has_calls:
                return
            remaining = deadline - clock()
            if not await end_thread_calls(self._owner, min(remaining, 1.0)) and remaining <= 0:
                raise Stuck(call_stacks(self._owner))

    async def _free_agent(self) -> None:
        """Free the object. Generators that nothing refers to are closed, as tasks of the agent."""
        self._task.variables.run(self._drop_references)
        await asyncio.sleep(0)  # the event loop starts closing them
        if closing := self._owner.running_tasks():
            seconds = CLOSE_SECONDS if self.stop.in_good_order else 0.0
            await asyncio.wait(closing, timeout=seconds)
            await self._task.end()

    def _drop_references(self) -> None:
        self._started = None


async def _stay() -> None:
    """In place of a `run`: what `start` left open may still cancel it."""
    await asyncio.get_running_loop().create_future()
