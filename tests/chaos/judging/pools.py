"""One pool: its agents and workers together, folded from its events, with all offences found."""

from collections.abc import Iterable, Iterator
from typing import Final

from tests.chaos.judging import agents, moves, workers
from tests.chaos.judging.agents import Agent
from tests.chaos.judging.caps import Counts
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.history import RECOVERED
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.replacements import Replaced
from tests.chaos.judging.restarts import Counting
from tests.chaos.judging.scaling import Leader
from tests.chaos.judging.workers import Worker

OPERATION_MS: Final = 600_000
"""For so long an operation id is remembered, unless the request says how long."""
VERSIONS: Final = {"agent.lost": 3}
"""The newest of an event whose rules are known here; 1 of all others."""
OTHERS: Final = frozenset(
    {
        "pool.scaling_decided",
        "pool.shadow_decided",
        "pool.consolidation_requested",
        "pool.archive_pruned",
        RECOVERED,
    }
)


class Pool:
    """The fold of a pool's log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.agents: dict[str, Agent] = {}
        self.workers: dict[str, Worker] = {}
        self.epochs: dict[int, Entry] = {}
        self.operations: dict[str, Entry] = {}
        self.offences: list[Offence] = []
        self.first: Entry | None = None
        self.last: Entry | None = None
        self.recoveries: list[Entry] = []
        self.uncleared: set[str] = set()
        """Lost workers that are still to be reaped, according to Redis."""
        self.counted: list[Counting] = []
        self.leader = Leader()
        self.counts = Counts()
        self.replaced = Replaced()
        self.moved: list[Entry] = []
        """The releases of agents for another worker to run them."""
        self.moves_busy = False
        """Whether busy agents were to be moved, too."""
        self._owed: tuple[Entry, tuple[str, ...]] | None = None

    def apply(self, entry: Entry) -> None:
        self._collect(entry)
        self.first, self.last = self.first or entry, entry
        kind = entry.type
        if kind == RECOVERED:
            self.recoveries.append(entry)
        if not 1 <= entry.version <= VERSIONS.get(kind, 1) or not self._knows(kind):
            self._offend(entry, 5, f"an unknown event (version {entry.version})")
        elif kind.startswith("agent."):
            self._apply_to_agent(entry)
        elif kind.startswith("worker."):
            self._apply_to_worker(entry)
        elif entry.subject != self.name:
            self._offend(entry, 5, "of another pool")
        elif entry.worker_id or entry.epoch or entry.incarnation:
            self._offend(entry, 4, "no worker acts, and no agent")
        elif kind == "pool.scaling_decided":
            self.offences += self.leader.decided(entry)
        elif kind == "pool.consolidation_requested":
            self.moves_busy |= bool(entry.body.get("busy"))

    def _knows(self, kind: str) -> bool:
        begins = {"agent.requested", "worker.requested"}
        return kind in {*begins, *agents.MAY_FOLLOW, *workers.MAY_FOLLOW, *OTHERS}

    def _offend(self, entry: Entry, invariant: int, why: str) -> None:
        self.offences.append(entry.offence(invariant, why))

    # ---- steps that are complete -------------------------------------------------------------

    def _collect(self, entry: Entry) -> None:
        """What a step owes must come at once."""
        if self._owed is None:
            return
        (debtor, kinds), self._owed = self._owed, None
        if entry.type == RECOVERED:
            return  # the rest of the step was lost
        if entry.subject != debtor.subject or entry.type not in kinds:
            self._offend(debtor, 5, f"only part of a step: no {' or '.join(kinds)} follows")

    def finish(self) -> None:
        """No more events: nothing may be owed."""
        if self._owed is not None:
            debtor, kinds = self._owed
            self._offend(debtor, 5, f"only part of a step: no {' or '.join(kinds)} follows")

    # ---- agents ------------------------------------------------------------------------------

    def _apply_to_agent(self, entry: Entry) -> None:
        agent = self.agents.get(entry.subject)
        if entry.type == "agent.requested":
            self._admit(entry, agent)
            return
        if agent is None:
            self._offend(entry, 2, "never requested")
            return
        self.offences += agents.judge(agent, entry, self.workers.get(entry.worker_id))
        before, counted = agent.worker, _counts(agent)
        agents.evolve(agent, entry)
        self._count(entry, agent, counted)
        if entry.body.get("failures") and entry.type != "agent.failed":
            failures, failed = agent.failures_in_row, not agent.due_ms
            self.counted.append(Counting(entry, failures, agent.has_run, failed))
        self._move(entry, before, agent.worker)
        if owed := agents.owed(agent, entry):
            self._owed = entry, owed

    def _count(self, entry: Entry, agent: Agent, counted: bool) -> None:
        """Note what caps and the budget of moves are about."""
        if not counted and _counts(agent):
            self.counts.enter(agent.requested, entry)
        elif counted and not _counts(agent):
            self.counts.leave(agent.requested)
        if entry.type == "agent.released" and entry.body["reason"] == moves.MOVED:
            self.moved.append(entry)

    def _admit(self, entry: Entry, known: Agent | None) -> None:
        if known is not None:
            self._offend(entry, 2, "requested twice")
            return
        if entry.incarnation != 1 or entry.worker_id or entry.epoch:
            self._offend(entry, 2, "a request is of incarnation 1 and of no worker")
        self.agents[entry.subject] = agents.requested(entry)
        operation = str(entry.body.get("operation_id", ""))
        first = self.operations.setdefault(operation, entry) if operation else entry
        kept_ms = int(first.body.get("operation_ms", 0)) or OPERATION_MS
        if first is entry:
            return
        if entry.ts - first.ts >= kept_ms:
            self.operations[operation] = entry
        else:
            self._offend(entry, 2, f"its operation asked for {first.subject} at seq {first.seq}")

    def _move(self, entry: Entry, left: str, joined: str) -> None:
        """Release and book slots."""
        agent, worker = self.agents[entry.subject], self.workers.get(joined)
        if left == joined:
            if worker is not None and worker.alone == entry.subject and not agent.alone:
                worker.alone = ""
            return
        if before := self.workers.get(left):
            before.holds.discard(entry.subject)
            before.alone = "" if before.alone == entry.subject else before.alone
        if worker is not None:
            self._book(entry, agent, worker)

    def _book(self, entry: Entry, agent: Agent, worker: Worker) -> None:
        name = entry.worker_id
        worker.holds.add(entry.subject)
        if len(worker.holds) > worker.max_agents:
            self._offend(entry, 1, f"{name} holds {len(worker.holds)} of {worker.max_agents}")
        if (worker.alone or agent.alone) and len(worker.holds) > 1:
            why = f"{worker.alone or entry.subject} was to be alone in {name}"
            self._offend(entry, 1, why)
        worker.alone = entry.subject if agent.alone else worker.alone

    # ---- workers -----------------------------------------------------------------------------

    def _apply_to_worker(self, entry: Entry) -> None:
        worker = self.workers.get(entry.subject)
        if entry.type == "worker.requested":
            if worker is not None:
                self._offend(entry, 4, "ordered twice")
                return
            if entry.worker_id != entry.subject or entry.epoch or entry.incarnation:
                self._offend(entry, 4, "an order is of that worker and has no epoch")
            self.workers[entry.subject] = workers.requested(entry)
            self.offences += self.leader.ordered(entry, self.workers)
        elif worker is None:
            self._offend(entry, 4, "never ordered")
        else:
            self.offences += workers.judge(worker, entry, self.epochs)
            workers.evolve(worker, entry)
            self.replaced.apply(entry, self.workers)
            if entry.type in workers.DRAW:
                self.epochs.setdefault(entry.epoch, entry)

    def lost(self, generation: int, seq: int) -> bool:
        """Whether a recovery voided the event at that position, or its complete log."""
        if self.first is not None and generation < self.first.generation:
            return True
        return any(r.generation > generation and seq >= r.seq for r in self.recoveries)

    # ---- what follows from it ----------------------------------------------------------------

    @property
    def living(self) -> dict[str, Agent]:
        return {name: agent for name, agent in self.agents.items() if not agent.ended}


def _counts(agent: Agent) -> bool:
    """Whether caps count it: from its first claim until its end."""
    return bool(agent.claims) and not agent.ended


def oversized(pool: Pool, slots: int | None) -> Iterator[Offence]:
    """Workers that were ordered with more than the slots that any of the pool was to have."""
    for worker in pool.workers.values():
        if slots is not None and worker.max_agents > slots:
            why = f"ordered with {worker.max_agents} slots, where {slots} are the most"
            yield worker.requested.offence(1, why)


def fold(name: str, entries: Iterable[Entry]) -> Pool:
    """All of a pool's events, or those up to some position."""
    pool = Pool(name)
    for entry in entries:
        pool.apply(entry)
    return pool
