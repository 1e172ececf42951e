"""The log of one agent that runs by itself: in memory, decided and folded as the real one is."""

import time
from collections.abc import Callable
from hashlib import sha256

from eventstore.errors import Unreadable
from eventstore.ids import new_id
from eventstore.language.agent_commands import Command, decide
from eventstore.language.agents import Agent, evolve
from eventstore.language.events import (
    AgentBody,
    AgentClaimed,
    AgentRequested,
    AgentSaved,
    Event,
)
from eventstore.log.replies import AgentResult, Outcome
from eventstore.steps.step import Fence, Origin


class MemoryLog:
    """What an `AgentRun` needs of a log. `events` has what was recorded, in order."""

    def __init__(
        self,
        request: AgentRequested,
        pool: str,
        fence: Fence,
        state: bytes | None = None,
        on_saved: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.events: list[AgentBody] = []
        self.origin = Origin()
        self.state = state
        """What the agent saved last, or an earlier incarnation of it."""
        self._on_saved = on_saved
        self._pool, self._fence = pool, fence
        self._agent_id = new_id()
        self.agent = self._fold(None, request)
        if state is not None:
            saved = AgentSaved(save=1, size=len(state), sha256=sha256(state).hexdigest())
            self.agent = self._fold(self.agent, saved)
        self.agent = self._fold(self.agent, AgentClaimed())

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def high_water_mark(self) -> tuple[int, int]:
        """Generation and seq."""
        return 1, len(self.events)

    async def live(self) -> list[str]:
        return [] if self.agent.ended else [self._agent_id]

    async def saved_state(self, _: Agent) -> bytes | None:
        return self.state

    async def act(
        self, agent_id: str, command: Command, *, state: bytes | None = None, **_: object
    ) -> AgentResult:
        """Decide, and record what follows."""
        assert agent_id == self._agent_id
        bodies = decide(command, self.agent)
        for body in bodies:
            self.agent = self._fold(self.agent, body)
            if isinstance(body, AgentSaved) and state is not None:
                self.state = state
                self._on_saved(state)
        return AgentResult(Outcome.DONE if bodies else Outcome.ALREADY, self.agent)

    async def park(self, damage: Unreadable, **_: object) -> None:
        """What is in memory can always be read."""
        raise damage

    def _fold(self, agent: Agent | None, body: AgentBody) -> Agent:
        self.events.append(body)
        event = Event(
            body,
            event_id=new_id(),
            subject=self._agent_id,
            incarnation=agent.incarnation if agent else 1,
            worker_id=self._fence.worker_id,
            epoch=self._fence.epoch,
            seq=len(self.events),
            ts=self.now_ms(),
        )
        return evolve(agent, event, self._pool)
