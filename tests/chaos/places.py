"""Named places at which a process can be made to die, patched in from outside: no hook in Muster.

A place is a function and a point of its call: before it, after it, or shortly after its start; of
the calls that match, the nth. To add one, add a line to `PLACES` and a test that reaches it.
"""

import asyncio
import functools
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from eventstore.steps.clauses import PutWorker
from eventstore.steps.step import Step

Fits = Callable[[dict[str, Any]], bool]
"""Whether a call is meant: its arguments by name and, after it, its `result`."""
SOON_SECONDS: Final = 0.05
"""How long after its beginning a call is interrupted "during" it."""


@dataclass(frozen=True)
class Place:
    """`target` is `module:Class.method` or `module:function`."""

    target: str
    when: Literal["before", "after", "during"]
    fits: Fits = lambda call: True
    nth: int = 1


def recording(*kinds: str) -> Fits:
    """Commits of a step that records one of these events."""
    return lambda call: any(event.type in kinds for event in call["step"].events)


def admitting(call: dict[str, Any]) -> bool:
    return bool(call["adds_load"])


def forgetting(call: dict[str, Any]) -> bool:
    """The last step of a reap: no event, only the dead worker's keys."""
    step: Step = call["step"]
    return not step.events and any(
        isinstance(write, PutWorker) and write.forget_ms for write in step.writes
    )


def of_a_pool(call: dict[str, Any]) -> bool:
    """Events of a pool, not of the catalogue."""
    applied = call.get("applied")
    name = applied.position.pool if applied else call["pool"]
    return bool(name and (applied or call["rows"]))


def archived(call: dict[str, Any]) -> bool:
    """There is something that may be trimmed."""
    return bool(call["trimmable"].seq)


COMMIT: Final = "eventstore.log.log:Log.commit"
PLACES: Final[dict[str, Place]] = {
    # gateway
    "gateway-before-append": Place(COMMIT, "before", admitting),
    "gateway-after-append": Place(COMMIT, "after", admitting),
    "gateway-after-flag": Place(COMMIT, "after", recording("agent.termination_requested")),
    # worker
    "worker-before-started": Place(COMMIT, "before", recording("worker.started")),
    "worker-after-claim": Place(
        "eventstore.log.log:Log.claim", "after", lambda c: bool(c["result"][1])
    ),
    "worker-after-start": Place(COMMIT, "before", recording("agent.started")),
    "worker-after-started": Place(COMMIT, "after", recording("agent.started")),
    "worker-during-stop": Place("workers.runtime.orderly_end:OrderlyEnd._call_stop", "during"),
    "worker-before-terminated": Place(COMMIT, "before", recording("agent.terminated")),
    "worker-after-draining": Place(COMMIT, "after", recording("worker.draining")),
    "worker-after-released": Place(COMMIT, "after", recording("agent.released")),
    # projector
    "projector-before-commit": Place(
        "projector.fold.projection:Projection.write", "after", of_a_pool
    ),
    "projector-after-commit": Place(
        "projector.service.active:Active._mark_committed", "before", of_a_pool
    ),
    "projector-before-trim": Place("projector.service.trimming:Trimmer._trim", "before", archived),
    "projector-after-trim": Place("projector.service.trimming:Trimmer._trim", "after", archived),
    "rebuild-before-switch": Place("projector.rebuild.rebuild:Rebuild._switch", "before"),
    "rebuild-within-switch": Place("projector.rebuild.rebuild:Rebuild._switch", "after"),
    "rebuild-after-switch": Place("projector.rebuild.rebuild:Rebuild.finish", "after"),
    # recovery
    "recovery-after-halt": Place("eventstore.recovery.restore:LogRestore.halt", "after"),
    "recovery-after-wipe": Place("eventstore.recovery.restore:LogRestore.wipe", "after", nth=2),
    "recovery-after-begin": Place("eventstore.recovery.restore:LogRestore.start", "after", nth=2),
    "recovery-after-record": Place("eventstore.recovery.restore:LogRestore.record", "after", nth=2),
    "recovery-before-open": Place("eventstore.recovery.restore:LogRestore.open", "before", nth=2),
    "recovery-after-open": Place("eventstore.recovery.restore:LogRestore.open", "after", nth=2),
    # supervisor
    "supervisor-before-fork": Place("workers.launch.launchers:ForkLauncher.launch", "before"),
    "supervisor-after-fork": Place("workers.launch.launchers:ForkLauncher.launch", "after"),
    "leader-before-append": Place(COMMIT, "before", recording("pool.scaling_decided")),
    "reap-before-fence": Place(COMMIT, "before", recording("worker.lost")),
    "reap-before-chunk-1": Place(COMMIT, "before", recording("agent.lost"), 1),
    "reap-before-chunk-2": Place(COMMIT, "before", recording("agent.lost"), 2),
    "reap-before-chunk-3": Place(COMMIT, "before", recording("agent.lost"), 3),
    "reap-before-forget": Place(COMMIT, "before", forgetting),
}


def arm(name: str, token: str) -> None:
    """Let this process die at a place once there is the token: the one that removes it dies."""
    place = PLACES[name]
    module, _, path = place.target.partition(":")
    holder: Any = import_module(module)
    *outer, function = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    setattr(holder, function, _deadly(getattr(holder, function), place, Path(token)))


def die(token: Path) -> None:
    """At once, as from `kill -9`."""
    try:
        token.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(function: Callable[..., Any], place: Place, token: Path) -> Callable[..., Any]:
    signature = inspect.signature(function)
    calls = 0

    def meant(arguments: tuple[Any, ...], options: dict[str, Any], **more: Any) -> bool:
        nonlocal calls
        if not token.exists():
            return False
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        calls += (fits := place.fits({**bound.arguments, **more}))
        return fits and calls == place.nth

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            if place.when == "before" and meant(arguments, options):
                die(token)
            if place.when == "during" and meant(arguments, options):
                asyncio.get_running_loop().call_later(SOON_SECONDS, die, token)
            result = await function(*arguments, **options)
            if place.when == "after" and meant(arguments, options, result=result):
                die(token)
            return result

        return awaited

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        if place.when == "before" and meant(arguments, options):
            die(token)
        result = function(*arguments, **options)
        if place.when == "after" and meant(arguments, options, result=result):
            die(token)
        return result

    return called
