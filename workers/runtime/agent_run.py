"""The life of one agent in its slot, from the claim to the settled end.

Start it, say so in the log, let it work, watch it, stop it, say how it ended. What is asked of it
from outside comes as a `Wish`; a stronger one overrides a weaker one at any moment. Two rules hold
throughout: an end, release or restart is written only when nothing of the agent runs any more, and
once the worker has lost the right to run the agent nothing is written at all.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from eventstore.errors import ConfigurationError, LogError, Unreadable
from eventstore.language.agent_commands import Clear, Command, End, Fail, Release, Started
from eventstore.language.agents import Status, Stop
from eventstore.language.events import Error
from eventstore.log.replies import Acted, Claimed, Outcome
from workers.api.agent import Agent, Context, FencingToken, overrides, read_spec
from workers.output.lines import Owner, logger_of
from workers.runtime.backoff import Outage
from workers.runtime.calls import Call, Stuck, end_all
from workers.runtime.errors import timeout
from workers.runtime.health_check import Checkup
from workers.runtime.isolation_window import Probation
from workers.runtime.worker_context import House, Wish

DAY_SECONDS: Final = 86_400.0
CLOSE_SECONDS: Final = 1.0
"""For the generators that an agent leaves to end by themselves."""

log = structlog.get_logger("muster.agents")

_LINES: Final = {
    Status.RUNNING: "agent.started",
    Status.RESTARTING: "agent.restarting",
    Status.PENDING: "agent.released",
    Status.TERMINATED: "agent.terminated",
    Status.FAILED: "agent.failed",
}


class Running:
    """One incarnation of one agent."""

    def __init__(self, house: House, claimed: Claimed) -> None:
        self.house = house
        self.state = claimed.agent
        self.agent_id = claimed.agent.agent_id
        self.incarnation = claimed.agent.incarnation
        self.wish = Wish.STAY
        self.stuck = False
        self._reason = ""
        self._spec = claimed.spec
        self._owner = Owner(self._ids(), house.output)
        self._variables = self._owner.context()
        self._calls: list[Call] = []
        self._agent: Agent | None = None
        self._context: Context | None = None
        self._asked = asyncio.get_running_loop().create_future()
        self._log = log.bind(agent_id=self.agent_id, incarnation=self.incarnation)

    def _ids(self) -> dict[str, object]:
        return {
            "agent_id": self.agent_id,
            "incarnation": self.incarnation,
            "pool": self.state.pool_name,
            "role": self.state.role_type,
            "project_id": self.state.project_id,
            "worker_id": self.house.fence.worker_id,
        }

    @property
    def busy(self) -> bool:
        return self._context is not None and self._context.busy

    def ask(self, wish: Wish, reason: str = "") -> None:
        """Ask it to end in some way. A weaker wish than the present one changes nothing."""
        if wish > self.wish:
            self.wish, self._reason = wish, reason or self._reason
            asked, self._asked = self._asked, asyncio.get_running_loop().create_future()
            asked.set_result(None)

    def ask_stop(self, stop: Stop) -> None:
        """Follow the termination flag."""
        if stop is not Stop.NO:
            self.ask(Wish.STOP_NOW if stop is Stop.NOW else Wish.STOP, "requested")

    async def live(self) -> None:
        """All of it. Sets `stuck`, and writes nothing, if its code cannot be ended."""
        self.ask_stop(self.state.stop)
        try:
            command = await self._start()
            if command is None:
                command = await self._stay()
            await end_all(self._owner, self._calls)
            await self._let_go()
        except Stuck:
            self.stuck = True
            self._log.error("agent.stuck")
            return
        finally:
            if self.house.output is not None:
                self.house.output.flush(self._owner)
        await self._settle(command)

    # ---- starting ------------------------------------------------------------------------------

    async def _start(self) -> Command | None:
        """Start it; None once the log says that it runs, else how it ended."""
        if self.wish:
            return self._as_asked()
        limit = self.house.config.start_timeout_seconds
        call = self._call(self._make_ready, "start")
        await self._until(call, limit, Wish.RELEASE)
        if not call.done:
            call.cancel()
            await end_all(self._owner, self._calls)
            return self._as_asked() if self.wish else self._failed("start", timeout("start", limit))
        if call.error:
            return self._failed("start", call.error)
        await self._settle(Started())
        if self.state.worker_id != self.house.fence.worker_id:
            self._fenced(Outcome.ALREADY)
        self.ask_stop(self.state.stop)
        return None

    async def _make_ready(self) -> None:
        role = self.house.roles.get(self.state.role_type)
        if role is None:
            raise ConfigurationError(
                f"role {self.state.role_type!r} is not declared on this worker's host"
            )
        house, state = self.house, self.state
        generation = 0 if house.fallback else house.log.floor(state.pool_name)[0]
        self._context = Context(
            state,
            read_spec(self._spec),
            FencingToken(generation, state.claim_seq),
            logger=logger_of(self._owner),
            database=house.database,
            works=overrides(role, "run"),
        )
        self._agent = role()
        await self._agent.start(self._context)

    # ---- running -------------------------------------------------------------------------------

    async def _stay(self) -> Command:
        """Let it run until it ends by itself, or has to."""
        assert self._agent is not None
        assert self._context is not None
        agent, context, kind = self._agent, self._context, type(self._agent)
        context.touch()
        run: Call | None = None
        checkup: Checkup | None = None
        if not self.wish:
            if overrides(kind, "run"):
                run = self._call(lambda: agent.run(context), "run")
            if overrides(kind, "check"):
                checkup = Checkup(
                    lambda: self._call(lambda: agent.check(context), "check"),
                    self.state.heartbeat_interval,
                )
        command = await self._watch(run, checkup)
        error = await self._stop(run)
        return command or self._as_asked(error)

    async def _watch(self, run: Call | None, checkup: Checkup | None) -> Command | None:
        """Wait until something ends it; None if that is a wish."""
        assert self._context is not None
        limit = self.state.max_idle_time
        probation = Probation(self.house.config)
        while not self.wish:
            pause = DAY_SECONDS
            if run is not None and run.done:
                return self._failed("run", run.error) if run.error else End(reason="completed")
            if checkup is not None:
                checkup.look()
                if checkup.unhealthy and checkup.error:
                    return self._failed("check", checkup.error)
                pause = checkup.wait_seconds
            left = probation.seconds(self.state)
            if left == 0.0:
                await self._settle(Clear(reason="behaved"))
            elif left is not None:
                pause = min(pause, left)
            if limit is not None:
                left = limit - self._context.idle_seconds
                if left <= 0:
                    return End(reason="idle")
                pause = min(pause, left)
            await self._wait((run, checkup.call if checkup else None), pause)
        return None

    async def _stop(self, run: Call | None) -> Error | None:
        """Call `stop` and cancel `run`, within the grace period; returns what they raised."""
        assert self._agent is not None
        assert self._context is not None
        agent, context = self._agent, self._context
        context.stopping.set()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.house.config.stop_grace_seconds
        raised: Error | None = None
        if self.wish < Wish.RELEASE_NOW and overrides(type(agent), "stop"):
            stop = self._call(lambda: agent.stop(context), "stop")
            await self._until(stop, deadline - clock(), Wish.RELEASE_NOW)
            stop.cancel()
            raised = stop.error
            if raised:
                self._log.warning("agent.stop_failed", error=raised.type, message=raised.message)
        if run is not None and not run.done:
            run.cancel()
            await self._until(run, deadline - clock(), Wish.RELEASE_NOW)
            raised = raised or run.error
        return raised

    # ---- ending --------------------------------------------------------------------------------

    async def _let_go(self) -> None:
        """Free the object. Generators that nothing else keeps are closed, as tasks of the agent."""
        self._calls.clear()
        self._variables.run(self._forget)
        await asyncio.sleep(0)  # the event loop begins with that
        if closing := self._owner.living():
            hurry = self.wish >= Wish.RELEASE_NOW
            await asyncio.wait(closing, timeout=0.0 if hurry else CLOSE_SECONDS)
            await end_all(self._owner, ())

    def _forget(self) -> None:
        self._agent = self._context = None

    def _as_asked(self, error: Error | None = None) -> Command:
        if self.wish in {Wish.RELEASE, Wish.RELEASE_NOW}:
            return Release(reason=self._reason)
        return End(reason=self._reason, error=error)

    def _failed(self, during: str, error: Error) -> Command:
        self._log.warning("agent.failing", during=during, error=error.type, message=error.message)
        return Fail(
            during=during,
            error=error,
            now_ms=self.house.log.now_ms(self.state.pool_name),
            policy=self.house.config.restart_policy,
            jitter=random.random(),
        )

    async def _settle(self, command: Command) -> None:
        """Write an outcome, for as long as the right to do so lasts.

        Where that ends, what is being written is not waited for: Redis may be silent.
        """
        if self.wish is Wish.ABANDON:
            return
        writing = asyncio.get_running_loop().create_task(self._write(command))
        while not writing.done() and self.wish < Wish.ABANDON:
            await asyncio.wait({self._asked, writing}, return_when=asyncio.FIRST_COMPLETED)
        writing.cancel()
        await asyncio.wait({writing})
        if not writing.cancelled():
            writing.result()

    async def _write(self, command: Command) -> None:
        outage = Outage("settle", agent_id=self.agent_id)
        house, state = self.house, self.state
        while True:
            try:
                acted = await house.log.act(
                    state.pool_name,
                    self.agent_id,
                    command,
                    house.origin,
                    fence=house.fence,
                    incarnation=self.incarnation,
                    agent=None if outage.on else state,
                )
                if acted.outcome is Outcome.ABSENT:
                    await self._demand_ended()
            except Unreadable as error:
                await self._give_up(error)
                return
            except LogError as error:
                await asyncio.sleep(outage.delay(error))
                continue
            outage.over()
            self._settled(command, acted)
            return

    async def _demand_ended(self) -> None:
        """Of an agent that is not found. Raises `Unreadable` where the pool still lists it."""
        if self.agent_id in await self.house.log.live(self.state.pool_name):
            raise Unreadable("agent", self.agent_id, "its hash is gone")

    async def _give_up(self, damage: Unreadable) -> None:
        """Its state in Redis is damaged: end it here, and leave it to an operator."""
        try:
            holder = self.house.fence.worker_id
            await self.house.log.park(self.state.pool_name, damage, holder=holder)
        except LogError as error:
            self._log.warning("agent.not_parked", error=str(error))
        self.ask(Wish.ABANDON)

    def _settled(self, command: Command, acted: Acted) -> None:
        if acted.outcome not in {Outcome.DONE, Outcome.ALREADY} or acted.agent is None:
            self._fenced(acted.outcome)
            return
        self.state = acted.agent
        if isinstance(command, Clear):
            if acted.outcome is Outcome.DONE:  # else the leader has cleared it
                self._log.info("agent.cleared", reason=command.reason)
        elif acted.agent.status in _LINES:
            self._log.info(_LINES[acted.agent.status], reason=acted.agent.reason)

    def _fenced(self, outcome: Outcome) -> None:
        """The agent is somebody else's now, or nobody's."""
        self._log.warning("agent.fenced", outcome=outcome.value)
        self.ask(Wish.ABANDON)
        self.house.suspicious()

    # ---- waiting -------------------------------------------------------------------------------

    def _call(self, function: Callable[[], Awaitable[None]], name: str) -> Call:
        self._calls = [call for call in self._calls if not call.done]
        call = Call(function, self._variables, f"{name}:{self.agent_id}")
        self._calls.append(call)
        return call

    async def _until(self, call: Call, seconds: float, urgent: Wish) -> None:
        """Wait for a call to end, up to some time or until this much is wished."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while not call.done and self.wish < urgent and (left := deadline - clock()) > 0:
            await self._wait((call,), left)

    async def _wait(self, calls: tuple[Call | None, ...], seconds: float) -> None:
        """Wait for any of the calls, a new wish, or the time."""
        tasks = [call.task for call in calls if call is not None and not call.done]
        await asyncio.wait(
            {self._asked, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
