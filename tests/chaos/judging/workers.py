"""The states of one worker, folded from its events, and offences in them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

ALIVE: Final = frozenset({"active", "suspect", "draining"})
MAY_FOLLOW: Final = {
    "worker.started": frozenset({"requested"}),
    "worker.suspect": frozenset({"active", "draining"}),
    "worker.recovered": frozenset({"suspect"}),
    "worker.cordoned": frozenset({"active", "suspect"}),
    "worker.uncordoned": ALIVE,
    "worker.draining": frozenset({"active", "suspect"}),
    "worker.stopped": ALIVE,
    "worker.lost": ALIVE | {"requested"},
}
"""In which status an event may find the worker."""
OWN: Final = frozenset({"consolidation", "replaced"})
"""Why leaders cordon workers, and uncordon them."""
DRAW: Final = frozenset({"worker.started", "worker.lost"})
"""Events with a new epoch."""


@dataclass
class Worker:
    """One worker after some of its events."""

    requested: Entry
    host: str
    max_agents: int
    deadline_ms: int
    status: str = "requested"
    reason: str = ""
    draining: bool = False
    cordoned: str = ""
    drain_ms: int = 0
    kept: str = ""
    by_person: str = ""
    """Why a person has cordoned it, which no leader ends."""
    version: int = 1
    epoch: int = 0
    pid: int = 0
    start_time: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    holds: set[str] = field(default_factory=set)
    alone: str = ""
    """The agent that has it for itself."""

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def fenced(self) -> bool:
        return self.status == "lost"

    @property
    def ended(self) -> bool:
        return self.status in {"stopped", "lost"}

    @property
    def free(self) -> int:
        """Slots that a claim may book."""
        closed = self.alone or self.cordoned or self.status != "active"
        return 0 if closed else self.max_agents - len(self.holds)


def requested(entry: Entry) -> Worker:
    body = entry.body
    return Worker(
        entry,
        host=str(body.get("host", "")),
        max_agents=int(body.get("max_agents", 0)),
        deadline_ms=int(body.get("deadline_ms", 0)),
        reason=str(body.get("reason", "")),
    )


def judge(worker: Worker, entry: Entry, drawn: dict[int, Entry]) -> Iterator[Offence]:
    """Offences of this event. `drawn`: the epochs that were used before, and where."""
    if worker.ended:
        yield entry.offence(4, f"after its end ({worker.status})")
        return
    if worker.status not in MAY_FOLLOW[entry.type]:
        yield entry.offence(4, f"it was {worker.status}")
    if entry.type == "worker.draining" and worker.draining:
        yield entry.offence(4, "it was draining")
    if entry.type == "worker.cordoned" and worker.draining:
        yield entry.offence(4, "it was draining")
    if entry.type == "worker.cordoned" and _is_known(worker, entry):
        yield entry.offence(4, "it was cordoned")
    if entry.type == "worker.uncordoned" and not worker.cordoned:
        yield entry.offence(4, "it was not cordoned")
    if worker.by_person and _ends_cordon(worker, entry):
        yield entry.offence(9, f"a leader ended the cordon of a person: {worker.by_person}")
    if entry.type == "worker.draining" and _is_early(worker, entry):
        yield entry.offence(9, f"drained before the deadline of its agents, {worker.drain_ms}")
    if entry.type == "worker.stopped" and worker.holds:
        yield entry.offence(2, f"stopped with {len(worker.holds)} agents")
    if entry.type == "worker.started" and entry.body.get("max_agents") != worker.max_agents:
        yield entry.offence(1, f"started with other slots than the {worker.max_agents} ordered")
    if entry.worker_id != entry.subject or entry.incarnation:
        yield entry.offence(4, f"of worker {entry.worker_id!r}, incarnation {entry.incarnation}")
    yield from _judge_epoch(worker, entry, drawn)


def _is_known(worker: Worker, entry: Entry) -> bool:
    """Whether it changes nothing. A person's cordon takes over what a leader would end."""
    same = bool(worker.cordoned) and entry.body.get("drain_ms", 0) in (0, worker.drain_ms)
    takes_over = worker.cordoned in OWN and entry.body.get("reason") not in OWN
    notes = entry.body.get("kept", "") != worker.kept
    return same and not (takes_over and not worker.drain_ms) and not notes


def _ends_cordon(worker: Worker, entry: Entry) -> bool:
    """Whether a leader does so. Its drain, and the end of the worker, are no such ends."""
    if not entry.actor.startswith("supervisor:"):
        return False
    left = {entry.body.get("reason"), entry.body.get("kept")}
    lifts = entry.type == "worker.cordoned" and worker.by_person not in left
    return lifts or entry.type == "worker.uncordoned"


def _is_early(worker: Worker, entry: Entry) -> bool:
    """Whether its leader drains it as it was cordoned to, while agents have time left."""
    as_ordered = entry.body.get("reason") == worker.cordoned
    by_leader = entry.actor.startswith("supervisor:")
    return by_leader and as_ordered and worker.drain_ms > entry.ts and bool(worker.holds)


def _judge_epoch(worker: Worker, entry: Entry, drawn: dict[int, Entry]) -> Iterator[Offence]:
    if entry.type not in DRAW:
        if entry.epoch != worker.epoch:
            yield entry.offence(4, f"epoch {entry.epoch}, but its own is {worker.epoch}")
    elif entry.epoch <= worker.epoch:
        yield entry.offence(4, f"epoch {entry.epoch} is not above {worker.epoch}")
    elif known := drawn.get(entry.epoch):
        yield entry.offence(4, f"epoch {entry.epoch} was issued at seq {known.seq}")


def evolve(worker: Worker, entry: Entry) -> None:
    """What the event makes of the worker, right or wrong."""
    body = entry.body
    worker.version += 1
    if entry.type not in {"worker.cordoned", "worker.uncordoned"}:
        worker.reason = str(body.get("reason", ""))
    match entry.type:
        case "worker.started":
            worker.status, worker.deadline_ms = "active", 0
            worker.host, worker.pid = str(body.get("host", "")), int(body.get("pid", 0))
            worker.start_time = int(body.get("start_time", 0))
            worker.epoch, worker.started_ms = entry.epoch, entry.ts
        case "worker.suspect":
            worker.status = "suspect"
        case "worker.recovered":
            worker.status = "draining" if worker.draining else "active"
        case "worker.cordoned":
            worker.cordoned = str(body.get("reason", ""))
            worker.drain_ms = int(body.get("drain_ms", 0))
            worker.kept = str(body.get("kept", ""))
            if not entry.actor.startswith("supervisor:"):
                worker.by_person = worker.kept or worker.cordoned
        case "worker.uncordoned":
            worker.cordoned, worker.drain_ms, worker.kept, worker.by_person = "", 0, "", ""
        case "worker.draining":
            worker.status, worker.draining = "draining", True
        case "worker.stopped":
            worker.status, worker.ended_ms = "stopped", entry.ts
        case "worker.lost":
            worker.status, worker.ended_ms = "lost", entry.ts
            worker.epoch = entry.epoch
        case _:
            pass
