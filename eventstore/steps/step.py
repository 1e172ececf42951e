"""A step: the checks and writes that one commit makes at once.

A step is built from decisions: for every agent or worker that changes, the state that was read, the
events, and (through `evolve`) the state after them. What the change means for queue, slots and
schedules is derived only here.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final, Literal

import msgspec
from msgspec import Struct

from eventstore.language import agents, events, workers
from eventstore.language.agents import Agent, Status
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.steps import clauses, hashes
from eventstore.steps.clauses import Check, Enters, Leaves, Write


class Listed(Struct, frozen=True):
    """Where an agent with a status is listed, besides its hash and its slot."""

    queue: bool = False
    """Its command is in the queue, or is pending for its worker."""
    due: bool = False
    live: bool = True


LISTED: Final = {
    Status.PENDING: Listed(queue=True),
    Status.STARTING: Listed(queue=True),
    Status.RUNNING: Listed(),
    Status.STOPPING: Listed(),
    Status.RESTARTING: Listed(due=True),
    Status.TERMINATED: Listed(live=False),
    Status.FAILED: Listed(live=False),
}
"""A change of status removes an agent from the lists of the old status and adds it to those of the
new one. (An agent that is `starting` entered the queue as `pending`.)"""
_envelope: Final = attrgetter(*events.ENVELOPE)
STARTS: Final = (
    events.AgentRequested,
    events.AgentRestartRequested,
    events.AgentTerminationRequested,
)
"""Events of an agent that follow from a request, and not from its last event."""
STORES_STATE: Final = (
    events.AgentSaved,
    events.AgentRestarting,
    events.AgentRestartRequested,
)
"""Events that may store a state: it was saved, or found."""
FAILED_STATE_MS: Final = 86_400_000
"""How long Redis retains the state of an agent that failed, and may be restarted."""


class Origin(Struct, frozen=True, kw_only=True):
    """The actor that makes a step, and what caused it."""

    actor: str = ""
    correlation_id: str = ""
    """Of the request; an agent's events have that of the request that spawned it."""
    causation_id: str = ""
    """The event that the step follows from, if that is not the last one of its subject."""
    traceparent: str = ""
    traced: bool = False
    """Whether the worker of an agent that is requested continues this trace."""


class Fence(Struct, frozen=True):
    """A worker that acts with its epoch, or a reaper that acts with the epoch that fenced it."""

    worker_id: str
    epoch: int
    lost: bool = False


