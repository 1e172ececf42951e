"""Which events a caller may read: those of its pools, and of agents of its projects.

Only the first event of an agent names its project. That of others is looked up: in Redis, which has
all agents that live, else in the views.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

from eventstore.errors import LogUnreachable
from gateway.access.grants import FULL, Grant, Verdict, decide, need_of_event, pool_of_event
from gateway.backend import agent_rows
from gateway.backend.backend import Backend
from gateway.following.subscriptions import EncodedEvent
from gateway.wire.problems import Problem

KNOWN_MAX: Final = 10_000
"""Agents whose projects are remembered for one client."""


class OwnEvents:
    """The events of one client."""

    def __init__(self, backend: Backend, grant: Grant) -> None:
        self._backend = backend
        self._grant = grant
        self._projects: dict[str, str] = {}

    async def select(self, events: Sequence[EncodedEvent]) -> Iterable[bool]:
        """Whether each may be read. Raises `LogUnreachable` while that cannot be known."""
        if self._grant is FULL:
            return repeat(True, len(events))
        if self._grant.projects is not None:
            await self._learn_projects(events)
        return [self._is_own(event) for event in events]

    def _is_own(self, event: EncodedEvent) -> bool:
        need = need_of_event(event.pool, event.type)
        pool = pool_of_event(event.pool, event.type, event.subject)
        project = self._projects.get(event.subject, "") if _of_agent(event) else None
        return decide(self._grant, need, pool=pool, project=project) is Verdict.ALLOWED

    async def _learn_projects(self, events: Sequence[EncodedEvent]) -> None:
        if len(self._projects) > KNOWN_MAX:
            self._projects.clear()
        unknown: dict[str, str] = {}
        for event in events:
            if event.project:
                self._projects[event.subject] = event.project
            elif _of_agent(event) and self._grant.has_pool(event.pool):
                unknown[event.subject] = event.pool
        for agent_id in self._projects.keys() & unknown:
            del unknown[agent_id]
        if unknown:
            try:
                self._projects |= await agent_rows.projects_of(self._backend, unknown)
            except Problem as error:
                raise LogUnreachable(f"the views cannot be read: {error}") from error


def _of_agent(event: EncodedEvent) -> bool:
    return event.type.startswith("agent.")
