"""A step: the checks and writes that one commit makes at once.

A step is built from decisions: for every agent or worker that changes, the state that was read,
the events, and (through `evolve`) the state that follows. What the change means for queue, slots
and schedules is derived here and nowhere else.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec
from msgspec import Struct

from eventstore.language import agents, workers
from eventstore.language.agents import Agent, Status
from eventstore.language.events import (
    AgentBody,
    AgentRequested,
    AnyBody,
    Event,
    WorkerBody,
    encode_body,
)
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.steps import hashes

Argument: TypeAlias = str | bytes | int


class Origin(Struct, frozen=True, kw_only=True):
    """Who caused a step and on whose behalf."""

    actor: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


class Fence(Struct, frozen=True):
    """A worker acting under its epoch, or a reaper acting under the epoch that fenced it."""

    worker_id: str
    epoch: int
    lost: bool = False


class Step:
    """Clauses for `lua/commit.lua`. Checks may be added in any order; all come first.

    `ended_ms`: how long the hash of what ends stays in Redis; its history stays in the log.
    """

    def __init__(
        self, pool: str, new_id: Callable[[], str], origin: Origin, *, ended_ms: int
    ) -> None:
        self.pool = pool
        self.ended_ms = ended_ms
        self.checks: list[Argument] = []
        self.writes: list[Argument] = []
        self.events: list[Event] = []
        self._new_id = new_id
        self._origin = origin

    def check(self, clause: str, *values: Argument) -> None:
        self.checks += (f"?{clause}", *values)

    def write(self, clause: str, *values: Argument) -> None:
        self.writes += (clause, *values)

    def arguments(self) -> list[Argument]:
        return [*self.checks, *self.writes]

    # ---- events ------------------------------------------------------------------------------

    def event(
        self,
        body: AnyBody,
        subject: str,
        *,
        incarnation: int = 0,
        worker_id: str = "",
        epoch: int = 0,
    ) -> Event:
        """Append one event."""
        origin = self._origin
        event = Event(
            body=body,
            event_id=self._new_id(),
            subject=subject,
            incarnation=incarnation,
            worker_id=worker_id,
            epoch=epoch,
            correlation_id=origin.correlation_id,
            causation_id=origin.causation_id,
            traceparent=origin.traceparent,
            actor=origin.actor,
        )
        self.events.append(event)
        self.write(
            "event",
            body.type,
            body.version,
            event.event_id,
            subject,
            incarnation or "",
            worker_id,
            epoch or "",
            origin.correlation_id,
            origin.causation_id,
            origin.traceparent,
            origin.actor,
            encode_body(body),
        )
        return event

    # ---- agents ------------------------------------------------------------------------------

    def agent(
        self,
        agent_id: str,
        old: Agent | None,
        bodies: Iterable[AgentBody],
        *,
        fence: Fence | None = None,
        checked: bool = True,
    ) -> Agent:
        """Record what happened to an agent; returns what it is afterwards.

        `checked`: only if it still is as `old` says.
        """
        if checked:
            self.check("agent", agent_id, old.version if old else 0, old.incarnation if old else 0)
        new = old
        for body in bodies:
            event = self.event(
                body,
                agent_id,
                incarnation=new.incarnation if new else 1,
                worker_id=new.worker_id if new else "",
                epoch=fence.epoch if fence and new and new.worker_id else 0,
            )
            new = agents.evolve(new, event, self.pool)
            if isinstance(body, AgentRequested):
                self.register(agent_id, body)
        if new is None:
            raise ValueError("an agent cannot change without an event")
        self._write_agent_effects(old, new)
        return new

    def write_agent(self, agent: Agent) -> None:
        """Write an agent as it is, where nothing is known of it; without an event."""
        self._write_agent_effects(None, agent)

    def register(self, agent_id: str, spec: AgentRequested | Agent) -> None:
        """List it among the living, with what its code is given."""
        self.write("live", agent_id)
        self.store_spec(agent_id, spec)

    def store_spec(self, agent_id: str, spec: AgentRequested | Agent) -> None:
        """Keep what the agent is given at its start, if that is anything."""
        if spec.labels or bytes(spec.input) not in (b"", b"{}"):
            content = {"input": spec.input, "labels": spec.labels}
            self.write("spec", agent_id, msgspec.json.encode(content))

    def enqueue(self, agent: Agent) -> None:
        """Put an agent that waits into its queue and on its schedules."""
        if agent.status is Status.PENDING:
            if agent.alone:
                self.write("isolate", agent.agent_id)
            else:
                self.write("queue", agent.agent_id, agent.incarnation, agent.reason)
            if agent.expires_ms:
                self.write("timeout", agent.agent_id, agent.expires_ms)
            self.write("wake")
        elif agent.status is Status.RESTARTING:
            self.write("due", agent.agent_id, agent.due_ms)
            self.write("signal", "due", agent.due_ms)

    def _write_agent_effects(self, old: Agent | None, new: Agent) -> None:
        """What a change of an agent means for hash, slot, queue and schedules."""
        agent_id = new.agent_id
        fields = hashes.AGENT.to_flat(new)
        self.write("agent", agent_id, len(fields) // 2, *fields)
        if old is not None:
            if old.status is Status.STARTING or old.status is Status.PENDING:
                self.write("unqueue", agent_id)
            if old.held and not (new.held and new.worker_id == old.worker_id):
                self.write("vacate", agent_id, old.worker_id)
            if old.status is Status.RESTARTING:
                self.write("undue", agent_id)
            if old.expires_ms:
                self.write("untimeout", agent_id)
            if new.held and old.alone and not new.alone:
                self.write("share", new.worker_id)
                self.write("wake")
        self.enqueue(new)
        if new.ended:
            self.write("ended", agent_id, self.ended_ms)
        if old is not None and new.stop is not old.stop and new.held:
            self.write("inbox", new.worker_id, f"stop:{agent_id}")

    # ---- workers -----------------------------------------------------------------------------

    def worker(
        self, worker_id: str, old: Worker | None, bodies: Iterable[WorkerBody], *, epoch: int = 0
    ) -> Worker:
        """Record what happened to a worker; `epoch` is that of the events (0: its own)."""
        self.check("process", worker_id, old.version if old else 0)
        new = old
        for body in bodies:
            event = self.event(
                body,
                worker_id,
                worker_id=worker_id,
                epoch=epoch or (new.epoch if new else 0),
            )
            new = workers.evolve(new, event, self.pool)
        if new is None:
            raise ValueError("a worker cannot change without an event")
        self._write_worker_effects(old, new)
        return new

    def _write_worker_effects(self, old: Worker | None, new: Worker) -> None:
        worker_id = new.worker_id
        fields = hashes.WORKER.to_flat(new)
        if old is None:
            fields += ["agent_count", "0", "last_heartbeat", "0", "renewal", "0", "alone", ""]
        self.write("process", worker_id, len(fields) // 2, *fields)
        if new.status is WorkerStatus.REQUESTED:
            self.write("order", worker_id, new.deadline_ms)
            self.write("signal", "order", new.host)
        elif old is not None and old.status is WorkerStatus.REQUESTED:
            self.write("unorder", worker_id)
        if new.alive:
            self.write("enlist", worker_id)
        elif new.ended:
            self.write("delist", worker_id)
        if new.status is WorkerStatus.STOPPED:
            self.check("empty", worker_id)
            self.check("settled", worker_id)
            self.write("forget", worker_id, self.ended_ms)
        elif new.status is WorkerStatus.LOST:
            self.write("lost", worker_id)
            self.write("signal", "lost", worker_id)
        elif new.draining and not (old and old.draining):
            self.write("inbox", worker_id, "drain")