class Step:
    """Clauses for `lua/commit.lua`. Checks may be added in any order; all come first.

    `ended_ms`: how long Redis retains the hash of an agent or worker that ends.
    """

    def __init__(
        self, pool: str, new_id: Callable[[], str], origin: Origin, *, ended_ms: int
    ) -> None:
        self.pool = pool
        self.ended_ms = ended_ms
        self.checks: list[Check] = []
        self.writes: list[Write] = []
        self.events: list[events.Event] = []
        self._new_id = new_id
        self._origin = origin

    def check(self, *checks: Check) -> None:
        self.checks += checks

    def write(self, *writes: Write) -> None:
        self.writes += writes

    def encode(self) -> bytes:
        """Encode the step as the script's argument."""
        return clauses.encode(self.checks, self.writes)

    # ---- events ------------------------------------------------------------------------------

    def event(
        self,
        body: events.AnyBody,
        subject: str,
        *,
        incarnation: int = 0,
        worker_id: str = "",
        epoch: int = 0,
        correlation_id: str = "",
        causation_id: str = "",
    ) -> events.Event:
        """Append one event. The two ids default to the origin's."""
        origin = self._origin
        event = events.Event(
            body=body,
            event_id=self._new_id(),
            subject=subject,
            incarnation=incarnation,
            worker_id=worker_id,
            epoch=epoch,
            correlation_id=correlation_id or origin.correlation_id,
            causation_id=causation_id or origin.causation_id,
            traceparent=origin.traceparent,
            actor=origin.actor,
        )
        self.events.append(event)
        envelope = [value or "" for value in _envelope(event)]
        data = events.encode_body(body).decode()
        self.write(clauses.AppendEvent((body.type, body.version, *envelope, data)))
        return event

    # ---- agents ------------------------------------------------------------------------------

    def agent(
        self,
        agent_id: str,
        old: Agent | None,
        bodies: Iterable[events.AgentBody],
        *,
        fence: Fence | None = None,
        checked: bool = True,
        state: bytes | None = None,
    ) -> Agent:
        """Append events of an agent; returns its state after them.

        `checked`: only if it is unchanged since `old` was read. `state`: what an `agent.saved` or a
        restart of it stores.
        """
        if checked:
            known = (old.version, old.incarnation) if old else (0, 0)
            self.check(clauses.AgentUnchanged(agent_id, *known))
        new, cause = old, self._origin.causation_id
        for body in bodies:
            if new is not None and not isinstance(body, STARTS):
                cause = cause or new.last_event_id
            event = self.event(
                body,
                agent_id,
                correlation_id=new.correlation_id if new else "",
                causation_id=cause,
                incarnation=new.incarnation if new else 1,
                worker_id=new.worker_id if new else "",
                epoch=fence.epoch if fence and new and new.worker_id else 0,
            )
            new, cause = agents.evolve(new, event, self.pool), ""
            if isinstance(body, events.AgentRequested):
                origin = self._origin
                self.store_spec(agent_id, body, origin.traceparent if origin.traced else "")
            elif state is not None and isinstance(body, STORES_STATE):
                self.write(clauses.PutState(agent_id, clauses.packed(state)))
        if new is None:
            raise ValueError("an agent cannot change without an event")
        self._move(old, new)
        return new

    def revive_agent(
        self,
        old: Agent,
        body: events.AgentRestartRequested,
        *,
        stored: bool,
        state: bytes | None = None,
    ) -> Agent:
        """Queue an agent that has failed. `stored`: its hash is still there, and is replaced.

        `old` has its input and labels: Redis has deleted these at its end. `state`: what it saved.
        """
        if not stored:
            self.check(clauses.AgentUnchanged(old.agent_id, 0, 0))
        new = self.agent(old.agent_id, old, (body,), checked=stored, state=state)
        self.store_spec(old.agent_id, old)
        return new

    def restore_agent(self, agent: Agent, *, replace: bool = False) -> None:
        """Write an agent's state without an event; `replace`: its hash is damaged."""
        self.store_spec(agent.agent_id, agent)
        self._move(None, agent, replace=replace)

    def store_spec(
        self, agent_id: str, spec: events.AgentRequested | Agent, traceparent: str = ""
    ) -> None:
        """Store the input and labels of an agent, if it has any, and the trace that it is of."""
        if traceparent or spec.labels or bytes(spec.input) not in (b"", b"{}"):
            content = {"input": spec.input, "labels": spec.labels}
            content |= {"traceparent": traceparent} if traceparent else {}
            self.write(clauses.PutSpec(agent_id, msgspec.json.encode(content).decode()))

    def requeue(self, agent: Agent) -> None:
        """Replace the entry of a waiting agent by a new one."""
        self._move(agent, agent)

    def _move(self, old: Agent | None, new: Agent, *, replace: bool = False) -> None:
        """Add the writes for an agent's hash, slot, queue and schedules."""
        revived = old is not None and old.ended and not new.ended
        replace, unlisted = replace or revived, old is None or revived
        absent = replace or old is None
        stored = None if absent or old is new else old
        self.write(
            clauses.PutAgent(
                new.agent_id,
                hashes.AGENT.to_flat(new, stored, absent=absent),
                leaves=old is not None and _leaves(old, new),
                enters=_enters(new),
                listed=unlisted,
                ended_ms=0 if LISTED[new.status].live else self.ended_ms,
                replace=replace,
            )
        )
        if old is not None and old.state_sha256 and (new.ended or not new.state_sha256):
            kept_ms = FAILED_STATE_MS if new.state_sha256 else 0
            self.write(clauses.DropState(new.agent_id, kept_ms))
        if new.status is Status.RESTARTING:
            self.write(clauses.Signal("due", new.due_ms))
        flags = (new.stop, new.restart)
        if old is not None and flags != (old.stop, old.restart) and new.held:
            self.write(clauses.Message(new.worker_id, f"stop:{new.agent_id}"))

    # ---- workers -----------------------------------------------------------------------------

    def worker(
        self,
        worker_id: str,
        old: Worker | None,
        bodies: Iterable[events.WorkerBody],
        *,
        epoch: int = 0,
        causation_id: str = "",
        replace: bool = False,
    ) -> Worker:
        """Append events of a worker; returns its state. `epoch`: of the events (0: its own).

        `causation_id`: of the first, if that is not the worker's last event. `replace`: its hash
        cannot be read, and is rebuilt.
        """
        self.check(clauses.WorkerUnchanged(worker_id, old.version if old else 0))
        new, cause = old, causation_id
        for body in bodies:
            event = self.event(
                body,
                worker_id,
                causation_id=cause or (new.last_event_id if new else ""),
                worker_id=worker_id,
                epoch=epoch or (new.epoch if new else 0),
            )
            new, cause = workers.evolve(new, event, self.pool), ""
        if new is None:
            raise ValueError("a worker cannot change without an event")
        self._put(old, new, replace)
        return new

    def _put(self, old: Worker | None, new: Worker, replace: bool) -> None:
        """Add the writes for a worker's hash, its order and where it is listed."""
        worker_id, status = new.worker_id, new.status
        stopped = status is WorkerStatus.STOPPED
        fields = hashes.WORKER.to_flat(new)
        if old is None:
            fields += ["agent_count", "0", "last_heartbeat", "0", "renewal", "0", "alone", ""]
        self.write(
            clauses.PutWorker(
                worker_id,
                fields,
                listed=new.alive,
                order_ms=new.deadline_ms if status is WorkerStatus.REQUESTED else 0,
                lost=status is WorkerStatus.LOST,
                forget_ms=self.ended_ms if stopped else 0,
                replace=replace,
            )
        )
        if stopped:
            self.check(clauses.WorkerIdle(worker_id, nothing_pending=True))
        if status is WorkerStatus.REQUESTED:
            self.write(clauses.Signal("order", new.host))
        elif status is WorkerStatus.LOST:
            self.write(clauses.Signal("lost", worker_id))
        elif old is not None and old.status is WorkerStatus.REQUESTED:
            self.write(clauses.Signal("started", worker_id))
        elif new.draining and not (old and old.draining):
            self.write(clauses.Message(worker_id, "drain"))
        elif old and (new.cordoned, new.drain_ms) != (old.cordoned, old.drain_ms):
            self.write(clauses.Signal("cordon", worker_id), clauses.WakeWorkers())


def _leaves(old: Agent, new: Agent) -> Leaves:
    """What a change removes an agent from."""
    moved = old.held and not (new.held and new.worker_id == old.worker_id)
    shares = new.held and old.alone and not new.alone
    return Leaves(
        queue=LISTED[old.status].queue,
        slot_of=old.worker_id if moved else "",
        due=LISTED[old.status].due,
        timeout=bool(old.expires_ms),
        own_worker=new.worker_id if shares else "",
    )


def _enters(new: Agent) -> Enters | Literal[False]:
    """What a change adds an agent to, if anything. Slots are booked by a claim."""
    if LISTED[new.status].due:
        return Enters(due_ms=new.due_ms)
    if new.status is not Status.PENDING or new.state_lost:
        return False
    if new.alone:
        return Enters(isolation=True, timeout_ms=new.expires_ms)
    return Enters(new.incarnation, new.reason, timeout_ms=new.expires_ms)
