"""The states of one agent, folded from its events, and offences in them.

This restates the rules of agents from the documents; it shares no code with Muster, so that an
error there cannot hide itself here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.judging import moves, restarts
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.workers import Worker

LIVE: Final = frozenset({"pending", "starting", "running", "stopping", "restarting"})
HELD: Final = frozenset({"starting", "running", "stopping"})
"""In these an agent occupies a slot."""
FAILURES: Final = restarts.FAILURES
QUEUED: Final = frozenset({"agent.released", "agent.restarting", "agent.restart_requested"})
TIMES: Final = 5
"""How many times of failures are stored."""
MAY_FOLLOW: Final = {
    "agent.claimed": frozenset({"pending"}),
    "agent.started": frozenset({"starting"}),
    "agent.start_failed": frozenset({"starting"}),
    "agent.crashed": frozenset({"running"}),
    "agent.unhealthy": frozenset({"running"}),
    "agent.lost": frozenset({"starting", "running"}),
    "agent.released": frozenset({"starting", "running"}),
    "agent.restarting": frozenset({"restarting"}),
    "agent.restart_requested": frozenset({"starting", "running", "restarting", "failed"}),
    "agent.saved": HELD,
    "agent.state_lost": LIVE,
    "agent.failed": frozenset({"restarting"}),
    "agent.cleared": LIVE,
    "agent.termination_requested": LIVE,
    "agent.terminated": LIVE,
}
"""In which status an event may find the agent."""
EVEN_IF_FLAGGED: Final = frozenset(
    {"agent.termination_requested", "agent.terminated", "agent.cleared", "agent.saved"}
)
BY_LEADER: Final = frozenset({"turn-over", "not-tried", "too-many", "suspicion-off"})
"""Why the leader clears an agent; what its worker writes is that it behaved.

`turn-over` is in logs of earlier versions.
"""
BY_ITS_WORKER: Final = frozenset(
    {"agent.claimed", "agent.started", "agent.saved", "agent.released", *FAILURES}
)
"""Written by the worker itself, under its own epoch."""
HANDED_OVER: Final = frozenset({"handed-over", "not-handed-over"})
"""Ends in a fallback's log: none of its workers is left to be fenced."""
UNASKED_ENDS: Final = HANDED_OVER | {
    "completed",
    "idle",
    "pending-timeout",
    "dropped",
    "ended-in-fallback",
}


@dataclass
class Agent:
    """One agent after some of its events."""

    requested: Entry
    status: str = "pending"
    reason: str = ""
    stop: str = ""
    incarnation: int = 1
    version: int = 1
    worker: str = ""
    epoch: int = 0
    claim_seq: int = 0
    generation: int = 0
    """Of its claim: with `claim_seq` the fencing token."""
    expires_ms: int = 0
    due_ms: int = 0
    failures: list[int] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    alone: bool = False
    """It is to have a worker for itself."""
    has_run: bool = False
    well_ms: int = 0
    """Since when it has run without a failure or loss."""
    failures_in_row: int = 0
    losses_in_row: int = 0
    restart: bool = False
    save: int = 0
    state: str = ""
    """The digest of what it saved last."""
    state_lost: bool = False
    discards: bool = False
    last_error: Any = None
    started_ms: int = 0
    ended_ms: int = 0
    changed_ms: int = 0
    claims: dict[int, Entry] = field(default_factory=dict)
    """By incarnation."""
    claimed_with: dict[int, str] = field(default_factory=dict)
    """The digest of what it had saved then."""
    saved: set[str] = field(default_factory=set)
    """The digests of all that it has saved."""
    moved: set[int] = field(default_factory=set)
    """The incarnations that were released for another worker to run the next one."""
    asked: list[Entry] = field(default_factory=list)
    """The requests for its end."""

    @property
    def ended(self) -> bool:
        return self.status not in LIVE

    @property
    def queued(self) -> bool:
        """Whether it waits for a worker."""
        return self.status == "pending" and not self.state_lost

    @property
    def held(self) -> bool:
        return self.status in HELD


def requested(entry: Entry) -> Agent:
    return Agent(
        entry,
        expires_ms=int(entry.body.get("expires_ms", 0)),
        changed_ms=entry.ts,
    )


