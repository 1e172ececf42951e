"""The commands on an agent, and the events that they lead to: `decide` is pure."""

from collections.abc import Callable
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


_FINAL_IF_STOPPED: Final = (Fail, End, Release, MarkLost, Restart)
"""Commands that end an agent whose end was requested."""
_FAILURE_EVENTS: Final[dict[str, Callable[..., events.AgentBody]]] = {
    "start": events.AgentStartFailed,
    "run": events.AgentCrashed,
    "check": events.AgentUnhealthy,
}


def decide(command: Command, agent: Agent | None) -> tuple[events.AgentBody, ...]:
    """The events that a command leads to; none if it has already happened or no longer applies."""
    if isinstance(command, Spawn):
        return (command.request,) if agent is None else ()
    if agent is None or agent.ended or not _applies(command, agent):
        return ()
    if agent.stop and isinstance(command, _FINAL_IF_STOPPED):
        error = command.error if isinstance(command, (Fail, End)) else None
        return (events.AgentTerminated(reason=agent.reason or "requested", error=error),)
    match command:
        case Terminate(reason=reason, graceful=graceful):
            requested = events.AgentTerminationRequested(reason=reason, graceful=graceful)
            return (
                (requested,) if agent.held else (requested, events.AgentTerminated(reason=reason))
            )
        case Withdraw():
            return (events.AgentTerminated(reason="pending-timeout"),)
        case Started():
            return (events.AgentStarted(),)
        case Fail(error=error, now_ms=now_ms, policy=policy):
            due_ms, end = _spend(command, agent)
            failure = _FAILURE_EVENTS[command.during]
            window_ms = policy.window_ms
            return (failure(error=error, at_ms=now_ms, window_ms=window_ms, due_ms=due_ms), *end)
        case End():
            return (events.AgentTerminated(reason=command.reason, error=command.error),)
        case Release(reason=reason):
            return (events.AgentReleased(reason=reason, next_incarnation=agent.incarnation + 1),)
        case MarkLost():
            return _mark_lost(command, agent)
        case Restart():
            return (_restarting(agent, agent.reason),)
        case Clear():
            return (events.AgentCleared(reason=command.reason),)
        case Drop():
            return (events.AgentTerminated(reason="dropped"),)
        case _:
            assert_never(command)


def _applies(command: Command, agent: Agent) -> bool:
    """Whether a command on an agent that has not ended has not happened yet and still applies."""
    match command:
        case Terminate():
            requested = agent.stop is Stop.NOW or (agent.stop and command.graceful)
            return not (agent.held and requested)
        case Withdraw():
            return agent.status is Status.PENDING and agent.expires_ms > 0
        case Started():
            return agent.status is Status.STARTING and agent.stop is Stop.NO
        case Fail() | End():
            return agent.held
        case Release():
            return bool(agent.stop) or agent.status in {Status.STARTING, Status.RUNNING}
        case MarkLost():
            return agent.held and agent.worker_id == command.worker_id
        case Restart():
            return agent.status is Status.RESTARTING
        case Clear():
            return agent.alone
        case _:
            return True


def _restarting(agent: Agent, reason: str) -> events.AgentRestarting:
    return events.AgentRestarting(reason=reason, next_incarnation=agent.incarnation + 1)


def _spend(command: Fail | MarkLost, agent: Agent) -> tuple[int, tuple[events.AgentFailed, ...]]:
    """Count a failure against the restart budget: when to run again, or 0 and the failed event."""
    policy = command.policy
    failures = 1 + sum(at > command.now_ms - policy.window_ms for at in agent.failures)
    if failures > policy.limit:
        return 0, (events.AgentFailed(reason="restart-budget-spent", failures=failures),)
    return command.now_ms + policy.delay_ms(failures, command.jitter), ()


def _mark_lost(command: MarkLost, agent: Agent) -> tuple[events.AgentBody, ...]:
    reason, now_ms, blameless = command.reason, command.now_ms, command.blameless
    lost = events.AgentLost(reason=reason, at_ms=now_ms, blameless=blameless)
    if agent.alone and not blameless:  # its own failure: no other agent was in the worker
        due_ms, end = _spend(command, agent)
        window_ms = command.policy.window_ms
        return (replace(lost, alone=True, window_ms=window_ms, due_ms=due_ms), *end)
    lost_before = any(at > now_ms - command.suspicion_ms for at in agent.losses)
    isolated = agent.alone or (lost_before and not blameless)
    return (replace(lost, alone=isolated), _restarting(agent, "lost"))
