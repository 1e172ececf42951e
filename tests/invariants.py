"""The invariants that must always hold, judged from the raw streams.

Nothing of Muster is imported here: own reader, own fold, so that an error in ours cannot hide
itself. Each function gives the offences that it found, in words, with the event's `seq`.

1. No worker holds more agents than its capacity.
2. An accepted spawn is exactly one agent; an incarnation is claimed once, started once at most.
3. What was terminated never runs again.
4. No event carries an epoch older than a fence before it.
5. `seq` is dense.
6. The views equal a fold of the log at the same position.
7. At rest nothing is pending, and every key is permanent on purpose or expires.
8. What was acknowledged is in the log.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

Event = Mapping[str, str]

VACATES = {
    "agent.start_failed",
    "agent.crashed",
    "agent.unhealthy",
    "agent.lost",
    "agent.released",
    "agent.terminated",
    "agent.failed",
}
ENDS = {"agent.terminated", "agent.failed"}
PERMANENT = [
    re.compile(pattern)
    for pattern in (
        r"pool:\{[^}]+\}:(events|commands|heartbeats|processes|agents|due|timeouts|orders|lost)",
        r"pool:\{[^}]+\}:(signals|meta|leader)",
        r"muster:catalogue",
        r"\{muster:catalogue\}:meta",
    )
]


@dataclass
class Agent:
    """What this fold knows of an agent."""

    status: str = "pending"
    incarnation: int = 1
    worker: str = ""
    flagged: bool = False
    claimed: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)


@dataclass
class Worker:
    slots: int
    holds: set[str] = field(default_factory=set)
    fence: int = 0
    ended: bool = False


class Fold:
    """Folds one pool's events, collecting offences on the way."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.workers: dict[str, Worker] = {}
        self.offences: list[str] = []
        self.seq = 0

    def take(self, event: Event) -> None:
        seq, kind = int(event["seq"]), event["type"]
        if seq != self.seq + 1:
            self.offend(5, event, f"seq follows {self.seq}")
        self.seq = seq
        self.check_epoch(event)
        if kind.startswith("agent."):
            self.take_agent(event)
        elif kind.startswith("worker."):
            self.take_worker(event)

    def offend(self, number: int, event: Event, what: str) -> None:
        self.offences.append(
            f"invariant {number}: seq {event['seq']} {event['type']} {event['subject']}: {what}"
        )

    def check_epoch(self, event: Event) -> None:
        worker = self.workers.get(event["worker_id"])
        if worker and event["epoch"] and int(event["epoch"]) < worker.fence:
            self.offend(4, event, f"epoch {event['epoch']} after a fence at {worker.fence}")

    def take_worker(self, event: Event) -> None:
        name, kind = event["subject"], event["type"]
        if kind == "worker.requested":
            self.workers[name] = Worker(json.loads(event["data"])["max_agents"])
        elif kind == "worker.lost":
            self.workers[name].fence = int(event["epoch"])
            self.workers[name].ended = True
        elif kind == "worker.stopped":
            self.workers[name].ended = True
            if self.workers[name].holds:
                self.offend(1, event, f"stopped with {len(self.workers[name].holds)} agents")

    def take_agent(self, event: Event) -> None:
        name, kind = event["subject"], event["type"]
        if kind == "agent.requested":
            if name in self.agents:
                self.offend(2, event, "requested twice")
            self.agents[name] = Agent()
            return
        agent = self.agents.get(name)
        if agent is None:
            self.offend(2, event, "never requested")
            return
        if agent.status in ENDS:
            self.offend(3, event, "after its end")
        incarnation = int(event["incarnation"])
        if kind in {"agent.claimed", "agent.started"}:
            self.take_run(agent, incarnation, event)
        if kind in VACATES and agent.worker:
            self.workers[agent.worker].holds.discard(name)
            agent.worker = ""
        self.follow(agent, event)

    def take_run(self, agent: Agent, incarnation: int, event: Event) -> None:
        if agent.flagged:
            self.offend(3, event, "runs although its end was asked for")
        if incarnation != agent.incarnation:
            self.offend(2, event, f"incarnation {incarnation}, not {agent.incarnation}")
        seen = agent.claimed if event["type"] == "agent.claimed" else agent.started
        if incarnation in seen:
            self.offend(2, event, f"incarnation {incarnation} a second time")
        seen.add(incarnation)
        if event["type"] == "agent.claimed":
            self.take_claim(agent, event)
        elif agent.worker != event["worker_id"]:
            self.offend(2, event, f"started by {event['worker_id']}, held by {agent.worker}")

    def take_claim(self, agent: Agent, event: Event) -> None:
        if agent.worker:
            self.offend(2, event, f"claimed while {agent.worker} holds it")
        worker = self.workers.get(event["worker_id"])
        if worker is None or worker.ended:
            self.offend(4, event, "claimed by a worker that does not live")
            return
        agent.worker = event["worker_id"]
        worker.holds.add(event["subject"])
        if len(worker.holds) > worker.slots:
            self.offend(1, event, f"worker holds {len(worker.holds)} of {worker.slots}")

    def follow(self, agent: Agent, event: Event) -> None:
        kind = event["type"]
        if kind == "agent.termination_requested":
            agent.flagged = True
            agent.status = "stopping" if agent.status == "running" else agent.status
        elif kind in {"agent.released", "agent.restarting"}:
            agent.incarnation = json.loads(event["data"])["next_incarnation"]
            agent.status = "pending"
        elif kind in ENDS:
            agent.status = kind
        elif kind == "agent.claimed":
            agent.status = "starting"
        elif kind == "agent.started":
            agent.status = "running"
        else:
            agent.status = "restarting"

    def statuses(self) -> dict[str, str]:
        return {name: a.status.removeprefix("agent.") for name, a in self.agents.items()}


