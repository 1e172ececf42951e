"""The commands on an agent, and the events that they lead to: `decide` is pure."""

from typing import Final, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language import events
from eventstore.language.agents import Agent, Status, Stop
from eventstore.language.pool_config import RestartPolicy


class Spawn(Struct, frozen=True, kw_only=True):
    request: events.AgentRequested


class Terminate(Struct, frozen=True, kw_only=True):
    reason: str = "requested"
    graceful: bool = True


class Withdraw(Struct, frozen=True, kw_only=True):
    """End an agent that has waited for too long, unless it was claimed since."""


class Started(Struct, frozen=True, kw_only=True):
    pass


class Fail(Struct, frozen=True, kw_only=True):
    """The agent's code failed: in `start`, in `run`, or in `check`."""

    during: str  # "start" | "run" | "check"
    error: events.Error
    now_ms: int
    policy: RestartPolicy
    jitter: float = 0.0


class End(Struct, frozen=True, kw_only=True):
    """Its task ended: it completed, was idle for too long, or was stopped as requested."""

    reason: str
    error: events.Error | None = None


class Release(Struct, frozen=True, kw_only=True):
    reason: str


class MarkLost(Struct, frozen=True, kw_only=True):
    """Its worker `worker_id` died; nothing happens if another worker has the agent by now.

    If it had an earlier loss within `suspicion_ms`, it is isolated from now on.
    """

    worker_id: str
    reason: str
    now_ms: int
    blameless: bool = False
    suspicion_ms: int = 0
    policy: RestartPolicy = RestartPolicy()
    jitter: float = 0.0


class Clear(Struct, frozen=True, kw_only=True):
    """It need not be isolated any more."""

    reason: str


class Drop(Struct, frozen=True, kw_only=True):
    """End an agent that was parked, without a restart."""


class Restart(Struct, frozen=True, kw_only=True):
    """The back-off is over."""


Command: TypeAlias = (
    Spawn
    | Terminate
    | Withdraw
    | Started
    | Fail
    | End
    | Release
    | MarkLost
    | Restart
    | Clear
    | Drop
)


def decide(command: Command, agent: Agent | None) -> tuple[events.AgentBody, ...]:
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
            return (events.AgentTerminated(reason="pending-timeout"),) if waiting else ()
        case Started():
            starts = agent.status is Status.STARTING and agent.stop is Stop.NO
            return (events.AgentStarted(),) if starts else ()
        case Fail():
            return _fail(command, agent)
        case End():
            reason = _termination_reason(agent) if agent.stop else command.reason
            ended = events.AgentTerminated(reason=reason, error=command.error)
            return (ended,) if agent.held else ()
        case Release():
            return _release(command, agent)
        case MarkLost():
            return _mark_lost(command, agent)
        case Restart():
            return _restart(agent)
        case Clear():
            return (events.AgentCleared(reason=command.reason),) if agent.alone else ()
        case Drop():
            return (events.AgentTerminated(reason="dropped"),)
        case _:
            assert_never(command)


def _termination_reason(agent: Agent) -> str:
    """Why an agent with the termination flag ends: the reason of the request."""
    return agent.reason or "requested"


def _terminate(command: Terminate, agent: Agent) -> tuple[events.AgentBody, ...]:
    requested = events.AgentTerminationRequested(reason=command.reason, graceful=command.graceful)
    if not agent.held:
        return (requested, events.AgentTerminated(reason=command.reason))
    already_requested = agent.stop is Stop.NOW or (agent.stop is Stop.GRACEFUL and command.graceful)
    return () if already_requested else (requested,)


def _fail(command: Fail, agent: Agent) -> tuple[events.AgentBody, ...]:
    if not agent.held:
        return ()
    if agent.stop:
        return (events.AgentTerminated(reason=_termination_reason(agent), error=command.error),)
    due_ms, end = _spend(command, agent)
    window_ms = command.policy.window_ms
    failed = _FAILURE_EVENTS[command.during](
        error=command.error, at_ms=command.now_ms, window_ms=window_ms, due_ms=due_ms
    )
    return (failed, *end)


def _spend(command: Fail | MarkLost, agent: Agent) -> tuple[int, tuple[events.AgentFailed, ...]]:
    """Count a failure against the restart budget: when to run again, or 0 and the failed event."""
    policy = command.policy
    failures = 1 + sum(at > command.now_ms - policy.window_ms for at in agent.failures)
    if failures > policy.limit:
        return 0, (events.AgentFailed(reason="restart-budget-spent", failures=failures),)
    return command.now_ms + policy.delay_ms(failures, command.jitter), ()


_Failure: TypeAlias = events.AgentStartFailed | events.AgentCrashed | events.AgentUnhealthy
_FAILURE_EVENTS: Final[dict[str, type[_Failure]]] = {
    "start": events.AgentStartFailed,
    "run": events.AgentCrashed,
    "check": events.AgentUnhealthy,
}


def _release(command: Release, agent: Agent) -> tuple[events.AgentBody, ...]:
    if agent.stop:
        return (events.AgentTerminated(reason=_termination_reason(agent)),)
    if agent.status not in {Status.STARTING, Status.RUNNING}:
        return ()
    return (events.AgentReleased(reason=command.reason, next_incarnation=agent.incarnation + 1),)


def _mark_lost(command: MarkLost, agent: Agent) -> tuple[events.AgentBody, ...]:
    if not agent.held or agent.worker_id != command.worker_id:
        return ()
    if agent.stop:
        return (events.AgentTerminated(reason=_termination_reason(agent)),)
    own_failure = agent.alone and not command.blameless
    lost = events.AgentLost(
        reason=command.reason, at_ms=command.now_ms, blameless=command.blameless
    )
    if own_failure:  # no other agent was in the worker
        due_ms, end = _spend(command, agent)
        window_ms = command.policy.window_ms
        return (replace(lost, alone=True, window_ms=window_ms, due_ms=due_ms), *end)
    restarting = events.AgentRestarting(reason="lost", next_incarnation=agent.incarnation + 1)
    return (replace(lost, alone=agent.alone or _lost_repeatedly(command, agent)), restarting)


def _lost_repeatedly(command: MarkLost, agent: Agent) -> bool:
    """Whether this is its second loss within the suspicion window."""
    recent = any(at > command.now_ms - command.suspicion_ms for at in agent.losses)
    return recent and not command.blameless


def _restart(agent: Agent) -> tuple[events.AgentBody, ...]:
    if agent.status is not Status.RESTARTING:
        return ()
    if agent.stop:
        return (events.AgentTerminated(reason=_termination_reason(agent)),)
    return (events.AgentRestarting(reason=agent.reason, next_incarnation=agent.incarnation + 1),)
