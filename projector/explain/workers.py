"""Events of workers as sentences."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from eventstore.language import events
from projector.explain.pools import RULES
from projector.explain.story import Scene, after, by, count, span

TEXT_MAX: Final = 400
DRAINS: Final = {
    "empty": "it was empty, and the pool needs fewer workers",
    "pool-deleted": "its pool was deleted",
    "host-shutdown": "its host shuts down",
    "code-changed": "the agents' code has changed",
    "signal": "its process got a signal",
    "memory": "it was larger than memory_max_mb",
    "age": "it was older than its pool allows",
    "stuck": "an agent in it could not be ended",
    "owner-gone": "the process that had started it was gone",
    "drain": "it was asked to drain",
    "quit": "it was asked to end, and was empty",
    "stop": "it was asked to end",
    "defect": "a part of it had failed",
    "requested": "",
    "consolidation": "its agents are moved, so that its pool needs fewer workers",
    "replaced": "it is replaced by a new one",
    "replacement-ended": "the replacement of the workers has ended",
}
"""Reasons that are single words; others are sentences."""


def _requested(scene: Scene, body: events.WorkerRequested) -> str:
    decision = scene.cause()
    why = f": {RULES.get(body.reason, body.reason)} called for it" if body.reason else ""
    if decision is not None and isinstance(decision.body, events.PoolScalingDecided):
        observed = decision.body
        waited, free = count(observed.pending, "agent"), count(observed.free, "slot")
        why += f" ({waited} waiting, {free} free)"
    return f"Ordered on host {body.host} with {count(body.max_agents, 'slot')}{why}"


def _started(scene: Scene, body: events.WorkerStarted) -> str:
    ordered = scene.previous(events.WorkerRequested)
    took = f" {span(scene.event.ts - ordered.ts)} after the order" if ordered else ""
    return f"Started{took} as process {body.pid} on host {body.host}"


def _suspect(_: Scene, body: events.WorkerSuspect) -> str:
    return f"Suspected to be dead: {body.reason[:TEXT_MAX]}"


def _recovered(scene: Scene, _: events.WorkerRecovered) -> str:
    suspect = scene.previous(events.WorkerSuspect)
    return f"It renewed its lease{f' {span(scene.event.ts - suspect.ts)} later' if suspect else ''}"


def _cordoned(scene: Scene, body: events.WorkerCordoned) -> str:
    left = span(body.drain_ms - scene.event.ts)
    drains = f"it is to drain in {left}, or when it is empty" if body.drain_ms else ""
    cordoned = after((f"Cordoned{by(scene.event.actor)}", _why(body.reason)), ": ")
    kept = f"the cordon by a person lasts after that: {_why(body.kept)}" if body.kept else ""
    return after((cordoned, drains, kept))


def _uncordoned(scene: Scene, body: events.WorkerUncordoned) -> str:
    return after((f"Uncordoned{by(scene.event.actor)}", _why(body.reason)), ": ")


def _why(reason: str) -> str:
    return DRAINS.get(reason, reason[:TEXT_MAX])


def _draining(scene: Scene, body: events.WorkerDraining) -> str:
    agents = scene.story.agents.get(scene.event.event_id, 0)
    why = _why(body.reason)
    released = f"it released {count(agents, 'agent')}" if agents else ""
    return after((after((f"Drained{by(scene.event.actor)}", why), ": "), released))


def _stopped(scene: Scene, body: events.WorkerStopped) -> str:
    drain = scene.previous(events.WorkerDraining)
    took = f" {span(scene.event.ts - drain.ts)} after its drain" if drain else ""
    why = "" if drain else f": {_why(body.reason)}"
    return f"Stopped, empty{took}{why}"


def _lost(scene: Scene, body: events.WorkerLost) -> str:
    agents = scene.story.agents.get(scene.event.event_id, 0)
    held = f"it held {count(agents, 'agent')}" if agents else ""
    return after((f"Lost: {body.reason[:TEXT_MAX]}", held))


SENTENCES: Final[Mapping[type[events.Body], Callable[[Scene, Any], str]]] = {
    events.WorkerRequested: _requested,
    events.WorkerStarted: _started,
    events.WorkerSuspect: _suspect,
    events.WorkerRecovered: _recovered,
    events.WorkerCordoned: _cordoned,
    events.WorkerUncordoned: _uncordoned,
    events.WorkerDraining: _draining,
    events.WorkerStopped: _stopped,
    events.WorkerLost: _lost,
}
