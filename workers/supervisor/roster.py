"""What a placer knows of its pool: what waits, and the agents in each worker's slots.

A fold of the pool's events, by the rules of the write side, on top of states that were read before.
Such a state may already have what the next events say: folding them again ends in the same state.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from eventstore.language import agents, workers
from eventstore.language.agents import Agent, Status
from eventstore.language.events import AgentRequested, AgentRestartRequested, Event
from eventstore.language.placement import Candidate, Room
from eventstore.language.workers import Worker
from eventstore.log.survey import Survey

NO_INPUT = msgspec.Raw(b"{}")


class Roster:
    """The live agents and workers of one pool. Times in ms of log time."""

    def __init__(
        self, pool: str, live: Iterable[Agent], all_workers: Iterable[Worker], now_ms: int
    ) -> None:
        self.waiting: dict[str, Candidate] = {}
        """Agents that may share a worker, those first that have waited longest."""
        self.unknown: set[str] = set()
        """Agents that had ended, and are wanted again: their states are to be read."""
        self._pool = pool
        self._agents: dict[str, Agent] = {}
        self._workers = {one.worker_id: one for one in all_workers if not one.ended}
        self._held: dict[str, dict[str, Candidate]] = {}
        """By worker; `""`: those that count, and are in none, as they wait for something else."""
        self._isolated: set[str] = set()
        for agent in sorted(live, key=lambda one: one.agent_id):  # by the time of the request
            self.put(agent, agent.well_ms or now_ms)

    def incarnation(self, agent_id: str) -> int:
        return self._agents[agent_id].incarnation

    def epoch(self, worker_id: str) -> int:
        return self._workers[worker_id].epoch

    # ---- events --------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Fold an event; those of what is not known, and is gone, change nothing."""
        kind, subject = event.body.type, event.subject
        if kind.startswith("worker."):
            self._apply_to_worker(event)
        elif kind.startswith("agent."):
            old = self._agents.get(subject)
            if old is not None or isinstance(event.body, AgentRequested):
                new = agents.evolve(old, event, self._pool)
                self.put(replace(new, input=NO_INPUT) if old is None else new, event.ts)
            elif isinstance(event.body, AgentRestartRequested):
                self.unknown.add(subject)

    def _apply_to_worker(self, event: Event) -> None:
        old = self._workers.get(event.subject)
        if old is None and event.body.type != "worker.requested":
            return
        new = self._workers[event.subject] = workers.evolve(old, event, self._pool)
        if new.ended:
            del self._workers[event.subject]

    def put(self, agent: Agent, at_ms: int) -> None:
        """An agent as it is since `at_ms`."""
        agent_id = agent.agent_id
        old = self._agents.get(agent_id)
        if old is not None and _place_of(old) == _place_of(agent):
            self._agents[agent_id] = agent
            return
        self._remove(agent_id)
        if agent.ended:
            return
        self._agents[agent_id] = agent
        if agent.alone:
            self._isolated.add(agent_id)
        waits = agent.status is Status.PENDING and not (agent.alone or agent.state_lost)
        if waits:
            self.waiting[agent_id] = _candidate(agent, 0)
        else:
            held = self._held.setdefault(agent.worker_id, {})
            held[agent_id] = _candidate(agent, at_ms)

    def _remove(self, agent_id: str) -> None:
        old = self._agents.pop(agent_id, None)
        if old is None:
            return
        self.waiting.pop(agent_id, None)
        self._isolated.discard(agent_id)
        held = self._held.get(old.worker_id, {})
        held.pop(agent_id, None)
        if not held:
            self._held.pop(old.worker_id, None)

    def book(self, agent_id: str, worker_id: str, at_ms: int) -> None:
        """It was placed there, which its next event says, too."""
        changes = {"status": Status.STARTING, "worker_id": worker_id}
        self.put(replace(self._agents[agent_id], **changes), at_ms)

    def pass_over(self, agent_id: str) -> None:
        """It does not wait as it is known here: its next event will say how it is."""
        self.waiting.pop(agent_id, None)

    # ---- what to place, and where --------------------------------------------------------------

    def rooms(
        self,
        excluded: Collection[str] = (),
        pressures: Mapping[str, float] | None = None,
        *,
        isolation_limit: int = 0,
    ) -> list[Room]:
        """The workers, for `placement.place`. `excluded`: they get no agents.

        Nor do as many empty ones as isolated agents wait for.
        """
        isolated = [self._agents[agent_id] for agent_id in self._isolated]
        shut = {agent.worker_id for agent in isolated if agent.held}
        waiting = sum(one.status is Status.PENDING and not one.state_lost for one in isolated)
        reserved = min(waiting, max(isolation_limit - len(shut), 0))
        rooms = []
        for worker_id in sorted(self._workers.keys() | self._held.keys()):
            worker = self._workers.get(worker_id)
            held = self._held.get(worker_id, {})
            accepts = worker is not None and worker.claims
            accepts = accepts and worker_id not in shut and worker_id not in excluded
            if accepts and not held and reserved:
                accepts, reserved = False, reserved - 1
            rooms.append(
                Room(
                    worker_id=worker_id,
                    slots=worker.max_agents if worker else 0,
                    agents=held.values(),
                    accepts=accepts,
                    host=worker.host if worker else "",
                    pressure=(pressures or {}).get(worker_id, 0.0),
                )
            )
        return rooms

    def agrees_with(self, survey: Survey) -> bool:
        """Whether a survey found as many that wait, and as many in each worker."""
        counts = {o.worker.worker_id: o.agent_count for o in survey.workers if o.agent_count}
        held = {worker_id: len(found) for worker_id, found in self._held.items() if worker_id}
        return survey.waiting == len(self.waiting) and counts == held


def _place_of(agent: Agent) -> tuple[object, ...]:
    """What decides where an agent is listed: a start or a stop changes none of it."""
    place = agent.worker_id if agent.held else agent.status
    return place, agent.held, agent.alone, agent.incarnation, agent.state_lost


def _candidate(agent: Agent, claimed_ms: int) -> Candidate:
    return Candidate(
        agent_id=agent.agent_id,
        project_id=agent.project_id,
        labels=agent.labels,
        priority=agent.priority,
        expected_seconds=agent.expected_seconds,
        returns=agent.incarnation > 1,
        claimed_ms=claimed_ms,
    )
