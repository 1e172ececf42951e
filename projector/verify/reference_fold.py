"""An independent fold of a log, for `verify`: from its first event, with `evolve` only.

It shares nothing with the projector's fold but `evolve`: no checkpoints, no rows, no counters.
Events come from the stream where it has them, and from the archive where it was trimmed.
"""

import sqlite3
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from eventstore.language import agents, catalogue, workers
from eventstore.language.agents import Agent, Status
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import Event
from eventstore.language.workers import Worker, WorkerStatus
from projector.intake.entries import admit, position_after
from projector.store import archive_starts
from projector.store.archive_starts import ArchiveStart, Entry
from projector.store.rows import EventRow, Position
from projector.verify.usage_comparison import UsageFold

PRESENT: Final = "present"
"""The value of a member without a score."""
State = TypeVar("State", Agent, Worker)


class FoldedStates(Generic[State]):
    """The agents or workers of a fold by name; it may be used by one thread after another.

    The memory is bounded: those that have ended are in a private SQLite database that is deleted
    with it, encoded as JSON.
    """

    def __init__(self, shape: type[State]) -> None:
        self.live: dict[str, State] = {}
        """Those that have not ended."""
        self._ended = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._ended.execute("PRAGMA journal_mode = OFF")
        self._ended.execute("CREATE TABLE ended (name TEXT PRIMARY KEY, state BLOB) WITHOUT ROWID")
        self._ended.execute("BEGIN")
        weakref.finalize(self, self._ended.close)
        self._decoder: msgspec.json.Decoder[State] = msgspec.json.Decoder(shape)

    def get(self, name: str) -> State | None:
        """In whatever state it is; None if there is none of that name."""
        if found := self.live.get(name):
            return found
        row = self._ended.execute("SELECT state FROM ended WHERE name = ?", (name,)).fetchone()
        return self._decoder.decode(row[0]) if row else None

    def put(self, name: str, state: State, before: State | None) -> None:
        """`before`: what `get` answers."""
        if before is not None and before.ended:
            self._ended.execute("DELETE FROM ended WHERE name = ?", (name,))
        if state.ended:
            self.live.pop(name, None)
            row = (name, msgspec.json.encode(state))
            self._ended.execute("INSERT INTO ended VALUES (?, ?)", row)
        else:
            self.live[name] = state

    def ended(self) -> Iterator[State]:
        """All that have ended."""
        for (state,) in self._ended.execute("SELECT state FROM ended"):
            yield self._decoder.decode(state)

    def names(self) -> Iterator[str]:
        yield from self.live
        for (name,) in self._ended.execute("SELECT name FROM ended"):
            yield name


class BrokenLog(MusterError):
    """The log cannot be folded further."""


