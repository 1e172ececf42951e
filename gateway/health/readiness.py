"""The probes. Ready means that this process can take commands: what else is wrong takes no gateway
out of service, since it would take all of them. It is in the body, and in alerts.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from gateway.alerts.facts import RECOVER_ADVICE, ViewFacts
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.health.facts import (
    fallback_description,
    projector_notices,
    view_facts,
)
from gateway.wire.answer import Answer
from gateway.wire.problems import Problem


class Alive(Struct, frozen=True):
    status: str = "alive"


class Readiness(Struct, frozen=True):
    """`fallback`: the log replaces another, which could not be reached at the start."""

    status: str
    reasons: Sequence[str] = ()
    """Why it is not ready; empty if it is."""
    warnings: Sequence[str] = ()
    """What else is wrong."""
    fallback: bool = False
    fallback_reason: str = ""
    fallback_can_end: bool = False
    """Whether the other answers again, so that the next start hands over to it."""


async def alive(_call: Call) -> Answer:
    """The process answers."""
    return Answer(Alive())


async def ready(call: Call) -> Answer:
    """It can take commands."""
    backend = call.backend
    probe_seconds = backend.limits.probe_seconds
    warnings = list(backend.tail.stopped.values())
    reasons = list(_no_commands(backend))
    try:
        facts = await view_facts(backend, probe_seconds)
        reasons += _lost_logs(facts)
        warnings += [text for fact in facts if (text := _view_warning(backend, fact))]
    except Problem as problem:
        warnings.append(f"reads are refused: {problem}")
    notices = await projector_notices(backend, probe_seconds)
    warnings += [notice.text for notice in notices]
    fallback = backend.options.fallback
    readiness = Readiness(
        "not ready" if reasons else "ready",
        reasons,
        warnings,
        fallback=fallback is not None,
        fallback_reason=fallback_description(backend),
        fallback_can_end=bool(fallback and fallback.primary_reachable_ms),
    )
    return Answer(readiness, status=503 if reasons else 200)


def _no_commands(backend: Backend) -> Iterator[str]:
    """Why Redis accepts no commands from this gateway; empty if it does."""
    if backend.disconnected:
        why = backend.tail.error or "Redis does not answer"
        yield f"the log is not being followed: {why}"
    capability, default = backend.capabilities.capability, backend.capabilities.default
    if capability and (why := capability.no_writes_reason):
        yield f"Redis accepts no writes: {why}"
    if capability and (why := capability.unavailable_reason(default)):
        yield f"the default durability, {default}, cannot be given: {why}"


def _lost_logs(facts: Sequence[ViewFacts]) -> Iterator[str]:
    """The reason if no log is left that accepts commands; one that is lost is none."""
    lost = [fact for fact in facts if fact.lost]
    if lost and all(fact.lost for fact in facts if fact.pool):
        yield f"no pool accepts commands: {lost[0].status}; {RECOVER_ADVICE}"


def _view_warning(backend: Backend, fact: ViewFacts) -> str:
    """What is wrong with the views of one log; empty if nothing is."""
    name = fact.pool or "the catalogue"
    if fact.status != "ok":
        advice = f"; {RECOVER_ADVICE}" if fact.lost else ""
        return f"the views of {name} are stopped: {fact.status}{advice}"
    if fact.lag_seconds > backend.limits.ready_lag_seconds:
        return f"the views of {name} are {fact.lag_seconds:.0f} s behind"
    return ""
