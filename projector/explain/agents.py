"""Events of agents as sentences: what happened, why, who asked, how long it waited and for what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from eventstore.language import events
from eventstore.language.agents import RESTART_REQUESTED
from eventstore.language.events import Event
from eventstore.language.workers import is_role_problem
from projector.explain.pools import held_back, limit_text
from projector.explain.story import Scene, after, by, count, last_of, short, span
from projector.explain.workers import DRAINS

SHORT_WAIT_MS: Final = 100
"""A wait up to this is the time that a claim takes."""
QUEUED: Final = (
    events.AgentRequested,
    events.AgentReleased,
    events.AgentRestarting,
    events.AgentRestartRequested,
)
"""An agent waits to be claimed from one of these on."""
TEXT_MAX: Final = 200
RELEASES: Final = {
    RESTART_REQUESTED: "its restart was requested",
    "moved": "so that its pool needs fewer workers",
    "stuck": "another agent in it could not be ended",
    "owner-gone": "the process that had started its worker was gone",
    "memory": "its worker was larger than memory_max_mb",
    "age": "its worker was older than its pool allows",
}
ENDS: Final = {
    "requested": "its termination was requested",
    "pool-deleted": "its pool was deleted",
    "completed": "its `run` returned",
    "idle": "it was idle for its max_idle_time",
    "pending-timeout": "it was not started within its pending_timeout",
    "dropped": "it was parked, and an operator dropped it",
    "ended-in-fallback": "it ended in the fallback",
}
FAILED: Final = {
    "restart-budget-spent": "its pool allows no more (restart_limit)",
    "start-budget-spent": "it was never started, and its pool allows no more (start_limit)",
}
CLEARED: Final = {
    "behaved": "it ran without trouble",
    "not-tried": "no worker was available for it",
    "too-many": "more agents waited than may be isolated",
    "suspicion-off": "suspicion_window_seconds is 0",
}


def _requested(scene: Scene, body: events.AgentRequested) -> str:
    limit = body.pending_timeout
    return after(
        (
            f"Requested{by(scene.event.actor)} for project {body.project_id}",
            f"role {body.role_type}",
            f"it may wait for {limit:g} s" if limit is not None else "",
        ),
        ", ",
    )


# ---- placed -------------------------------------------------------------------------------------


def _claimed(scene: Scene, body: events.AgentClaimed) -> str:
    event, since = scene.event, scene.previous(*QUEUED)
    worker = scene.before(event.worker_id)
    started = last_of(worker, events.WorkerStarted)
    host = f" on host {started.body.host}" if started else ""  # type: ignore[union-attr]
    text = f"Claimed by worker {short(event.worker_id)}{host}"
    if body.strategy:
        chosen = f"`{body.strategy}`, of {count(body.rooms, 'worker')} with free slots"
        text = f"Placed with worker {short(event.worker_id)}{host} ({chosen})"
    if since is None:
        return text
    waited = f"{text} after {span(event.ts - since.ts)}"
    if body.cap:
        return f"{waited}: a {body.cap} held it back"
    return f"{waited}: {wait_reason(scene, since, worker)}"


def wait_reason(scene: Scene, since: Event, worker: Sequence[Event]) -> str:
    """What an agent waited for until its claim by a worker with these events."""
    event = scene.event
    ordered, started = (
        last_of(worker, kind) for kind in (events.WorkerRequested, events.WorkerStarted)
    )
    isolated = "it needed a worker of its own" if _is_isolated(scene) else ""
    if started is not None and started.seq > since.seq:
        return after((isolated, _launch(scene, since, ordered, started), _failed_launches(scene)))
    if event.ts - since.ts <= SHORT_WAIT_MS:
        return isolated or "a slot was free there"
    decision = last_of(scene.before(scene.story.pool), events.PoolScalingDecided)
    held = decision is not None and held_back(decision)
    why = f"no slot was free, and {limit_text(decision)}" if decision is not None and held else ""
    return after((isolated, why or "until a slot was free there", _failed_launches(scene)))


def _launch(scene: Scene, since: Event, ordered: Event | None, started: Event) -> str:
    """A worker that was started while the agent waited."""
    if ordered is None:
        return "no slot was free before this worker started"
    launch = f"it started within {span(started.ts - ordered.ts)}"
    if ordered.seq < since.seq:
        return f"no slot was free; this worker was ordered before, and {launch}"
    decision = scene.known.by_id.get(ordered.causation_id)
    position = f" (decision {scene.story.pool}:{decision.seq})" if decision else ""
    delay = ordered.ts - since.ts
    held = _held_back_before(scene, decision) if decision and delay > SHORT_WAIT_MS else ""
    text = f"no slot was free; this worker was ordered after {span(delay)}{position}"
    return f"{text}{held}, and {launch}"


def _held_back_before(scene: Scene, decision: Event) -> str:
    """What kept the pool from ordering a worker until that decision."""
    decided = [e for e in scene.before(scene.story.pool) if e.seq < decision.seq]
    last = last_of(decided, events.PoolScalingDecided)
    return f", as before {limit_text(last)}" if last is not None and held_back(last) else ""


def _failed_launches(scene: Scene) -> str:
    """Workers that ended meanwhile and could not run agents of the role."""
    since = scene.previous(*QUEUED)
    ends = [
        e.body.reason
        for e in (scene.known.ends(since.seq, scene.event.seq) if since else ())
        if isinstance(e.body, (events.WorkerStopped, events.WorkerLost))
        and is_role_problem(e.body.reason)
    ]
    workers = count(len(ends), "worker")
    return f"{workers} could not run its role meanwhile: {ends[-1][:TEXT_MAX]}" if ends else ""


def _is_isolated(scene: Scene) -> bool:
    last = scene.previous(events.AgentLost, events.AgentCleared)
    return last is not None and isinstance(last.body, events.AgentLost) and last.body.alone


def _started(scene: Scene, _: events.AgentStarted) -> str:
    claimed = scene.previous()
    if claimed is None or not isinstance(claimed.body, events.AgentClaimed):
        return "Started"
    took = scene.event.ts - claimed.ts
    return f"Started; its `start` took {span(took)}" if took else "Started at once"


# ---- failures -----------------------------------------------------------------------------------


def _failure(what: str) -> Callable[[Scene, Any], str]:
    def sentence(scene: Scene, body: events.AgentFailure) -> str:
        error = body.error
        message = f"{error.type}: {error.message}" if error.message else error.type
        if error.retry_after_ms is not None:
            text = f"It said that it cannot work now: {error.message[:TEXT_MAX]}"
        else:
            ran = scene.previous(events.AgentStarted)
            lasted = f" after {span(scene.event.ts - ran.ts)}" if ran and what != "start" else ""
            row = f" (failure {body.failures} in a row)" if body.failures > 1 else ""
            text = f"Its `{what}` failed{lasted}{row}: {message[:TEXT_MAX]}"
        return after((text, _again(scene, body.due_ms)))

    return sentence


def _again(scene: Scene, due_ms: int) -> str:
    return f"it is to run again in {span(due_ms - scene.event.ts)}" if due_ms else ""


def _lost(scene: Scene, body: events.AgentLost) -> str:
    worker = scene.event.worker_id or _held_by(scene)
    times = f" (the {body.losses}th time in a row)" if body.losses > 3 else ""
    times = {2: " (the second time in a row)", 3: " (the third time in a row)"}.get(
        body.losses, times
    )
    return after(
        (
            f"Its worker {short(worker)} died under it{times}: {body.reason[:TEXT_MAX]}",
            "it is to have a worker of its own" if body.alone else "",
            _again(scene, body.due_ms),
        )
    )


def _held_by(scene: Scene) -> str:
    claimed = scene.previous(events.AgentClaimed)
    return claimed.worker_id if claimed else ""


def _cleared(_: Scene, body: events.AgentCleared) -> str:
    why = CLEARED.get(body.reason, body.reason)
    return f"It no longer needs a worker of its own: {why}"


def _failed(_: Scene, body: events.AgentFailed) -> str:
    why = FAILED.get(body.reason, body.reason)
    return f"Failed for good after {count(body.failures, 'failure')} in a row: {why}"


# ---- moved and ended ----------------------------------------------------------------------------


def _released(scene: Scene, body: events.AgentReleased) -> str:
    worker = scene.event.worker_id or _held_by(scene)
    elsewhere = "" if body.reason == RESTART_REQUESTED else " to run elsewhere"
    text = f"Released by worker {short(worker)}{elsewhere}: {_why_released(scene, body)}"
    not_saved = f"its state was not saved: {body.save_error[:TEXT_MAX]}" if body.save_error else ""
    return after((text, not_saved))


def _saved(_: Scene, body: events.AgentSaved) -> str:
    return f"Saved its state, {count(body.size, 'byte')} (save {body.save})"


def _state_lost(_: Scene, body: events.AgentStateLost) -> str:
    return f"What it saved last (save {body.save}) was found nowhere: it waits for an operator"


def _why_released(scene: Scene, body: events.AgentReleased) -> str:
    if body.reason in RELEASES:
        return RELEASES[body.reason]
    drained = scene.cause()
    if drained is None or not isinstance(drained.body, events.WorkerDraining):
        drained = last_of(scene.before(scene.event.worker_id), events.WorkerDraining)
    if drained is None or not isinstance(drained.body, events.WorkerDraining):
        return body.reason
    why = DRAINS.get(drained.body.reason, drained.body.reason[:TEXT_MAX])
    return after((f"that worker was drained{by(drained.actor)}", why), ": ")


def _restarting(scene: Scene, body: events.AgentRestarting) -> str:
    before = scene.previous()
    waited = before is not None and isinstance(before.body, (events.AgentFailure, events.AgentLost))
    delay = scene.event.ts - before.ts if before and waited else 0
    why = f"its back-off of {span(delay)} is over" if delay > SHORT_WAIT_MS else "at once"
    return f"Queued again as incarnation {body.next_incarnation}, {why}"


def _restart_requested(scene: Scene, body: events.AgentRestartRequested) -> str:
    how = "" if body.next_incarnation else "its worker is to release it"
    discards = "what it saved is discarded" if body.discard_state else ""
    reason = f" ({body.reason[:TEXT_MAX]})" if body.reason != "requested" else ""
    return after((f"Its restart was requested{by(scene.event.actor)}{reason}", how, discards))


def _termination_requested(scene: Scene, body: events.AgentTerminationRequested) -> str:
    reason = {
        "requested": "",
        "pool-deleted": ", as its pool is deleted",
        "dropped": ", as an operator dropped it from what is parked",
    }.get(body.reason, f" ({body.reason[:TEXT_MAX]})")
    how = "" if body.graceful else ", without its `stop`"
    return f"Its termination was requested{by(scene.event.actor)}{reason}{how}"


def _terminated(scene: Scene, body: events.AgentTerminated) -> str:
    ran, asked = scene.previous(events.AgentStarted), scene.previous()
    text = f"Terminated: {ENDS.get(body.reason, body.reason)}"
    if asked is not None and isinstance(asked.body, events.AgentTerminationRequested):
        text += f" {span(scene.event.ts - asked.ts)} before"
    elif ran is not None:
        text += f", {span(scene.event.ts - ran.ts)} after its start"
    error = body.error
    raised = f"while it ended it raised {error.type}: {error.message[:TEXT_MAX]}" if error else ""
    return after((text, raised))


SENTENCES: Final[Mapping[type[events.Body], Callable[[Scene, Any], str]]] = {
    events.AgentRequested: _requested,
    events.AgentClaimed: _claimed,
    events.AgentStarted: _started,
    events.AgentStartFailed: _failure("start"),
    events.AgentCrashed: _failure("run"),
    events.AgentUnhealthy: _failure("check"),
    events.AgentLost: _lost,
    events.AgentCleared: _cleared,
    events.AgentReleased: _released,
    events.AgentSaved: _saved,
    events.AgentStateLost: _state_lost,
    events.AgentRestarting: _restarting,
    events.AgentRestartRequested: _restart_requested,
    events.AgentTerminationRequested: _termination_requested,
    events.AgentTerminated: _terminated,
    events.AgentFailed: _failed,
}
