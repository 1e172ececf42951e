"""What an agent is, and which step may follow which.

`decide` says what a command leads to, `evolve` what an event makes of an agent. Both are pure:
time and jitter come in with the command. The write side keeps `Agent` as a short-valued Redis
hash; the projector folds the same `evolve` over the whole log. Long values (input, labels, the
last error) are folded too, but only the views keep them.

    pending -> starting -> running -> stopping -> terminated
    pending -> terminated (withdrawn)        running -> terminated (completed, idle)
    starting | running -> restarting (start_failed, crashed, unhealthy, lost)
    restarting -> pending (when due) | failed | terminated
    starting | running -> pending (released)

An agent that was lost twice within the suspicion window is `alone` from then on: it runs in a
worker of its own until it has behaved for that long. If that worker dies too the agent is to blame.

A requested termination is the flag `stop` beside the status. Every step that would run the agent
again ends it instead. A terminal state is never left.
"""

from enum import StrEnum
from typing import Final, TypeAlias, assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.events import (
    AgentBody,
    AgentClaimed,
    AgentCleared,
    AgentCrashed,
    AgentFailed,
    AgentLost,
    AgentReleased,
    AgentRequested,
    AgentRestarting,
    AgentStarted,
    AgentStartFailed,
    AgentTerminated,
    AgentTerminationRequested,
    AgentUnhealthy,
    Error,
    Event,
)


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


class Stop(StrEnum):
    """The termination flag."""

    NO = ""
    GRACEFUL = "graceful"
    NOW = "now"


class Agent(Struct, frozen=True, kw_only=True):
    """One agent as the fold of its events. `version` counts them."""

    agent_id: str
    pool_name: str
    role_type: str
    project_id: str
    status: Status = Status.PENDING
    reason: str = ""
    stop: Stop = Stop.NO
    incarnation: int = 1
    version: int = 0
    worker_id: str = ""
    epoch: int = 0
    claim_seq: int = 0
    heartbeat_interval: float = 30.0
    max_idle_time: float | None = None
    expires_ms: int = 0
    due_ms: int = 0
    failures: tuple[int, ...] = ()
    losses: tuple[int, ...] = ()
    alone: bool = False
    """It is to run in a worker of its own, until it is cleared."""

    # Folded for the views only.
    input: msgspec.Raw = msgspec.Raw(b"{}")
    labels: dict[str, str] = {}
    last_error: Error | None = None
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


# ---- commands --------------------------------------------------------------------------------


class RestartPolicy(Struct, frozen=True):
    """How often and how soon a failing agent is started again; times in milliseconds."""

    limit: int = 5
    window_ms: int = 600_000
    backoff_min_ms: int = 1_000
    backoff_max_ms: int = 60_000

    def delay_ms(self, failures: int, jitter: float) -> int:
        """Exponential back-off, with `jitter` in [0, 1) taking off up to half of it."""
        full = min(self.backoff_min_ms << min(failures - 1, 30), self.backoff_max_ms)
        return max(int(full * (1 - jitter / 2)), min(self.backoff_min_ms, full))


class Spawn(Struct, frozen=True, kw_only=True):
    request: AgentRequested


class Terminate(Struct, frozen=True, kw_only=True):
    reason: str = "requested"
    graceful: bool = True


class Withdraw(Struct, frozen=True, kw_only=True):
    """End an agent that waits longer than it was to wait; one that was claimed since need not."""

    reason: str = "pending-timeout"


class Started(Struct, frozen=True, kw_only=True):
    pass


class Fail(Struct, frozen=True, kw_only=True):
    """The agent's code failed: in `start`, in `run`, or in `check`."""

    during: str  # "start" | "run" | "check"
    error: Error
    now_ms: int
    policy: RestartPolicy
    jitter: float = 0.0


class End(Struct, frozen=True, kw_only=True):
    """Its task is done: it completed, was idle for too long, or was stopped as asked."""

    reason: str
    error: Error | None = None


class Release(Struct, frozen=True, kw_only=True):
    reason: str


class Lose(Struct, frozen=True, kw_only=True):
    """Its worker died. `worker_id`: that one; an agent that another holds by now is let be.

    With more than `tolerated` earlier losses within `suspicion_ms` it is to run alone from now on.
    """

    worker_id: str
    reason: str
    now_ms: int
    blameless: bool = False
    suspicion_ms: int = 0
    tolerated: int = 0
    policy: RestartPolicy = RestartPolicy()
    jitter: float = 0.0


class Clear(Struct, frozen=True, kw_only=True):
    """It need not run alone any more."""

    reason: str


