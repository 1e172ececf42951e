"""An agent's state: given to `restore` before its start, and stored as it asks for that or is
released.

What it saves is stored in the step that records `agent.saved`. A state is read only for an agent
that has saved one, and given only if it is the one that was saved last.
"""

import asyncio
import hashlib
from typing import Final

from msgspec.structs import replace

from eventstore.connection.backoff import Backoff, retry
from eventstore.language.agent_commands import Command, LoseState, Release, Save
from eventstore.language.events import Error
from workers.api.agent import Agent, SaveFailed, keeps_state
from workers.runtime.settlement import Settlement, failure
from workers.runtime.worker_context import WorkerContext

STATE_MAX: Final = 1 << 20
"""Bytes of a state."""
REASON_MAX: Final = 200


class SavedState:
    """That of one incarnation. `restored`: what its `restore` is called with, if there is any."""

    __slots__ = ("_collected", "_lock", "_problem", "_settlement", "_worker_context", "restored")

    def __init__(self, worker_context: WorkerContext, settlement: Settlement) -> None:
        self.restored: bytes | None = None
        self._worker_context, self._settlement = worker_context, settlement
        self._lock: asyncio.Lock | None = None
        """So that of two saves at the same time the later one is stored last."""
        self._collected: bytes | None = None
        self._problem = ""

    # ---- before the start ----------------------------------------------------------------------

    async def read(self, role: type[Agent]) -> Command | None:
        """Read what the agent saved last; returns how its start ended, if that cannot be given."""
        state, pool_log = self._settlement.state, self._worker_context.log
        if not keeps_state(role):
            message = (
                f"the agent has saved a state ({state.save} times), but {role.__name__} has no"
                " `save` and `restore` any more: add them, or discard the state with"
                f" `muster restart {state.agent_id} --discard-state`"
            )
            error = Error(type="StateNotRestorable", message=message)
            return failure(self._worker_context, state, "start", error)
        backoff = Backoff("restore", agent_id=state.agent_id)
        self.restored = await retry(backoff, lambda: pool_log.saved_state(state))
        if self.restored is None:
            self._settlement.log.error("agent.state_lost", save=state.save)
            return LoseState(save=state.save, sha256=state.state_sha256)
        return None

    # ---- while it runs -------------------------------------------------------------------------

    async def save(self, agent: Agent) -> None:
        """For `Context.save`, called in the agent's own task."""
        async with self._one_at_a_time():
            state = await _state_of(agent)
            saving = self._settlement.save(_save(self._settlement, state), state)
            context = self._worker_context  # what it calls is not the agent's
            await context.loop.create_task(saving, context=context.variables)

    def _one_at_a_time(self) -> asyncio.Lock:
        self._lock = self._lock or asyncio.Lock()
        return self._lock

    # ---- at its release ------------------------------------------------------------------------

    async def collect(self, agent: Agent) -> None:
        """Ask it for its state, which `release` stores."""
        self._collected = None
        async with self._one_at_a_time():
            self._collected = await _state_of(agent)

    def fail(self, problem: str) -> None:
        """It could not be asked: it is released with what it saved last."""
        self._problem = problem[:REASON_MAX]
        self._settlement.log.warning("agent.save_failed", reason=self._problem)

    def release(self, command: Command) -> Command:
        """How its end is recorded: a release, with what was collected."""
        state = self._collected
        if not isinstance(command, Release) or (state is None and not self._problem):
            return command
        if state is None:
            return replace(command, save_error=self._problem)
        self._settlement.released_with = state
        return replace(command, saved=_save(self._settlement, state))


async def _state_of(agent: Agent) -> bytes:
    """Raises `TypeError`, `SaveFailed`, and what its `save` raises."""
    name = type(agent).__name__
    if not keeps_state(type(agent)):
        raise TypeError(f"{name} needs both a `save` and a `restore`, to save a state")
    state = await agent.save()
    if not isinstance(state, bytes):
        raise TypeError(f"`save` of {name} must return bytes, not {type(state).__name__}")
    if len(state) > STATE_MAX:
        raise SaveFailed(f"the state has {len(state)} bytes, {STATE_MAX} is the maximum")
    return state


def _save(settlement: Settlement, state: bytes) -> Save:
    sha256 = hashlib.sha256(state).hexdigest()
    return Save(after=settlement.state.save, size=len(state), sha256=sha256)
