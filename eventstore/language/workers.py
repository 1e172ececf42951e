"""The state of a worker, the commands on it and the events that change it.

    requested -> active -> draining -> stopped
    active | draining -> suspect -> back, or lost
    requested | active | draining -> lost

A worker is first an order for a launch, with a deadline; `worker.started` is refused after it.
`epoch` is its fencing number, allocated when it starts and raised when it is declared lost. It may
be cordoned, whatever its status, from `worker.cordoned` until `worker.uncordoned`: it claims no
agents then. A person's cordon lasts until a person ends it, also below a deadline of Muster's own.
"""

from enum import StrEnum
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language import consolidation, events, replacement


class WorkerStatus(StrEnum):
    REQUESTED = "requested"
    ACTIVE = "active"
    SUSPECT = "suspect"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


ROLE_NOT_DECLARED: Final = "role-not-declared"
IMPORT_FAILED: Final = "import-failed"
SETUP_FAILED: Final = "setup-failed"


def is_role_problem(reason: str) -> bool:
    """Whether a worker ended because it cannot run agents of its role."""
    return reason.partition(":")[0] in {ROLE_NOT_DECLARED, IMPORT_FAILED, SETUP_FAILED}


OWN_CORDONS: Final = frozenset({consolidation.REASON, replacement.REPLACED})
"""Reasons of cordons that leaders end by themselves."""
ALIVE: Final = frozenset({WorkerStatus.ACTIVE, WorkerStatus.SUSPECT, WorkerStatus.DRAINING})
"""Statuses in which it has a process that may run agents."""


class Worker(Struct, frozen=True, kw_only=True):
    """One worker as the fold of its events. `version` counts them."""

    worker_id: str
    pool_name: str
    host: str
    max_agents: events.Count
    status: WorkerStatus = WorkerStatus.REQUESTED
    reason: str = ""
    draining: bool = False
    cordoned: str = ""
    """Why it claims no more agents; empty if it claims them."""
    drain_ms: int = 0
    """When it drains that is cordoned, in log time; 0: it does not."""
    cordon_kept: str = ""
    """Why a person cordoned it, where `cordoned` is Muster's own reason: it lasts after that."""
    version: int = 0
    epoch: int = 0
    pid: int = 0
    start_time: int = 0
    deadline_ms: int = 0
    last_event_id: str = ""
    """The cause of its next event."""

    # Folded for the views only.
    requested_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def claims(self) -> bool:
        """Whether its free slots are room for agents."""
        return self.status is WorkerStatus.ACTIVE and not self.cordoned

    @property
    def cordoned_by_muster(self) -> bool:
        """Whether a leader ends the cordon by itself; a person's may last below it."""
        return self.cordoned in OWN_CORDONS

    @property
    def ended(self) -> bool:
        return self.status in {WorkerStatus.STOPPED, WorkerStatus.LOST}


class Start(Struct, frozen=True, kw_only=True):
    host: str
    pid: int
    start_time: int


class Suspect(Struct, frozen=True, kw_only=True):
    reason: str


class Recover(Struct, frozen=True, kw_only=True):
    pass


class Drain(Struct, frozen=True, kw_only=True):
    reason: str


class Cordon(Struct, frozen=True, kw_only=True):
    """`drain_ms`: when it drains if it has agents then; it does so before when it is empty."""

    reason: str
    drain_ms: int = 0


class Uncordon(Struct, frozen=True, kw_only=True):
    """`own`: a leader ends Muster's own cordon, and that of a person stays."""

    reason: str
    own: bool = False


class StopWorker(Struct, frozen=True, kw_only=True):
    reason: str


class DeclareLost(Struct, frozen=True, kw_only=True):
    """Declare it lost."""

    reason: str


WorkerCommand: TypeAlias = (
    Start | Suspect | Recover | Cordon | Uncordon | Drain | StopWorker | DeclareLost
)