class Drop(Struct, frozen=True, kw_only=True):
    """Give up an agent that was parked."""

    reason: str = "dropped"


class Restart(Struct, frozen=True, kw_only=True):
    """The back-off is over."""


class HandOver(Struct, frozen=True, kw_only=True):
    """This log ends, and another may go on with the agent. Nothing of it runs any more here."""

    reason: str


Command: TypeAlias = (
    Spawn
    | Terminate
    | Withdraw
    | Started
    | Fail
    | End
    | Release
    | Lose
    | Restart
    | HandOver
    | Clear
    | Drop
)


def decide(command: Command, agent: Agent | None) -> tuple[AgentBody, ...]:
    """The events that a command leads to; none if it has already happened or no longer applies."""
    if isinstance(command, Spawn):
        return (command.request,) if agent is None else ()
    if agent is None or agent.ended:
        return ()
    match command:
        case Terminate():
            return _terminate(command, agent)
        case Withdraw():
            waiting = agent.status is Status.PENDING and agent.expires_ms
            return (AgentTerminated(reason=command.reason),) if waiting else ()
        case Started():
            starts = agent.status is Status.STARTING and agent.stop is Stop.NO
            return (AgentStarted(),) if starts else ()
        case Fail():
            return _fail(command, agent)
        case End():
            reason = _requested(agent) if agent.stop else command.reason
            return (AgentTerminated(reason=reason, error=command.error),) if agent.held else ()
        case Release():
            return _release(command, agent)
        case Lose():
            return _lose(command, agent)
        case Restart():
            return _restart(agent)
        case HandOver():
            return (AgentTerminated(reason=_requested(agent) if agent.stop else command.reason),)
        case Clear():
            return (AgentCleared(reason=command.reason),) if agent.alone else ()
        case Drop():
            return (AgentTerminated(reason=command.reason),)
        case _:
            assert_never(command)


def _requested(agent: Agent) -> str:
    """Why a flagged agent ends: what was given when its end was asked for."""
    return agent.reason or "requested"


def _terminate(command: Terminate, agent: Agent) -> tuple[AgentBody, ...]:
    asked = AgentTerminationRequested(reason=command.reason, graceful=command.graceful)
    if not agent.held:
        return (asked, AgentTerminated(reason=command.reason))
    repeats = agent.stop is Stop.NOW or (agent.stop is Stop.GRACEFUL and command.graceful)
    return () if repeats else (asked,)


def _fail(command: Fail, agent: Agent) -> tuple[AgentBody, ...]:
    if not agent.held:
        return ()
    if agent.stop:
        return (AgentTerminated(reason=_requested(agent), error=command.error),)
    due_ms, end = _spend(command, agent)
    window_ms = command.policy.window_ms
    failed = _FAILURES[command.during](
        error=command.error, at_ms=command.now_ms, window_ms=window_ms, due_ms=due_ms
    )
    return (failed, *end)


def _spend(command: Fail | Lose, agent: Agent) -> tuple[int, tuple[AgentFailed, ...]]:
    """Spend one of the restart budget: when it is to run again, or that it is not (0)."""
    policy = command.policy
    failures = 1 + sum(at > command.now_ms - policy.window_ms for at in agent.failures)
    if failures > policy.limit:
        return 0, (AgentFailed(reason="restart-budget-spent", failures=failures),)
    return command.now_ms + policy.delay_ms(failures, command.jitter), ()


_FAILURES: Final[dict[str, type[AgentStartFailed] | type[AgentCrashed] | type[AgentUnhealthy]]] = {
    "start": AgentStartFailed,
    "run": AgentCrashed,
    "check": AgentUnhealthy,
}


def _release(command: Release, agent: Agent) -> tuple[AgentBody, ...]:
    if agent.stop:
        return (AgentTerminated(reason=_requested(agent)),)
    if agent.status not in {Status.STARTING, Status.RUNNING}:
        return ()
    return (AgentReleased(reason=command.reason, next_incarnation=agent.incarnation + 1),)


def _lose(command: Lose, agent: Agent) -> tuple[AgentBody, ...]:
    if not agent.held or agent.worker_id != command.worker_id:
        return ()
    if agent.stop:
        return (AgentTerminated(reason=_requested(agent)),)
    guilty = agent.alone and not command.blameless
    lost = AgentLost(reason=command.reason, at_ms=command.now_ms, blameless=command.blameless)
    if guilty:  # nobody else was there: it counts as a failure of its own
        due_ms, end = _spend(command, agent)
        window_ms = command.policy.window_ms
        return (replace(lost, alone=True, window_ms=window_ms, due_ms=due_ms), *end)
    again = AgentRestarting(reason="lost", next_incarnation=agent.incarnation + 1)
    return (replace(lost, alone=agent.alone or _repeated(command, agent)), again)


