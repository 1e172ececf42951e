"""What lived at the start of a log whose archive was pruned: nothing, if it was not."""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.language.agents import Agent
from eventstore.language.workers import Worker
from projector.store import archive_starts
from projector.store.archive_starts import AGENT, WORKER, ArchiveStart


class Beginning(Struct, frozen=True):
    """Of one log, within one transaction."""

    connection: Connection
    start: ArchiveStart | None

    @property
    def generation(self) -> int:
        return self.start.generation if self.start else 0

    def all(self) -> tuple[dict[str, Agent], dict[str, Worker]]:
        """All agents and workers."""
        if self.start is None:
            return {}, {}
        of = (self.connection, self.start)
        agents = archive_starts.agents_of(archive_starts.entries_of_kind(*of, AGENT))
        return agents, archive_starts.workers_of(archive_starts.entries_of_kind(*of, WORKER))

    def agents(self, ids: Iterable[str]) -> dict[str, Agent]:
        """Those of some agents that lived."""
        found = self._states(AGENT, ids)
        return {name: archive_starts.decode_agent(state) for name, state in found.items()}

    def workers(self, ids: Iterable[str]) -> dict[str, Worker]:
        """Those of some workers that lived."""
        found = self._states(WORKER, ids)
        return {name: archive_starts.decode_worker(state) for name, state in found.items()}

    def _states(self, kind: str, ids: Iterable[str]) -> Mapping[str, str]:
        if self.start is None:
            return {}
        return archive_starts.entries_of(self.connection, self.start, kind, ids)