def fold(events: Iterable[Event]) -> Fold:
    folded = Fold()
    for event in events:
        folded.take(event)
    return folded


def pools(client: Any) -> list[str]:
    found = client.keys("pool:{*}:events")
    return sorted(key.removeprefix("pool:{").removesuffix("}:events") for key in found)


def check(
    url: str, *, acknowledged: Iterable[str] = (), views: str = "", at_rest: bool = False
) -> list[str]:
    """All offences of a running system. `views`: path of its SQLite views, compared if given."""
    offences: list[str] = []
    seen: set[str] = set()
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for pool in pools(client):
            events = [fields for _, fields in client.xrange(f"pool:{{{pool}}}:events")]
            folded = fold(events)
            offences += [f"{pool}: {offence}" for offence in folded.offences]
            seen |= set(folded.agents)
            if views:
                offences += [f"{pool}: {o}" for o in compare_views(views, pool, events)]
            if at_rest:
                offences += [f"{pool}: {o}" for o in check_rest(client, pool)]
        if at_rest:
            offences += check_keys(client)
    missing = set(acknowledged) - seen
    return offences + [f"invariant 8: {name} was acknowledged, not recorded" for name in missing]


def check_rest(client: Any, pool: str) -> list[str]:
    pending = client.xpending(f"pool:{{{pool}}}:commands", "workers")["pending"]
    return [f"invariant 7: {pending} commands are pending"] if pending else []


def check_keys(client: Any) -> list[str]:
    """Keys that neither expire nor are permanent on purpose nor belong to something alive."""
    offences = []
    for key in client.scan_iter(count=1000):
        if client.ttl(key) != -1 or any(p.fullmatch(key) for p in PERMANENT):
            continue
        if not alive(client, key):
            offences.append(f"invariant 7: key {key} neither expires nor is permanent")
    return offences


def alive(client: Any, key: str) -> bool:
    """Whether a key belongs to an agent or worker that lives."""
    if match := re.fullmatch(r"agent:\{(.+)\}:(.+)|pool:\{(.+)\}:spec:(.+)", key):
        pool, agent = match[1] or match[3], match[2] or match[4]
        return bool(client.sismember(f"pool:{{{pool}}}:agents", agent))
    if match := re.fullmatch(r"process:\{(.+)\}:(.+)|pool:\{(.+)\}:held:(.+)", key):
        pool, worker = match[1] or match[3], match[2] or match[4]
        return any(
            client.zscore(f"pool:{{{pool}}}:{index}", worker) is not None
            for index in ("processes", "orders")
        )
    return False


def compare_views(path: str, pool: str, events: Sequence[Event]) -> list[str]:
    """Invariant 6: SQL against a fold up to the checkpoint; the archive, event by event."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        found = database.execute("SELECT seq FROM checkpoints WHERE pool = ?", (pool,)).fetchall()
        position = found[0][0] if found else 0
        rows = dict(
            database.execute("SELECT agent_id, status FROM agents WHERE pool_name = ?", (pool,))
        )
        archived = database.execute(
            "SELECT seq, type, event_id FROM events WHERE pool = ? ORDER BY seq", (pool,)
        ).fetchall()
    wanted = fold(event for event in events if int(event["seq"]) <= position).statuses()
    offences = [
        f"invariant 6: agent {name} is {rows.get(name)} in the views, {wanted.get(name)} in the log"
        for name in sorted({*rows, *wanted})
        if rows.get(name) != wanted.get(name)
    ]
    originals = [
        (int(e["seq"]), e["type"], e["event_id"]) for e in events if int(e["seq"]) <= position
    ]
    if originals != archived:
        offences.append(f"invariant 5: the archive differs from the stream up to {position}")
    return offences
