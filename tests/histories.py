"""Random histories of two pools and a catalogue, as the archive has them, and a fold of them."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec

from eventstore.language import events
from eventstore.language.events import encode_body
from projector.store.rows import EventRow

POOLS = ("alpha", "beta")
CATALOGUE = ""
ERROR = events.Error(type="ValueError", message="✗")
BEGUN_MS = 1_795_513_400_000


class History:
    """Writes what could have happened: every event is one that may follow those before it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rows: list[EventRow] = []
        self.ts = BEGUN_MS
        self.seqs = dict.fromkeys((CATALOGUE, *POOLS), 0)
        self.generations = dict.fromkeys((CATALOGUE, *POOLS), 1)
        self.agents: dict[str, dict[str, dict[str, Any]]] = {pool: {} for pool in POOLS}
        self.workers: dict[str, dict[str, dict[str, Any]]] = {pool: {} for pool in POOLS}
        self.made = 0

    def write(self, length: int) -> Sequence[EventRow]:
        for pool in POOLS:
            self.record(CATALOGUE, events.PoolCreated(role_type="developer"), pool)
        while len(self.rows) < length:
            self.step(self.chance.choice(POOLS))
        return self.rows

    def record(self, pool: str, body: events.AnyBody, subject: str, **more: Any) -> None:
        """Several events in a row may bear the same time."""
        self.ts += self.chance.choice((0, 0, 1, 7))
        self.seqs[pool] += 1
        blank = dict.fromkeys(("correlation_id", "causation_id", "traceparent", "actor"), "")
        named: dict[str, Any] = {"incarnation": 0, "worker_id": "", "epoch": 0, **blank, **more}
        self.rows.append(
            EventRow(
                pool=pool,
                generation=self.generations[pool],
                seq=self.seqs[pool],
                stream_id=f"{self.ts}-{self.seqs[pool]}",
                type=body.type,
                version=body.version,
                event_id=self.name(),
                subject=subject,
                ts=self.ts,
                data=encode_body(body).decode(),
                **named,
            )
        )

    def name(self) -> str:
        """Ids are not in the order of their making."""
        self.made += 1
        return str(UUID(int=self.chance.getrandbits(128), version=4))

    def step(self, pool: str) -> None:
        agents = [a for a in self.agents[pool].items() if a[1]["status"] != "ended"]
        workers = [w for w in self.workers[pool].items() if w[1]["status"] != "ended"]
        roll = self.chance.random()
        if roll < 0.03:
            config = {"max_workers": self.chance.randint(1, 5)}
            self.record(CATALOGUE, events.PoolChanged(config=raw(config)), pool)
        elif roll < 0.06:
            body = events.PoolScalingDecided("empty", 0, 0, 0, 0, 0, 0, 0, 9)
            self.record(pool, body, pool)
        elif roll < 0.25 or not agents:
            self.request(pool)
        elif roll < 0.4 or not workers:
            self.work(pool, self.chance.choice([*workers, None]))
        else:
            self.live(pool, *self.chance.choice(agents))

    def request(self, pool: str) -> None:
        agent_id, project = self.name(), self.chance.choice(("apollo", "gemini"))
        labels = {"team": self.chance.choice(("core", "edge"))}
        body = events.AgentRequested(
            role_type="developer", project_id=project, labels=labels, input=raw({"n": self.made})
        )
        self.record(pool, body, agent_id, incarnation=1)
        self.agents[pool][agent_id] = {"status": "pending", "incarnation": 1, "worker": ""}

    def work(self, pool: str, chosen: tuple[str, dict[str, Any]] | None) -> None:
        body: events.AnyBody
        if chosen is None:
            worker_id = self.name()
            body = events.WorkerRequested(host="h", max_agents=3, deadline_ms=self.ts + 1000)
            self.record(pool, body, worker_id, worker_id=worker_id)
            self.workers[pool][worker_id] = {"status": "requested", "epoch": 0, "holds": set()}
            return
        worker_id, worker = chosen
        bodies: dict[str, list[tuple[events.AnyBody, str]]] = {
            "requested": [
                (events.WorkerStarted(host="h", pid=7, start_time=1, max_agents=3), "active")
            ],
            "active": [
                (events.WorkerCordoned(reason="odd"), "active"),
                (events.WorkerUncordoned(reason="requested"), "active"),
                (events.WorkerSuspect(reason="silent"), "suspect"),
                (events.WorkerDraining(reason="drain"), "draining"),
                (events.WorkerLost(reason="killed"), "ended"),
            ],
            "suspect": [
                (events.WorkerRecovered(), "active"),
                (events.WorkerLost(reason="gone"), "ended"),
            ],
            "draining": [(events.WorkerStopped(reason="drain"), "ended")]
            if not worker["holds"]
            else [],
        }
        if not (possible := bodies[worker["status"]]):
            return
        body, worker["status"] = self.chance.choice(possible)
        worker["epoch"] += 1
        self.record(pool, body, worker_id, worker_id=worker_id, epoch=worker["epoch"])

    def live(self, pool: str, agent_id: str, agent: dict[str, Any]) -> None:
        at, window = self.ts, 60_000
        body: events.AnyBody
        failed: dict[str, Any] = {
            "error": ERROR,
            "at_ms": at,
            "window_ms": window,
            "due_ms": at + 9,
        }
        again = agent["incarnation"] + 1
        vacate: list[tuple[events.AnyBody, str]] = [
            (events.AgentReleased(reason="drain", next_incarnation=again), "pending"),
            (events.AgentLost(reason="killed", at_ms=at), "restarting"),
            (events.AgentTerminated(reason="requested"), "ended"),
        ]
        bodies: dict[str, list[tuple[events.AnyBody, str]]] = {
            "pending": [(events.AgentTerminated(reason="withdrawn"), "ended")],
            "starting": [
                (events.AgentStarted(), "running"),
                (events.AgentStarted(), "running"),
                (events.AgentStartFailed(**failed), "restarting"),
                *vacate,
            ],
            "running": [
                (events.AgentTerminationRequested(reason="requested"), "running"),
                (events.AgentCrashed(**failed), "restarting"),
                (events.AgentUnhealthy(**failed), "restarting"),
                *vacate,
            ],
            "restarting": [
                (events.AgentRestarting(reason="crashed", next_incarnation=again), "pending"),
                (events.AgentFailed(reason="restart-budget-spent", failures=3), "ended"),
            ],
        }
        active = [w for w in self.workers[pool].items() if w[1]["status"] == "active"]
        free = [w for w in active if len(w[1]["holds"]) < 3]
        if agent["status"] == "pending" and free and self.chance.random() < 0.9:
            body, status = events.AgentClaimed(), "starting"
            agent["worker"], worker = self.chance.choice(free)
            worker["holds"].add(agent_id)
        else:
            body, status = self.chance.choice(bodies[agent["status"]])
        said = {"incarnation": agent["incarnation"], "worker_id": agent["worker"], "epoch": 1}
        self.record(pool, body, agent_id, **said)
        if isinstance(body, events.AgentReleased | events.AgentRestarting):
            agent["incarnation"] = again
        if status in ("pending", "restarting", "ended") and agent["worker"]:
            self.workers[pool][agent["worker"]]["holds"].discard(agent_id)
            agent["worker"] = ""
        agent["status"] = status


