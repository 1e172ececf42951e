"""The commands on an agent, and the events that they lead to: `decide` is pure."""

from collections.abc import Callable
from typing import Final, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import asdict, replace

from eventstore.language import events
from eventstore.language.agents import Agent, Status, Stop
from eventstore.language.restart_policy import RestartPolicy


class Spawn(Struct, frozen=True, kw_only=True):
    request: events.AgentRequested


class Terminate(Struct, frozen=True, kw_only=True):
    reason: str = "requested"
    graceful: bool = True


class Withdraw(Struct, frozen=True, kw_only=True):
    """End an agent that has waited for too long, unless it was claimed since."""


class Started(Struct, frozen=True, kw_only=True):
    now_ms: int


class Fail(Struct, frozen=True, kw_only=True):
    """The agent's code failed in `start`, `run` or `check`, or said that it cannot work now."""

    during: str  # "start" | "run" | "check"
    error: events.Error
    now_ms: int
    policy: RestartPolicy
    jitter: float = 0.0


class End(Struct, frozen=True, kw_only=True):
    """Its task ended: it completed, was idle for too long, or was stopped as requested."""

    reason: str
    error: events.Error | None = None


class Save(Struct, frozen=True, kw_only=True):
    """Its state is stored, unless an operator has discarded what it saved.

    `after`: how often it had saved; if it has saved the same since, that was this.
    """

    after: int
    size: int
    sha256: str


class LoseState(Struct, frozen=True, kw_only=True):
    """The state that it saved last was found nowhere; `save`, `sha256`: which one that is."""

    save: int
    sha256: str


class FindState(Struct, frozen=True):
    """The state that it waits for was found."""


class Release(Struct, frozen=True, kw_only=True):
    """`saved`: its state, which is stored in the same step; `save_error`: why it is not."""

    reason: str
    saved: Save | None = None
    save_error: str = ""


class MarkLost(Struct, frozen=True, kw_only=True):
    """Its worker `worker_id` died; nothing happens if another worker has the agent by now.

    If it had an earlier loss within `suspicion_ms`, it is isolated from now on. `only`: no other
    agent was in that worker.
    """

    worker_id: str
    reason: str
    now_ms: int
    blameless: bool = False
    only: bool = False
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


class RequestRestart(Struct, frozen=True, kw_only=True):
    """Start it again: at once if it failed or waits for that, else as soon as its worker has
    released it. `discard_state`: without what it saved, also if it waits to be claimed."""

    reason: str
    discard_state: bool = False
    operation_id: str = ""
    digest: str = ""
    operation_ms: int = 0


Command: TypeAlias = (
    Spawn
    | Terminate
    | Withdraw
    | Started
    | Fail
    | End
    | Save
    | LoseState
    | FindState
    | Release
    | MarkLost
    | Restart
    | RequestRestart
    | Clear
    | Drop
)


_FINAL_IF_STOPPED: Final = (Fail, End, Release, MarkLost, Restart, LoseState)
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
    if agent is None or not _applies(command, agent):
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
        case Withdraw() | Drop():
            reason = "dropped" if isinstance(command, Drop) else "pending-timeout"
            return (events.AgentTerminated(reason=reason),)
        case Started():
            return (events.AgentStarted(at_ms=command.now_ms),)
        case Fail():
            return _fail(command, agent)
        case End():
            return (events.AgentTerminated(reason=command.reason, error=command.error),)
        case Save() | LoseState() | FindState():
            return (_state_event(command, agent),)
        case Release():
            return _release(command, agent)
        case MarkLost():
            return _mark_lost(command, agent)
        case Restart():
            return (_restarting(agent, agent.reason),)
        case RequestRestart():
            following = 0 if agent.held else agent.incarnation + 1
            return (events.AgentRestartRequested(**asdict(command), next_incarnation=following),)
        case Clear():
            return (events.AgentCleared(reason=command.reason),)
        case _:
            assert_never(command)


