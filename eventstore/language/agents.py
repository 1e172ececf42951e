"""The state of an agent, and the events that change it.

`decide` turns a command into events, `evolve` folds an event into the state. Both are pure: time
and jitter are part of the command. The write side stores `Agent` as a Redis hash of short values;
the projector folds the complete log with the same `evolve`. Long values (input, labels, the last
error) are folded too, but only the views store them.

    pending -> starting -> running -> stopping -> terminated
    pending -> terminated (withdrawn)        running -> terminated (completed, idle)
    starting | running -> restarting (start_failed, crashed, unhealthy, unavailable, lost)
    restarting -> pending (when due, or requested) | failed | terminated
    starting | running -> pending (released)
    failed -> pending (requested)
    starting -> pending (its saved state was lost; not queued until an operator decides)

An agent that was lost twice within the suspicion window is `alone`: it runs isolated in a worker of
its own until it has run long enough without harm. If that worker dies, too, the loss is the agent's
own failure.

A requested termination is the flag `stop` next to the status. Every step that would run the agent
again ends it instead. `terminated` is never left, `failed` only by a requested restart.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.language import events


class Status(StrEnum):
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    TERMINATED = "terminated"
    FAILED = "failed"


TERMINAL: Final = frozenset({Status.TERMINATED, Status.FAILED})
HELD: Final = frozenset({Status.STARTING, Status.RUNNING, Status.STOPPING})
"""Statuses in which an agent occupies a worker's slot."""


RESTART_REQUESTED: Final = "restart-requested"
STATE_LOST: Final = "state-lost"
REASON_MAX: Final = 48
FAILURES_STORED: Final = 5
"""How many times of failures are stored: a value over 64 bytes would double a hash."""


class Stop(StrEnum):
    """The termination flag."""

    NO = ""
    GRACEFUL = "graceful"
    NOW = "now"


class Agent(events.AgentSpec, frozen=True, kw_only=True):
    """One agent as the fold of its events. `version` counts them."""

    agent_id: str
    pool_name: str
    status: Status = Status.PENDING
    reason: str = ""
    stop: Stop = Stop.NO
    incarnation: int = 1
    version: int = 0
    worker_id: str = ""
    epoch: int = 0
    claim_seq: int = 0
    expires_ms: int = 0
    due_ms: int = 0
    failures: tuple[int, ...] = ()
    losses: tuple[int, ...] = ()
    alone: bool = False
    """It is isolated in a worker of its own until it is cleared."""
    has_run: bool = False
    """It was started at least once."""
    well_ms: int = 0
    """Since when it has run without a failure or loss; 0: it has not started since the last one."""
    failures_in_row: int = 0
    losses_in_row: int = 0
    """So often its code failed, or its worker died, without running for long in between."""
    restart: bool = False
    """Its worker is to release it."""
    correlation_id: str = ""
    """Of the request that spawned it."""
    last_event_id: str = ""
    """The cause of its next event."""
    save: int = 0
    """How often it saved its state."""
    state_sha256: str = ""
    """Of the state that it saved last; empty: it has none."""
    state_lost: bool = False
    """That state was found nowhere: it waits for an operator."""
    discards: bool = False
    """Its state was discarded while it ran: this incarnation saves no more."""

    # Folded for the views only.
    input: msgspec.Raw = msgspec.Raw(b"{}")
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    last_error: events.Error | None = None
    state_size: int = 0
    saved_ms: int = 0
    requested_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    changed_ms: int = 0

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def held(self) -> bool:
        return self.status in HELD


def new_agent(event: events.Event, pool: str) -> Agent:
    """The agent that an `agent.requested` creates."""
    body = event.body
    assert isinstance(body, events.AgentRequested)
    return Agent(
        **shared_fields(body, Agent),
        agent_id=event.subject,
        pool_name=pool,
        version=1,
        correlation_id=event.correlation_id,
        last_event_id=event.event_id,
        requested_ms=event.ts,
        changed_ms=event.ts,
    )


def shared_fields(source: Struct, target: type[Struct]) -> dict[str, Any]:
    """The fields that a spawn, its event and its agent have in common, to copy them."""
    names, values = _shared(type(source), target)
    return dict(zip(names, values(source), strict=True))


@cache
def _shared(
    source: type[Struct], target: type[Struct]
) -> tuple[list[str], Callable[[Struct], tuple[Any, ...]]]:
    """The names, and what reads their values: all at once is several times as fast."""
    names = [name for name in source.__struct_fields__ if name in target.__struct_fields__]
    return names, attrgetter(*names)


def evolve(agent: Agent | None, event: events.Event, pool: str) -> Agent:
    """Fold an event into the state of an agent. Total: any recorded event of one can be folded."""
    if agent is None or isinstance(event.body, events.AgentRequested):
        return new_agent(event, pool)
    changes = _changes(agent, event)
    changes["version"] = agent.version + 1
    changes["last_event_id"] = event.event_id
    changes["changed_ms"] = event.ts or agent.changed_ms
    return replace(agent, **changes)