def decide(command: WorkerCommand, worker: Worker) -> tuple[events.WorkerBody, ...]:
    """The events that a command leads to; none if it has already happened or no longer applies."""
    if worker.ended:
        return ()
    status = worker.status
    match command:
        case Start(host=host, pid=pid, start_time=start_time) if status is WorkerStatus.REQUESTED:
            slots = worker.max_agents
            return (events.WorkerStarted(host, pid=pid, start_time=start_time, max_agents=slots),)
        case Suspect() if status in {WorkerStatus.ACTIVE, WorkerStatus.DRAINING}:
            return (events.WorkerSuspect(reason=command.reason),)
        case Recover() if status is WorkerStatus.SUSPECT:
            return (events.WorkerRecovered(),)
        case Drain() if worker.alive and not worker.draining:
            return (events.WorkerDraining(reason=command.reason),)
        case Cordon() if worker.alive and not worker.draining:
            return _cordon(command, worker)
        case Uncordon(own=True) if worker.alive and worker.cordon_kept:
            return (events.WorkerCordoned(reason=worker.cordon_kept),)
        case Uncordon(own=own) if worker.alive and worker.cordoned:
            if own and not worker.cordoned_by_muster:
                return ()
            return (events.WorkerUncordoned(reason=command.reason),)
        case StopWorker() if worker.alive:
            return (events.WorkerStopped(reason=command.reason),)
        case DeclareLost():
            return (events.WorkerLost(reason=command.reason),)
        case _:
            return ()


def _cordon(command: Cordon, worker: Worker) -> tuple[events.WorkerBody, ...]:
    """A person's cordon takes over one of Muster's own, or lasts below its deadline."""
    by_person, over_own = command.reason not in OWN_CORDONS, worker.cordoned_by_muster
    is_known = bool(worker.cordoned) and command.drain_ms in (0, worker.drain_ms)
    kept = worker.cordon_kept if over_own else worker.cordoned
    if is_known and by_person and over_own and worker.drain_ms:
        own = events.WorkerCordoned(worker.cordoned, worker.drain_ms, kept=command.reason)
        return () if kept else (own,)
    if is_known and not (by_person and over_own):
        return ()
    if by_person:
        return (events.WorkerCordoned(command.reason, command.drain_ms),)
    if worker.drain_ms and not over_own:  # a person's deadline
        return ()
    return (events.WorkerCordoned(command.reason, command.drain_ms, kept=kept),)


def evolve(worker: Worker | None, event: events.Event, pool: str) -> Worker:
    """Fold an event into the state of a worker."""
    body = event.body
    if isinstance(body, events.WorkerRequested):
        return Worker(
            worker_id=event.subject,
            pool_name=pool,
            host=body.host,
            max_agents=body.max_agents,
            reason=body.reason,
            version=1,
            deadline_ms=body.deadline_ms,
            last_event_id=event.event_id,
            requested_ms=event.ts,
        )
    if worker is None:
        raise ValueError(f"{event.type} of a worker that was never ordered: {event.subject}")
    worker = replace(worker, version=worker.version + 1, last_event_id=event.event_id)
    match body:
        case events.WorkerStarted():
            process = {"host": body.host, "pid": body.pid, "start_time": body.start_time}
            worker = replace(worker, epoch=event.epoch, deadline_ms=0, **process)
            return replace(worker, status=WorkerStatus.ACTIVE, reason="", started_ms=event.ts)
        case events.WorkerSuspect():
            return replace(worker, status=WorkerStatus.SUSPECT, reason=body.reason)
        case events.WorkerRecovered():
            next_status = WorkerStatus.DRAINING if worker.draining else WorkerStatus.ACTIVE
            return replace(worker, status=next_status, reason=body.reason)
        case events.WorkerCordoned():
            cordon = {"cordoned": body.reason, "drain_ms": body.drain_ms}
            return replace(worker, cordon_kept=body.kept, **cordon)
        case events.WorkerUncordoned():
            return replace(worker, cordoned="", drain_ms=0, cordon_kept="")
        case events.WorkerDraining():
            return replace(worker, status=WorkerStatus.DRAINING, draining=True, reason=body.reason)
        case events.WorkerStopped():
            status = WorkerStatus.STOPPED
            return replace(worker, status=status, reason=body.reason, ended_ms=event.ts)
        case events.WorkerLost():
            worker = replace(worker, epoch=event.epoch, ended_ms=event.ts)
            return replace(worker, status=WorkerStatus.LOST, reason=body.reason)
        case _:
            raise TypeError(f"{event.type} is not an event of a worker")