def _applies(command: Command, agent: Agent) -> bool:
    """Whether a command has not happened yet and still applies."""
    if agent.ended and not isinstance(command, RequestRestart):
        return False
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
        case Save():
            done = agent.save > command.after and agent.state_sha256 == command.sha256
            return agent.held and not done and not agent.discards
        case LoseState():
            return not agent.state_lost
        case FindState():
            return agent.state_lost
        case Release():
            return bool(agent.stop) or agent.status in {Status.STARTING, Status.RUNNING}
        case MarkLost():
            return agent.held and agent.worker_id == command.worker_id
        case Restart():
            return agent.status is Status.RESTARTING
        case RequestRestart(discard_state=discard):
            waits = agent.status in {Status.RESTARTING, Status.FAILED}
            discards = discard and (agent.state_lost or bool(agent.state_sha256))
            runs_on = agent.held and not agent.restart
            return not agent.stop and (waits or discards or runs_on)
        case Clear():
            return agent.alone
        case _:
            return True


def _restarting(agent: Agent, reason: str) -> events.AgentRestarting:
    return events.AgentRestarting(reason=reason, next_incarnation=agent.incarnation + 1)


def _state_event(command: Save | LoseState | FindState, agent: Agent) -> events.AgentBody:
    match command:
        case Save(size=size, sha256=sha256):
            return events.AgentSaved(save=agent.save + 1, size=size, sha256=sha256)
        case LoseState(save=save, sha256=sha256):
            return events.AgentStateLost(save=save, sha256=sha256)
        case FindState():
            return _restarting(agent, "state-found")


def _release(command: Release, agent: Agent) -> tuple[events.AgentBody, ...]:
    body = events.AgentReleased(
        reason=command.reason,
        next_incarnation=agent.incarnation + 1,
        save_error=command.save_error,
    )
    return (*(decide(command.saved, agent) if command.saved else ()), body)


def _fail(command: Fail, agent: Agent) -> tuple[events.AgentBody, ...]:
    failure, error = _FAILURE_EVENTS[command.during], command.error
    at, window_ms = command.now_ms, command.policy.window_ms
    if error.retry_after_ms is not None:
        due_ms = at + command.policy.wait_ms(error.retry_after_ms, command.jitter)
        return (failure(error=error, at_ms=at, window_ms=window_ms, due_ms=due_ms),)
    failures, due_ms, end = _count_failure(command, agent)
    body = failure(error=error, at_ms=at, window_ms=window_ms, due_ms=due_ms, failures=failures)
    return (body, *end)


def _count_failure(
    command: Fail | MarkLost, agent: Agent
) -> tuple[int, int, tuple[events.AgentFailed, ...]]:
    """The failures in a row; when to run again, 0 for never; and what ends it, if so."""
    policy, now_ms = command.policy, command.now_ms
    if agent.failures_in_row or not agent.failures:
        before = 0 if _is_well(agent, command) else agent.failures_in_row
    else:  # of an earlier version, which counted those within the window
        before = sum(at > now_ms - policy.window_ms for at in agent.failures)
    failures = before + 1
    if policy.limit is not None and failures > policy.limit:
        return failures, 0, (events.AgentFailed(reason="restart-budget-spent", failures=failures),)
    if not agent.has_run and failures > policy.start_limit:
        return failures, 0, (events.AgentFailed(reason="start-budget-spent", failures=failures),)
    return failures, now_ms + policy.delay_ms(failures, command.jitter), ()


def _is_well(agent: Agent, command: Fail | MarkLost) -> bool:
    """Whether it ran for long enough without trouble."""
    return 0 < agent.well_ms <= command.now_ms - command.policy.window_ms


def _mark_lost(command: MarkLost, agent: Agent) -> tuple[events.AgentBody, ...]:
    """The first loss has no back-off; a repeated one has, whatever became of the suspicion."""
    reason, now_ms, blameless = command.reason, command.now_ms, command.blameless
    losses = 1 if blameless or _is_well(agent, command) else agent.losses_in_row + 1
    lost_before = any(at > now_ms - command.suspicion_ms for at in agent.losses)
    alone = agent.alone or (lost_before and not blameless)
    lost = events.AgentLost(
        reason=reason, at_ms=now_ms, blameless=blameless, alone=alone, losses=losses
    )
    if not blameless and (agent.alone or (command.only and losses > 1)):  # a failure of its own
        failures, due_ms, end = _count_failure(command, agent)
        window_ms = command.policy.window_ms
        return (replace(lost, window_ms=window_ms, due_ms=due_ms, failures=failures), *end)
    if losses > 1:
        return (replace(lost, due_ms=now_ms + command.policy.delay_ms(losses - 1, command.jitter)),)
    return (lost, _restarting(agent, "lost"))