def judge(agent: Agent, entry: Entry, worker: Worker | None) -> Iterator[Offence]:
    """What is wrong with this event, as the next one of this agent. `worker`: who is named."""
    kind = entry.type
    if agent.ended and (kind != "agent.restart_requested" or agent.status != "failed"):
        yield entry.offence(3, f"after its end ({agent.status})")
        return
    if agent.stop and kind not in EVEN_IF_FLAGGED:
        yield entry.offence(3, "goes on although its end was asked for")
    elif agent.status not in MAY_FOLLOW[kind] and not _about_state(agent, entry):
        yield entry.offence(2, f"it was {agent.status}")
    if agent.state_lost and kind in {"agent.claimed", "agent.state_lost"}:
        yield entry.offence(2, "its state was lost, and an operator has not decided")
    if kind == "agent.saved" and (entry.body["save"] != agent.save + 1 or agent.discards):
        yield entry.offence(2, f"save {entry.body['save']} follows {agent.save}, or a discard")
    if entry.incarnation != agent.incarnation:
        why = f"incarnation {entry.incarnation}, but it is at {agent.incarnation}"
        yield entry.offence(2, why)
    if kind == "agent.claimed" and entry.incarnation in agent.claims:
        yield entry.offence(2, f"incarnation {entry.incarnation} is claimed a second time")
    if kind in QUEUED:
        following = entry.body.get("next_incarnation", 0)
        held = kind == "agent.restart_requested" and agent.held
        if following != (0 if held else agent.incarnation + 1):
            yield entry.offence(2, f"incarnation {following} follows {agent.incarnation}")
    if kind == "agent.restarting" and entry.ts < agent.due_ms:
        yield entry.offence(9, f"it was to wait until {agent.due_ms}")
    yield from restarts.judge(agent, entry)
    repeats = kind == "agent.termination_requested" and agent.stop in {"now", _flag(entry)}
    if repeats and agent.held:
        yield entry.offence(3, f"asked for again, {agent.stop} as before")
    yield from _judge_holder(agent, entry)
    yield from _judge_epoch(agent, entry, worker)
    yield from _judge_end(agent, entry)


def _about_state(agent: Agent, entry: Entry) -> bool:
    """Whether it takes an agent out of the pending ones that is to start with another state."""
    found = entry.type == "agent.restarting" and agent.state_lost
    discards = entry.type == "agent.restart_requested" and bool(entry.body.get("discard_state"))
    return agent.status == "pending" and (found or discards)


def _judge_holder(agent: Agent, entry: Entry) -> Iterator[Offence]:
    if entry.type == "agent.claimed":
        if agent.worker:
            yield entry.offence(2, f"claimed by {entry.worker_id} while {agent.worker} holds it")
    elif entry.worker_id != agent.worker:
        yield entry.offence(2, f"of worker {entry.worker_id!r}, but {agent.worker!r} holds it")


def _judge_epoch(agent: Agent, entry: Entry, worker: Worker | None) -> Iterator[Offence]:
    """Who acts as a worker does so under its epoch; who reaps one, under that of the fence."""
    fenced = not agent.held and entry.type != "agent.claimed"
    by_leader = entry.type == "agent.cleared" and entry.body.get("reason") in BY_LEADER
    asked = entry.type in {"agent.termination_requested", "agent.restart_requested"}
    if fenced or by_leader or asked:
        if entry.epoch:
            yield entry.offence(4, f"epoch {entry.epoch}, but no worker acts")
        return
    if entry.type == "agent.terminated" and entry.body.get("reason") in HANDED_OVER:
        return
    if worker is None:
        yield entry.offence(4, f"worker {entry.worker_id!r} was never ordered")
        return
    if entry.epoch != worker.epoch:
        what = "after a fence at" if worker.fenced else "but its worker's is"
        yield entry.offence(4, f"epoch {entry.epoch}, {what} {worker.epoch}")
    by_its_worker = entry.type in BY_ITS_WORKER or entry.type == "agent.cleared"
    if by_its_worker and not worker.alive:
        yield entry.offence(4, f"written by a worker that is {worker.status}")
    if entry.type == "agent.lost" and not worker.fenced:
        yield entry.offence(4, f"its worker is {worker.status}, not lost")
    if entry.type == "agent.claimed" and worker.alive and worker.status != "active":
        yield entry.offence(4, f"claimed by a worker that is {worker.status}")
    elif entry.type == "agent.claimed" and worker.cordoned:
        yield entry.offence(9, f"claimed by a worker that is cordoned: {worker.cordoned}")


def _judge_end(agent: Agent, entry: Entry) -> Iterator[Offence]:
    if entry.type not in {"agent.terminated", "agent.failed"}:
        return
    reason = str(entry.body.get("reason", ""))
    if not reason:
        yield entry.offence(2, "it ended without a reason")
    elif entry.type == "agent.failed":
        return
    elif agent.stop and reason != agent.reason:
        yield entry.offence(3, f"ended as {reason}, asked for as {agent.reason}")
    elif not agent.stop and reason not in UNASKED_ENDS:
        yield entry.offence(2, f"ended as {reason}, which was not requested")
    elif reason == "pending-timeout" and agent.status != "pending":
        yield entry.offence(2, f"waited too long, but was {agent.status}")
    elif reason == "pending-timeout" and not 0 < agent.expires_ms <= entry.ts:
        yield entry.offence(2, f"waited too long, but may wait until {agent.expires_ms or 'ever'}")
    elif reason == "idle" and agent.requested.body.get("max_idle_time") is None:
        yield entry.offence(2, "idle, but was never to end so")
    elif reason in {"completed", "idle"} and agent.status != "running":
        yield entry.offence(2, f"{reason}, but was {agent.status}")


