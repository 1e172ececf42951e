"""An independent fold of a log, for `verify`: in memory, from its first event, with `evolve` only.

It shares nothing with the projector's fold but `evolve`: no checkpoints, no rows, no counters.
Events come from the stream where it has them, and from the archive where it was trimmed.
"""

from collections import Counter
from collections.abc import Iterable

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from eventstore.language import agents, catalogue, workers
from eventstore.language.agents import Agent, Status
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import Event
from eventstore.language.workers import Worker, WorkerStatus
from projector.intake.entries import admit, position_after
from projector.store.rows import EventRow, Position


class BrokenLog(MusterError):
    """The log cannot be folded further."""


class ReferenceFold:
    """One log, folded up to `position`."""

    def __init__(self, pool: str, generation: int) -> None:
        self.position = Position(pool, generation)
        self.agents: dict[str, Agent] = {}
        self.workers: dict[str, Worker] = {}
        self.catalogue = Catalogue()

    @property
    def pool(self) -> str:
        return self.position.pool

    def apply(self, rows: Iterable[EventRow], *, last: int) -> None:
        """Fold what follows, up to seq `last`. Raises `BrokenLog`."""
        admitted = admit(self.position, [row for row in rows if row.seq <= last])
        for event in admitted.events:
            try:
                self._apply(event)
            except (ValueError, TypeError, KeyError, AssertionError) as error:
                raise BrokenLog(f"seq {event.seq} ({event.type}): {error}") from error
        self.position = position_after(self.position, admitted)
        if admitted.problem:
            raise BrokenLog(admitted.problem)

    def _apply(self, event: Event) -> None:
        subject = event.subject
        if self.pool == CATALOGUE:
            self.catalogue = catalogue.evolve(self.catalogue, event)
        elif event.type.startswith("agent."):
            self.agents[subject] = agents.evolve(self.agents.get(subject), event, self.pool)
        elif event.type.startswith("worker."):
            self.workers[subject] = workers.evolve(self.workers.get(subject), event, self.pool)

    # ---- what follows from the states --------------------------------------------------------

    def held(self) -> dict[str, set[str]]:
        """The agents in each worker's slots."""
        held: dict[str, set[str]] = {}
        for agent in self.agents.values():
            if agent.held:
                held.setdefault(agent.worker_id, set()).add(agent.agent_id)
        return held

    def agent_counts(self) -> Counter[str]:
        """The number of agents in each worker's slots."""
        return Counter(agent.worker_id for agent in self.agents.values() if agent.held)

    def live_agents(self) -> set[str]:
        return {agent.agent_id for agent in self.agents.values() if not agent.ended}

    def free_slots(self) -> dict[str, int]:
        """The free slots of each live worker: none unless it is active."""
        agent_counts, isolated = self.agent_counts(), self.isolated()
        return {
            worker.worker_id: worker.max_agents - agent_counts[worker.worker_id]
            if worker.status is WorkerStatus.ACTIVE and worker.worker_id not in isolated
            else 0
            for worker in self.workers.values()
            if worker.alive
        }

    def isolated(self) -> dict[str, str]:
        """The isolated agents that have a worker, by worker."""
        return {a.worker_id: a.agent_id for a in self.agents.values() if a.held and a.alone}

    def waiting(self) -> int:
        """The number of pending agents that may share a worker."""
        return sum(a.status is Status.PENDING and not a.alone for a in self.agents.values())

    def waiting_isolated(self) -> set[str]:
        """Pending agents that need a worker of their own."""
        pending = Status.PENDING
        return {a.agent_id for a in self.agents.values() if a.status is pending and a.alone}

    def due(self) -> dict[str, int]:
        """When agents in back-off are to run again."""
        restarting = Status.RESTARTING
        return {a.agent_id: a.due_ms for a in self.agents.values() if a.status is restarting}

    def timeouts(self) -> dict[str, int]:
        """When agents that wait for a slot time out."""
        return {
            agent.agent_id: agent.expires_ms
            for agent in self.agents.values()
            if agent.status is Status.PENDING and agent.expires_ms
        }

    def orders(self) -> dict[str, int]:
        """When launch orders lapse."""
        ordered = WorkerStatus.REQUESTED
        return {w.worker_id: w.deadline_ms for w in self.workers.values() if w.status is ordered}