def raw(value: object) -> Any:
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode())


# ---- a fold that shares nothing with Muster's ------------------------------------------------

STATUSES = {
    "agent.requested": "pending",
    "agent.claimed": "starting",
    "agent.started": "running",
    "agent.start_failed": "restarting",
    "agent.crashed": "restarting",
    "agent.unhealthy": "restarting",
    "agent.lost": "restarting",
    "agent.released": "pending",
    "agent.restarting": "pending",
    "agent.terminated": "terminated",
    "agent.failed": "failed",
    "worker.requested": "requested",
    "worker.started": "active",
    "worker.suspect": "suspect",
    "worker.recovered": "active",
    "worker.draining": "draining",
    "worker.stopped": "stopped",
    "worker.lost": "lost",
}


def summary(rows: Sequence[EventRow], pool: str) -> dict[str, tuple[str, str, int]]:
    """Status, worker and number of events of all agents and workers of a pool."""
    found: dict[str, tuple[str, str, int]] = {}
    for row in rows:
        if row.pool == pool and not row.type.startswith("pool."):
            status, worker, count = found.get(row.subject, ("", "", 0))
            if row.type == "agent.termination_requested":
                status = "stopping" if status == "running" else status
            else:
                status = STATUSES.get(row.type, status)
            if row.type == "agent.claimed":
                worker = row.worker_id
            elif status in ("pending", "restarting", "terminated", "failed"):
                worker = ""
            found[row.subject] = (status, worker, count + 1)
    return found


def prefixes(rows: Sequence[EventRow]) -> Iterator[tuple[EventRow, Sequence[EventRow]]]:
    """Every event, with all that had happened when it had."""
    for count, row in enumerate(rows, 1):
        yield row, rows[:count]