def evolve(agent: Agent, entry: Entry) -> None:
    """What the event makes of the agent, right or wrong."""
    body, kind = entry.body, entry.type
    agent.version += 1
    agent.changed_ms = entry.ts
    match kind:
        case "agent.claimed":
            agent.status, agent.reason, agent.expires_ms = "starting", "", 0
            agent.worker, agent.epoch = entry.worker_id, entry.epoch
            agent.claim_seq, agent.generation = entry.seq, entry.generation
            agent.claims.setdefault(entry.incarnation, entry)
            agent.claimed_with.setdefault(entry.incarnation, agent.state)
        case "agent.cleared":
            agent.alone, agent.losses = False, []
        case "agent.started":
            agent.status, agent.started_ms = "running", entry.ts
            at = int(body.get("at_ms", 0))
            agent.has_run, agent.well_ms = agent.has_run or at > 0, agent.well_ms or at
        case "agent.restart_requested" if not body.get("next_incarnation"):
            agent.restart = True
            if body.get("discard_state"):
                agent.state, agent.discards = "", True
        case "agent.saved":
            agent.save, agent.state = int(body["save"]), str(body["sha256"])
            agent.saved.add(agent.state)
        case "agent.state_lost":
            _leave(agent, entry, {"reason": "state-lost", "next_incarnation": agent.incarnation})
            agent.save, agent.state = int(body["save"]), str(body["sha256"])
            agent.state_lost = True
        case "agent.termination_requested":
            agent.stop = _flag(entry)
            agent.reason = str(body.get("reason", ""))
            agent.status = "stopping" if agent.status == "running" else agent.status
            agent.asked.append(entry)
        case _:
            _leave(agent, entry, body)


def _spend(agent: Agent, body: dict[str, Any]) -> None:
    """One more failure, of those within the window."""
    since = int(body["at_ms"]) - int(body["window_ms"])
    agent.failures = [*(at for at in agent.failures if at > since), int(body["at_ms"])]
    if failures := int(body.get("failures", 0)):
        agent.failures = agent.failures[-TIMES:]
        agent.failures_in_row, agent.well_ms = failures, 0


def _flag(entry: Entry) -> str:
    return "graceful" if entry.body.get("graceful", True) else "now"


def _leave(agent: Agent, entry: Entry, body: dict[str, Any]) -> None:
    """Events after which it is on no worker."""
    agent.worker, agent.epoch, agent.claim_seq = "", 0, 0
    agent.due_ms, agent.expires_ms = int(body.get("due_ms", 0)), 0
    agent.restart = agent.discards = False
    agent.reason = str(body.get("reason", ""))
    if entry.type in FAILURES:
        agent.status, agent.reason = "restarting", entry.type.removeprefix("agent.")
        agent.last_error = body["error"]
        if restarts.unavailable(body):
            first = str(agent.last_error.get("message", "")).strip().split("\n")[0]
            agent.reason = f"unavailable: {first[:48]}" if first else "unavailable"
        else:
            _spend(agent, body)
    elif entry.type == "agent.lost":
        agent.status, agent.reason = "restarting", "lost"
        agent.alone = bool(body.get("alone"))
        if not body.get("blameless"):
            agent.losses = [*agent.losses, int(body["at_ms"])][-2:]
        if body.get("window_ms"):  # it had the worker for itself: the loss is attributed to it
            agent.last_error = {"type": "WorkerLost", "message": body.get("reason", "")}
            _spend(agent, body)
        if losses := int(body.get("losses", 0)):
            agent.losses_in_row, agent.well_ms = losses, 0
    elif entry.type in {*QUEUED, "agent.state_lost"}:
        if entry.type == "agent.released" and body["reason"] == moves.MOVED:
            agent.moved.add(agent.incarnation)
        agent.status, agent.incarnation = "pending", int(body["next_incarnation"])
        agent.state_lost = False
        agent.state = "" if body.get("discard_state") else agent.state
        if entry.type == "agent.restart_requested":
            agent.reason, agent.failures, agent.ended_ms = "restart-requested", [], 0
            agent.failures_in_row = agent.losses_in_row = agent.well_ms = 0
    else:
        agent.status, agent.ended_ms = entry.type.removeprefix("agent."), entry.ts
        if agent.status == "terminated":
            agent.state, agent.state_lost = "", False
        agent.last_error = body.get("error") or agent.last_error


def owed(agent: Agent, entry: Entry) -> tuple[str, ...]:
    """What must come next in the log, because the same step wrote it. After `evolve`."""
    blamed = entry.type in FAILURES or bool(entry.body.get("window_ms"))
    if entry.type == "agent.lost" and not blamed and not agent.due_ms:
        return ("agent.restarting",)
    if blamed and not agent.due_ms:
        return ("agent.failed",)
    if entry.type == "agent.termination_requested" and not agent.held:
        return ("agent.terminated",)
    return ()