_VACATED: Final = {
    "worker_id": "", "epoch": 0, "claim_seq": 0, "due_ms": 0, "expires_ms": 0, "restart": False,
    "discards": False,
}  # fmt: skip
"""What an agent that leaves its worker, or waits no longer, has no more."""
_STATELESS: Final = {"state_sha256": "", "state_size": 0, "saved_ms": 0}
_FORGIVEN: Final = {"failures": (), "failures_in_row": 0, "losses_in_row": 0, "well_ms": 0}


def _changes(agent: Agent, event: events.Event) -> dict[str, Any]:
    """Fields that change, besides those that each event changes."""
    body = event.body
    match body:
        case events.AgentClaimed():
            fence = {"worker_id": event.worker_id, "epoch": event.epoch, "claim_seq": event.seq}
            return {"status": Status.STARTING, "reason": "", "expires_ms": 0, **fence}
        case events.AgentStarted():
            well_ms, has_run = agent.well_ms or body.at_ms, agent.has_run or body.at_ms > 0
            well = {"well_ms": well_ms, "has_run": has_run}
            return {"status": Status.RUNNING, "started_ms": event.ts, **well}
        case events.AgentTerminated():
            end = {"status": Status.TERMINATED, "reason": body.reason, "ended_ms": event.ts}
            error = body.error or agent.last_error
            return {**_VACATED, **_STATELESS, **end, "state_lost": False, "last_error": error}
        case events.AgentFailed():
            end = {"status": Status.FAILED, "reason": body.reason, "ended_ms": event.ts}
            return {**_VACATED, **end}
        case events.AgentTerminationRequested():
            status = Status.STOPPING if agent.status is Status.RUNNING else agent.status
            stop = Stop.GRACEFUL if body.graceful else Stop.NOW
            return {"stop": stop, "reason": body.reason, "status": status}
        case events.AgentFailure():
            return _failed(agent, body)
        case events.AgentLost():
            return _lost(agent, body)
        case events.AgentCleared():
            return {"alone": False, "losses": ()}
        case events.AgentSaved():
            saved = {"save": body.save, "state_sha256": body.sha256, "state_size": body.size}
            return {**saved, "saved_ms": event.ts}
        case events.AgentStateLost():
            waits = {"status": Status.PENDING, "reason": STATE_LOST, "state_lost": True}
            return {**_VACATED, **waits, "save": body.save, "state_sha256": body.sha256}
        case events.AgentReleased() | events.AgentRestarting():
            return {**_VACATED, **_queued(body.next_incarnation, body.reason)}
        case events.AgentRestartRequested(next_incarnation=0):
            discarded = {**_STATELESS, "discards": True} if body.discard_state else {}
            return {"restart": True, **discarded}
        case events.AgentRestartRequested():
            queued = _queued(body.next_incarnation, RESTART_REQUESTED)
            discarded = _STATELESS if body.discard_state else {}
            return {**_VACATED, **_FORGIVEN, **queued, **discarded, "ended_ms": 0}
        case _:
            raise TypeError(f"{event.type} is not an event of an agent")


def _queued(incarnation: int, reason: str) -> dict[str, Any]:
    queued = {"status": Status.PENDING, "incarnation": incarnation, "reason": reason}
    return {**queued, "state_lost": False}


def _failed(agent: Agent, body: events.AgentFailure) -> dict[str, Any]:
    unavailable = body.error.retry_after_ms is not None
    counted = {} if unavailable else _counted(agent, body)
    reason = unavailable_reason(body.error) if unavailable else body.type.removeprefix("agent.")
    waiting = {"status": Status.RESTARTING, "reason": reason, "due_ms": body.due_ms}
    return {**_VACATED, **counted, **waiting, "last_error": body.error}


def unavailable_reason(error: events.Error) -> str:
    """Why an agent waits that raised `muster.Unavailable`."""
    return f"unavailable: {first_line(error.message)}" if error.message else "unavailable"


def first_line(text: str) -> str:
    """What a reason contains of a longer text."""
    return text.strip().partition("\n")[0][:REASON_MAX]


def _counted(agent: Agent, body: events.AgentFailure | events.AgentLost) -> dict[str, Any]:
    """With one more failure. Of those within the window the times are stored, too."""
    recent = tuple(at for at in agent.failures if at > body.at_ms - body.window_ms)
    failures = (*recent, body.at_ms)
    if not body.failures:  # in logs of earlier versions
        return {"failures": failures}
    failures = failures[-FAILURES_STORED:]
    return {"failures": failures, "failures_in_row": body.failures, "well_ms": 0}


def _lost(agent: Agent, body: events.AgentLost) -> dict[str, Any]:
    changes = {**_VACATED, "status": Status.RESTARTING, "reason": "lost"}
    changes |= {"due_ms": body.due_ms, "alone": body.alone}
    if not body.blameless:
        changes["losses"] = (*agent.losses, body.at_ms)[-2:]
    if body.window_ms:
        error = events.Error(type="WorkerLost", message=body.reason)
        changes |= {**_counted(agent, body), "last_error": error}
    if body.losses:
        changes |= {"losses_in_row": body.losses, "well_ms": 0}
    return changes
