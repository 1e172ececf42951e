"""A worker's slots: claims fill them, agents run in them, and an end frees them at once.

A worker claims when its inbox has a message that work waits, when a slot was freed, and now and
then in case a message was lost. After a reply that never came it asks again for what it has
claimed. The script books slots and never more than are free, whatever is assumed here.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import RESTART_REQUESTED, Stop
from eventstore.language.agents import Agent as State
from eventstore.log.replies import ClaimedAgent, Outcome
from workers.host.processes import ProcessorUse, resident_bytes
from workers.runtime.agent_run import AgentRun
from workers.runtime.stop_signal import StopRequest
from workers.runtime.worker_context import WorkerContext

_FLAGS: Final = {stop.value.encode(): stop for stop in Stop}
_RESTART: Final = b"restart"

log = structlog.get_logger("muster.slots")


class Slots:
    """The agents of one worker."""

    def __init__(
        self,
        worker_context: WorkerContext,
        size: int,
        *,
        on_lost: Callable[[str], None],
        on_stuck: Callable[[], None],
    ) -> None:
        self.runs: dict[str, AgentRun] = {}
        self.stuck = False
        self._worker_context = worker_context
        self._size = size
        self._on_lost, self._on_stuck = on_lost, on_stuck
        self._wakeup = asyncio.Event()
        self._redeliver = False
        self._recently_ended: set[tuple[str, int]] = set()
        """Runs that ended since the last claim was sent: (agent id, incarnation)."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._processors = ProcessorUse()

    def wake(self, *, redeliver: bool = False) -> None:
        """Claim soon. `redeliver`: a reply may have been lost, so ask for earlier claims too."""
        self._redeliver = self._redeliver or redeliver
        self._wakeup.set()

    async def claim_forever(self) -> None:
        """Claim whenever woken, until cancelled."""
        backoff = Backoff("claim", worker_id=self._worker_context.fence.worker_id)
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            try:
                await self._claim(max(self._size - len(self.runs), 0))
            except LogError as error:
                self.wake(redeliver=True)
                await asyncio.sleep(backoff.next_delay(error))
            else:
                backoff.reset()

    async def recover_claims(self) -> None:
        """Start what was claimed in a reply that was lost. For a drain: claims no more."""
        self._redeliver = True
        await self._claim(0)

    def request_stop_all(self, request: StopRequest, reason: str, cause: str = "") -> None:
        """`cause`: the id of the event that releases of them follow from."""
        self._worker_context.drained_by = cause or self._worker_context.drained_by
        for run in tuple(self.runs.values()):
            run.stop.send(request, reason)

    def apply_stop_flags(self, flat: list[bytes]) -> None:
        """Apply termination flags as the lease's script returns them: ids and flags in turn.

        An unknown flag is skipped: when that agent is settled its hash turns out to be damaged.
        """
        for agent_id, flag in zip(flat[::2], flat[1::2], strict=True):
            run = self.runs.get(agent_id.decode())
            if run is not None and flag == _RESTART:
                run.stop.send(StopRequest.RELEASE, RESTART_REQUESTED)
            elif run is not None and flag in _FLAGS:
                run.stop.apply_flag(_FLAGS[flag])

    def move(self, agent_id: str, *, busy: bool = False) -> None:
        """Release an agent, so that it runs elsewhere; not a busy one, unless `busy`."""
        if (run := self.runs.get(agent_id)) is not None:
            run.request_move(busy=busy)

    def busy(self) -> bool:
        """Whether any agent is. May be called from another thread."""
        return any(run.busy for run in tuple(self.runs.values()))

    def snapshot(self, lag_seconds: float) -> bytes:
        """The data of a heartbeat: what each agent does, and the lag of the event loop.

        May be called from another thread.
        """
        activity = {a: "busy" if run.busy else "idle" for a, run in tuple(self.runs.items())}
        lag_ms = round(lag_seconds * 1000, 1)
        snapshot = {"agents": activity, "loop_lag_ms": lag_ms, "agent_count": len(activity)}
        snapshot["memory_bytes"] = resident_bytes(os.getpid())
        snapshot["cpu"] = self._processors.since_last()
        return msgspec.json.encode(snapshot)

    def agent_of(self, task: "asyncio.Task[object]") -> str:
        """The agent whose task this is; empty if none. May be called from another thread."""
        runs = tuple(self.runs.items())
        return next((agent_id for agent_id, run in runs if run.owns(task)), "")

    async def wait_until_empty(self, seconds: float | None = None) -> bool:
        """Wait until every run has ended (a stuck one too); False if that takes longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        return not self._tasks

    # ---- claiming ------------------------------------------------------------------------------

    async def _claim(self, free: int) -> None:
        redeliver, self._redeliver = self._redeliver, False
        if free == 0 and not redeliver:
            return
        self._recently_ended.clear()
        outcome, claims = await self._worker_context.log.claim(
            self._worker_context.fence,
            free,
            include_held=redeliver,
            isolation_limit=self._worker_context.config.isolation_limit,
            starts=self._worker_context.starts,
        )
        if outcome is Outcome.FENCED:
            self._on_lost("fenced")
        elif self._worker_context.lease_expired():  # this process did not run for a while
            self._on_lost("lease-expired")
        else:
            for claimed in claims:
                self._accept(claimed)

    def _accept(self, claimed: ClaimedAgent) -> None:
        agent = claimed.agent
        current = self.runs.get(agent.agent_id)
        if current is not None and current.incarnation >= agent.incarnation:
            return
        if (agent.agent_id, agent.incarnation) in self._recently_ended:
            return  # it ended after the claim, before its reply
        if not agent.held:
            self._start_task(self._withdraw(agent))
            return
        if current is not None:  # its end is recorded, only the reply was lost
            current.stop.send(StopRequest.ABANDON)
        run = self._new_run(claimed)
        self.runs[agent.agent_id] = run
        self._start_task(self._run_agent(run))

    def _new_run(self, claimed: ClaimedAgent) -> AgentRun:
        return AgentRun(self._worker_context, claimed)

    async def _withdraw(self, agent: State) -> None:
        """End an agent that was delivered only because its end was requested."""
        pool_log, agent_id = self._worker_context.log, agent.agent_id
        command = Terminate(reason=agent.reason or "requested")
        try:
            await retry(
                Backoff("withdraw", agent_id=agent_id),
                lambda: pool_log.act(agent_id, command, incarnation=agent.incarnation),
            )
        except Exception:  # as in `_run_agent`
            log.exception("agent.internal_error", agent_id=agent_id)
            self._mark_stuck()

    # ---- runs ----------------------------------------------------------------------------------

    def _start_task(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = self._worker_context.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_agent(self, run: AgentRun) -> None:
        try:
            await run.run()
        except Exception:
            run.stuck = True  # a defect of ours: what became of the agent is not known
            log.exception("agent.internal_error", agent_id=run.agent_id)
        self._recently_ended.add((run.agent_id, run.incarnation))
        if run.stuck:
            self._mark_stuck()
        elif self.runs.get(run.agent_id) is run:
            del self.runs[run.agent_id]
            self._wakeup.set()

    def _mark_stuck(self) -> None:
        """A slot will not be free again: the worker is to drain, and to be reaped."""
        self.stuck = True
        self._on_stuck()