def _repeated(command: Lose, agent: Agent) -> bool:
    """Whether it was lost too often within the suspicion window."""
    recent = [at for at in agent.losses if at > command.now_ms - command.suspicion_ms]
    return not command.blameless and len(recent) > command.tolerated


def _restart(agent: Agent) -> tuple[AgentBody, ...]:
    if agent.status is not Status.RESTARTING:
        return ()
    if agent.stop:
        return (AgentTerminated(reason=_requested(agent)),)
    return (AgentRestarting(reason=agent.reason, next_incarnation=agent.incarnation + 1),)


# ---- the fold --------------------------------------------------------------------------------


def request(event: Event, pool: str) -> Agent:
    """The agent that an `agent.requested` begins."""
    body = event.body
    assert isinstance(body, AgentRequested)
    return Agent(
        agent_id=event.subject,
        pool_name=pool,
        role_type=body.role_type,
        project_id=body.project_id,
        version=1,
        heartbeat_interval=body.heartbeat_interval,
        max_idle_time=body.max_idle_time,
        expires_ms=body.expires_ms,
        input=body.input,
        labels=body.labels,
        requested_ms=event.ts,
        changed_ms=event.ts,
    )


def evolve(agent: Agent | None, event: Event, pool: str) -> Agent:
    """What an event makes of an agent. Total: any recorded event of an agent can be folded."""
    body = event.body
    if agent is None or isinstance(body, AgentRequested):
        return request(event, pool)
    agent = replace(agent, version=agent.version + 1, changed_ms=event.ts or agent.changed_ms)
    match body:
        case AgentClaimed():
            return replace(
                agent,
                status=Status.STARTING,
                reason="",
                worker_id=event.worker_id,
                epoch=event.epoch,
                claim_seq=event.seq,
                expires_ms=0,
            )
        case AgentStarted():
            return replace(agent, status=Status.RUNNING, started_ms=event.ts)
        case AgentStartFailed() | AgentCrashed() | AgentUnhealthy():
            return replace(
                _vacated(agent),
                status=Status.RESTARTING,
                reason=body.type.removeprefix("agent."),
                due_ms=body.due_ms,
                failures=_failures(agent, body),
                last_error=body.error,
            )
        case AgentLost():
            return _lost(agent, body)
        case AgentCleared():
            return replace(agent, alone=False, losses=())
        case AgentReleased() | AgentRestarting():
            return replace(
                _vacated(agent),
                status=Status.PENDING,
                reason=body.reason,
                incarnation=body.next_incarnation,
                due_ms=0,
            )
        case AgentTerminationRequested():
            running = agent.status is Status.RUNNING
            return replace(
                agent,
                stop=Stop.GRACEFUL if body.graceful else Stop.NOW,
                reason=body.reason,
                status=Status.STOPPING if running else agent.status,
            )
        case AgentTerminated():
            return replace(
                _vacated(agent),
                status=Status.TERMINATED,
                reason=body.reason,
                ended_ms=event.ts,
                last_error=body.error or agent.last_error,
            )
        case AgentFailed():
            return replace(
                _vacated(agent), status=Status.FAILED, reason=body.reason, ended_ms=event.ts
            )
        case _:
            raise TypeError(f"{event.type} is not an event of an agent")


def _failures(
    agent: Agent, body: AgentStartFailed | AgentCrashed | AgentUnhealthy | AgentLost
) -> tuple[int, ...]:
    """Those within the window, and this one."""
    recent = tuple(at for at in agent.failures if at > body.at_ms - body.window_ms)
    return (*recent, body.at_ms)


def _lost(agent: Agent, body: AgentLost) -> Agent:
    lost = replace(
        _vacated(agent),
        status=Status.RESTARTING,
        reason="lost",
        losses=agent.losses if body.blameless else (*agent.losses, body.at_ms)[-2:],
        alone=body.alone,
    )
    if not body.window_ms:
        return lost
    return replace(
        lost,
        due_ms=body.due_ms,
        failures=_failures(agent, body),
        last_error=Error(type="WorkerLost", message=body.reason),
    )


def _vacated(agent: Agent) -> Agent:
    return replace(agent, worker_id="", epoch=0, claim_seq=0, due_ms=0, expires_ms=0)
