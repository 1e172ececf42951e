"""Events of pools, logs and hosts as sentences, above all the decisions about a pool's size."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from eventstore.language import events
from eventstore.language.events import Event, PoolScalingDecided
from projector.explain.story import Scene, after, by, count, short

TEXT_MAX: Final = 200
CHANGES_MAX: Final = 6
"""So many changed settings are named."""
ENDS_MAX: Final = 3
ENDS_LENGTH: Final = 400
RULES: Final = {
    "pending-spawns": "the load",
    "buffer": "the buffer",
    "service-level": "the service level",
    "forecast": "the forecast",
    "min-workers": "min_workers",
    "schedule": "a schedule",
    "replaced": "the replacement of another one",
}
"""What a rule is called, by its name in the event; others by that name."""
LIMITS: Final = {
    "paused": "the pool's scaling was paused",
    "host_room": "no host had room for more workers",
    "occupied": "workers that hold agents are not stopped",
    "up.window_seconds": "more have not been called for during all of up.window_seconds",
    "down.window_seconds": "more were called for within down.window_seconds",
    "up.tolerance": "the change is below up.tolerance",
    "down.tolerance": "the change is below down.tolerance",
    "up.workers_per_minute": "no more may be added within a minute (up)",
    "down.workers_per_minute": "no more may be removed within a minute (down)",
}
"""What has held back a change; others by their name."""


def held_back(decision: Event) -> bool:
    """Whether a limit kept a pool from getting the workers that it needed."""
    body = decision.body
    return isinstance(body, PoolScalingDecided) and body.wanted > body.desired and bool(body.limit)


def limit_text(decision: Event) -> str:
    """What held back a part of a decision."""
    body = decision.body
    assert isinstance(body, PoolScalingDecided)
    if body.limit == "max_workers":
        return f"the pool may have {count(body.maximum, 'worker')} at most (max_workers)"
    return LIMITS.get(body.limit, body.limit)


def _decided(scene: Scene, body: PoolScalingDecided) -> str:
    if body.desired == body.current:
        text = f"Still {count(body.current, 'worker')}"
    else:
        verb = "Up" if body.desired > body.current else "Down"
        text = f"{verb} from {body.current} to {count(body.desired, 'worker')}"
    limit = f"held back: {limit_text(scene.event)}" if body.limit else ""
    return after((f"{text}: {_called_for(body)}", limit, _ended_before(scene, body)))


def _ended_before(scene: Scene, body: PoolScalingDecided) -> str:
    """Workers that the pool has lost since the decision before, other than by that."""
    last = scene.previous(PoolScalingDecided)
    if last is None or body.current >= last.body.desired:  # type: ignore[union-attr]
        return ""
    ends = [
        f"worker {short(e.subject)} was {_end(e)} ({e.body.reason})"
        for e in scene.known.ends(last.seq, scene.event.seq)
        if isinstance(e.body, (events.WorkerDraining, events.WorkerLost))
        and e.causation_id != last.event_id
    ]
    return f"before, {', '.join(ends[-ENDS_MAX:])[:ENDS_LENGTH]}" if ends else ""


def _shadow_decided(_: Scene, body: events.PoolShadowDecided) -> str:
    if body.desired == body.current:
        would = f"stay at {count(body.current, 'worker')}"
    else:
        verb = "up" if body.desired > body.current else "down"
        would = f"go {verb} from {body.current} to {count(body.desired, 'worker')}"
    rule = RULES.get(body.reason, body.reason)
    held = f"held back: {LIMITS.get(body.limit, body.limit)}" if body.limit else ""
    return after((f"Policy {body.policy}, which is only tried, would {would}: {rule}", held))


def _consolidation_requested(scene: Scene, body: events.PoolConsolidationRequested) -> str:
    reason = f" ({body.reason[:TEXT_MAX]})" if body.reason not in ("", "requested") else ""
    busy = ", busy ones, too" if body.busy else ""
    who = by(scene.event.actor)
    return f"Agents are to be moved, so that fewer workers are needed: asked{who}{reason}{busy}"


def _archive_pruned(_: Scene, body: events.PoolArchivePruned) -> str:
    return f"Its events up to seq {body.up_to_seq:,} have left the archive: exports have them"


def _end(event: Event) -> str:
    return "lost" if isinstance(event.body, events.WorkerLost) else f"drained{by(event.actor)}"


def _called_for(body: PoolScalingDecided) -> str:
    if body.reason == "pool-deleted":
        return "the pool is being deleted"
    load = f"{count(body.running, 'agent')} in slots, {body.pending} waiting"
    load += f", {count(body.free, 'slot')} free"
    if body.restarting:
        load += f", {body.restarting} to restart soon"
    rule = "all rules" if body.reason == "empty" else RULES.get(body.reason, f"`{body.reason}`")
    verb = "need at most" if body.reason == "empty" else "called for"
    wanted = f" {body.wanted}" if body.wanted or body.reason == "empty" else " more"
    return f"{rule} {verb}{wanted} ({load})"


def _created(scene: Scene, body: events.PoolCreated) -> str:
    return f"Created{by(scene.event.actor)} with role {body.role_type}"


def _changed(scene: Scene, body: events.PoolChanged) -> str:
    who, before = by(scene.event.actor), scene.previous(events.PoolCreated, events.PoolChanged)
    old = _settings(before.body.config) if before else None  # type: ignore[union-attr]
    new = _settings(body.config)
    if old is not None and (paused := new.get("paused")) != old.get("paused"):
        return f"Scaling paused{who} ({paused})" if paused is not None else f"Resumed{who}"
    changes = [] if old is None else _changes(old, new)
    return after((f"Settings changed{who}", ", ".join(changes)), ": ")


def _settings(config: msgspec.Raw) -> dict[str, Any]:
    return msgspec.json.decode(config, type=dict[str, Any])


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    texts = [f"{name} {_value(old, name)} → {_value(new, name)}" for name in changed[:CHANGES_MAX]]
    left_out = len(changed) - len(texts)
    return [*texts, f"{left_out} more"] if left_out else texts


def _value(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "unset"
    return msgspec.json.encode(settings[name]).decode()[:TEXT_MAX]


def _replacement_started(scene: Scene, body: events.PoolReplacementStarted) -> str:
    who, how = by(scene.event.actor), f"at most {body.max_unavailable} gone at once"
    return f"Replacement of its {count(body.workers, 'worker')} started{who} ({how}): {body.reason}"


def _replacement_finished(_: Scene, __: events.PoolReplacementFinished) -> str:
    return "All its workers are replaced"


def _replacement_stopped(scene: Scene, body: events.PoolReplacementStopped) -> str:
    who = by(scene.event.actor)
    return f"Replacement of its workers stopped{who}: {body.reason[:TEXT_MAX]}"


def _deleted(scene: Scene, _: events.PoolDeleted) -> str:
    return f"Deleted{by(scene.event.actor)}"


def _removed(_: Scene, __: events.PoolRemoved) -> str:
    return "Removed: it was deleted long ago, and only the archive has it"


def _recovered(_: Scene, body: events.LogRecovered) -> str:
    lost = body.known_seq - body.from_seq
    what = f"{count(lost, 'event')} were lost" if lost > 0 else "nothing is known to be lost"
    return f"Its log was rebuilt from the archive: {body.reason[:TEXT_MAX]}; {what}"


def _joined(_: Scene, body: events.HostJoined) -> str:
    return f"Host {body.hostname} joined"


def _cordoned(_: Scene, body: events.HostCordoned) -> str:
    return f"No more workers are placed there: {body.reason}"


def _left(_: Scene, body: events.HostLeft) -> str:
    return f"It left: {body.reason}"


def _host_removed(_: Scene, __: events.HostRemoved) -> str:
    return "Removed: it left long ago"


def _token_created(scene: Scene, body: events.TokenCreated) -> str:
    return f"Created{by(scene.event.actor)}, for {', '.join(body.scopes)}"


def _token_rotated(scene: Scene, _: events.TokenRotated) -> str:
    return f"Given a new secret{by(scene.event.actor)}"


def _token_revoked(scene: Scene, _: events.TokenRevoked) -> str:
    return f"Revoked{by(scene.event.actor)}"


SENTENCES: Final[Mapping[type[events.Body], Callable[[Scene, Any], str]]] = {
    events.PoolCreated: _created,
    events.PoolChanged: _changed,
    events.PoolReplacementStarted: _replacement_started,
    events.PoolReplacementFinished: _replacement_finished,
    events.PoolReplacementStopped: _replacement_stopped,
    events.PoolDeleted: _deleted,
    events.PoolRemoved: _removed,
    PoolScalingDecided: _decided,
    events.PoolShadowDecided: _shadow_decided,
    events.PoolConsolidationRequested: _consolidation_requested,
    events.PoolArchivePruned: _archive_pruned,
    events.LogRecovered: _recovered,
    events.HostJoined: _joined,
    events.HostCordoned: _cordoned,
    events.HostLeft: _left,
    events.HostRemoved: _host_removed,
    events.TokenCreated: _token_created,
    events.TokenRotated: _token_rotated,
    events.TokenRevoked: _token_revoked,
}
