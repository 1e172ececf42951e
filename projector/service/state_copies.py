"""Copies what agents save from Redis into the database, so that it outlasts a loss of Redis.

The key in Redis stays as long as its agent lives, so nothing is lost if a copy comes late or not at
all: what was not copied is found again at the next start. Only the latest state of an agent counts;
one that was replaced meanwhile is copied when the event of its successor was folded.

An agent whose state was found nowhere waits for an operator, unless the database has it.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from eventstore.language.agent_commands import FindState
from eventstore.language.agents import Agent
from eventstore.log.log import Log
from eventstore.steps.step import Origin
from projector.store import agent_states
from projector.store.agent_states import SavedState
from projector.store.lease import Lease
from projector.store.mapping import chunks

log = structlog.get_logger("muster.projector")

AGENTS_MAX: Final = 100
"""How many are looked up at once."""
STATES_MAX: Final = 8
"""How many, of 1 MiB at most, are read and written at once."""
_Key = tuple[str, str]


class StateCopies:
    """Of one active projector. `name`: its own, for the events that it writes."""

    def __init__(self, event_log: Log, lease: Lease, name: str) -> None:
        self._log, self._lease = event_log, lease
        self._origin = Origin(actor=f"projector:{name}")
        self._waiting: dict[_Key, Agent] = {}
        self._wakeup = asyncio.Event()

    def note(self, agents: Iterable[Agent]) -> None:
        """Agents that events have changed: those with a state are checked soon."""
        for agent in agents:
            if agent.state_sha256:
                self._waiting[agent.pool_name, agent.agent_id] = agent
                self._wakeup.set()

    async def start(self) -> None:
        """Find what an earlier projector has left, once the views are complete."""
        await self._lease.write(agent_states.forget_ended)
        self.note(await self._lease.database.read(agent_states.uncopied))

    async def follow(self) -> None:
        """Copy what was noted, until cancelled. Raises `LogError`, `DatabaseError`."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._waiting:
                keys = list(self._waiting)[:AGENTS_MAX]
                await self._check([self._waiting.pop(key) for key in keys])

    async def _check(self, agents: list[Agent]) -> None:
        here = await self._lease.database.read(lambda c: agent_states.copied(c, agents))
        for agent in agents:
            if agent.state_lost and (agent.pool_name, agent.agent_id) in here:
                await self._return(agent)
        missing = [one for one in agents if (one.pool_name, one.agent_id) not in here]
        for some in chunks(missing, STATES_MAX):
            await self._copy(some)

    async def _copy(self, agents: list[Agent]) -> None:
        asked = (self._log.saved_state(agent.pool_name, agent) for agent in agents)
        states = [
            SavedState(
                pool_name=agent.pool_name,
                agent_id=agent.agent_id,
                save=agent.save,
                sha256=agent.state_sha256,
                saved_at=agent.saved_ms,
                state=state,
            )
            for agent, state in zip(agents, await asyncio.gather(*asked), strict=True)
            if state is not None
        ]
        if states:
            await self._lease.write(lambda c: agent_states.store(c, states))

    async def _return(self, agent: Agent) -> None:
        """Give an agent back what Redis does not have, and queue it."""
        state = await self._lease.database.read(lambda c: agent_states.read(c, agent))
        pool, found = agent.pool_name, FindState()
        if state is not None:
            await self._log.act(pool, agent.agent_id, found, self._origin, state=state)
            log.warning("projector.state_returned", pool=pool, agent_id=agent.agent_id)