class ReferenceFold:
    """One log, folded up to `position`."""

    def __init__(self, pool: str, generation: int) -> None:
        self.position = Position(pool, generation)
        self.began_at = 0
        """The last event that was not folded, but is in a snapshot."""
        self.agents = FoldedStates(Agent)
        self.workers = FoldedStates(Worker)
        self.catalogue = Catalogue()
        self.usage = UsageFold(pool)

    @property
    def pool(self) -> str:
        return self.position.pool

    def start_from(self, start: ArchiveStart, entries: Sequence[Entry]) -> None:
        """Begin with the snapshot of a pruned log."""
        at = (start.generation, start.seq, start.stream_id, start.ts)
        self.position, self.began_at = Position(start.pool, *at), start.seq
        for agent_id, agent in archive_starts.agents_of(entries).items():
            self.agents.put(agent_id, agent, None)
        for worker_id, worker in archive_starts.workers_of(entries).items():
            self.workers.put(worker_id, worker, None)
        self.usage.start_from(archive_starts.usage_of(start.pool, entries))

    def entries(self) -> list[Entry]:
        """All that lives, as the snapshot of a log that is pruned here.

        An agent that failed can be restarted; a lost worker is remembered while it holds agents;
        and a log that is recovered goes on above the highest epoch.
        """
        counts = self.agent_counts()
        all_workers = [*self.workers.live.values(), *self.workers.ended()]
        highest = max((worker.epoch for worker in all_workers), default=0)
        states: list[Agent | Worker] = [
            *self.agents.live.values(),
            *(agent for agent in self.agents.ended() if agent.status is not Status.TERMINATED),
            *(w for w in all_workers if not w.ended or counts[w.worker_id] or w.epoch == highest),
        ]
        usage = self.usage.entries(self.position.ts)
        return sorted([*map(archive_starts.entry_of, states), *usage])

    def apply(self, rows: Iterable[EventRow], *, last: int) -> None:
        """Fold what follows, up to seq `last`. Raises `BrokenLog`."""
        admitted = admit(self.position, [row for row in rows if row.seq <= last])
        for event in admitted.events:
            try:
                self._apply(event)
            except (ValueError, TypeError, KeyError, AssertionError) as error:
                raise BrokenLog(f"seq {event.seq} ({event.type}): {error}") from error
        self.usage.store()
        before, self.position = self.position, position_after(self.position, admitted)
        if admitted.problem:
            raise BrokenLog(admitted.problem)
        if self.position.seq == before.seq:
            raise BrokenLog(
                f"gap: seq {before.seq + 1} is neither in the stream nor in the archive"
            )

    def _apply(self, event: Event) -> None:
        subject = event.subject
        if self.pool == CATALOGUE:
            self.catalogue = catalogue.evolve(self.catalogue, event)
        elif event.type.startswith("agent."):
            agent = self.agents.get(subject)
            new = agents.evolve(agent, event, self.pool)
            self.agents.put(subject, new, agent)
            self.usage.agent(event, agent, new, self.workers.live.get)
        elif event.type.startswith("worker."):
            worker = self.workers.get(subject)
            changed = workers.evolve(worker, event, self.pool)
            self.workers.put(subject, changed, worker)
            self.usage.worker(event, worker, changed)

    # ---- what follows from the states --------------------------------------------------------

    def agent_counts(self) -> Counter[str]:
        """The number of agents in each worker's slots."""
        return Counter(agent.worker_id for agent in self.agents.live.values() if agent.held)

    def isolated(self) -> dict[str, str]:
        """The isolated agents that have a worker, by worker."""
        return {a.worker_id: a.agent_id for a in self.agents.live.values() if a.held and a.alone}

    def free_slots(self) -> dict[str, int]:
        """The free slots of each live worker: none unless it is active and not cordoned."""
        agent_counts, isolated = self.agent_counts(), self.isolated()
        return {
            worker.worker_id: worker.max_agents - agent_counts[worker.worker_id]
            if worker.claims and worker.worker_id not in isolated
            else 0
            for worker in self.workers.live.values()
            if worker.alive
        }

    def _queued(self) -> list[Agent]:
        """Agents that wait for a worker."""
        waiting = (a for a in self.agents.live.values() if a.status is Status.PENDING)
        return [agent for agent in waiting if not agent.state_lost]

    def counters(self) -> dict[str, int]:
        """Free slots, pending agents that may share a worker, and isolated agents."""
        pending = self._queued()
        return {
            "free": sum(self.free_slots().values()),
            "waiting": sum(not agent.alone for agent in pending),
            "alone": len(self.isolated()),
        }

    def sets(self) -> dict[str, dict[str, Any]]:
        """The sets in Redis, by name: their members, with the scores of those that have them."""
        states, ordered = self.agents.live.values(), WorkerStatus.REQUESTED
        pending = self._queued()
        sets: dict[str, dict[str, Any]] = {
            "agents": dict.fromkeys(self.agents.live, PRESENT),
            "alone": {a.agent_id: PRESENT for a in pending if a.alone},
            "processes": self.free_slots(),
            "due": {a.agent_id: a.due_ms for a in states if a.status is Status.RESTARTING},
            "timeouts": {a.agent_id: a.expires_ms for a in pending if a.expires_ms},
            "orders": {
                w.worker_id: w.deadline_ms
                for w in self.workers.live.values()
                if w.status is ordered
            },
        }
        for agent in states:
            if agent.held:
                sets.setdefault(f"held:{agent.worker_id}", {})[agent.agent_id] = PRESENT
        return sets
