"""Valid histories without a server: Muster's own `decide`, `evolve` and steps write them.

A story is built move by move; a move that does not apply changes nothing. `evidence` is what Redis
and the database would contain after it, in the form that the judge reads: hashes and rows are made
by Muster's own code, so the judge's fold is compared with that.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from eventstore.language import agent_commands, agents, workers
from eventstore.language.agent_commands import (
    Command,
    End,
    Fail,
    MarkLost,
    Started,
    Terminate,
    Withdraw,
)
from eventstore.language.agents import Agent
from eventstore.language.events import (
    AgentClaimed,
    AgentRequested,
    Error,
    Event,
    PoolScalingDecided,
    WorkerRequested,
    encode_body,
)
from eventstore.language.restart_policy import RestartPolicy
from eventstore.language.workers import Worker, WorkerCommand
from eventstore.steps import hashes
from eventstore.steps.step import Fence, Origin, Step
from projector.store.mapping import agent_record, worker_record
from tests.chaos.judge import Evidence
from tests.chaos.judging.database import Database
from tests.chaos.judging.entries import STREAM_FIELDS, Entry, of_stream
from tests.chaos.judging.history import Head
from tests.chaos.judging.streams import Registry, Streamed

POOL: Final = "p"
ORIGIN: Final = Origin(actor="test")
ERROR: Final = Error(type="ValueError", message="no ✗")


class Story:
    """One pool, from its first event on."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.agents: dict[str, Agent] = {}
        self.workers: dict[str, Worker] = {}
        self.epoch = 0
        self._ids = itertools.count(1)
        self._ts = 1_000_000

    # ---- moves -------------------------------------------------------------------------------

    def spawn(self, name: str = "") -> str:
        name = name or f"a{len(self.agents) + 1}"
        request = AgentRequested(
            role_type="developer",
            project_id="p",
            max_idle_time=60.0,
            expires_ms=self._ts + 500,
            labels={"team": "core"},
            operation_id=f"operation of {name}",
        )
        step = self._step()
        step.agent(name, None, agent_commands.decide(agent_commands.Spawn(request=request), None))
        self._record(step.events)
        return name

    def order(
        self, name: str = "", *, slots: int = 2, host: str = "", term: int = 0, maximum: int = 9
    ) -> str:
        """`host`: of the leader that decides so in its term; empty: a test orders it."""
        name = name or f"w{len(self.workers) + 1}"
        step = self._step(Origin(actor=f"supervisor:{host}") if host else ORIGIN)
        decided = PoolScalingDecided("pending-spawns", 0, 1, 1, 0, 0, 0, 0, maximum, term)
        cause = step.event(decided, POOL).event_id
        order = WorkerRequested(host="h", max_agents=slots, deadline_ms=9)
        step.worker(name, None, (order,), causation_id=cause)
        self._record(step.events)
        return name

    def start(self, name: str) -> None:
        self._draw_for(name, workers.Start(host="h", pid=7, start_time=8))

    def lose_worker(self, name: str) -> None:
        self._draw_for(name, workers.DeclareLost(reason="killed by signal 9"))

    def _draw_for(self, name: str, command: WorkerCommand) -> None:
        if workers.decide(command, self.workers[name]):
            self.epoch += 1
            self.worker(name, command, epoch=self.epoch)

    def worker(self, name: str, command: WorkerCommand, *, epoch: int = 0) -> None:
        """Let a worker change, if it can. Only an empty one stops."""
        old = self.workers[name]
        bodies = workers.decide(command, old)
        stops = isinstance(command, workers.StopWorker) and self.held(name)
        if bodies and not stops:
            step = self._step()
            step.worker(name, old, bodies, epoch=epoch)
            self._record(step.events)

    def claim(self, name: str, worker: str) -> None:
        """As the script does, if there is a slot."""
        agent, taker = self.agents[name], self.workers[worker]
        free = taker.max_agents - len(self.held(worker))
        if agent.status != "pending" or taker.status != "active" or free < 1:
            return
        claimed = Event(
            body=AgentClaimed(),
            event_id=f"e{next(self._ids)}",
            subject=name,
            incarnation=agent.incarnation,
            correlation_id=agent.correlation_id,
            causation_id=agent.last_event_id,
            worker_id=worker,
            epoch=taker.epoch,
            actor=f"worker:{worker}",
        )
        self._record([claimed])

    def act(self, name: str, command: Command) -> None:
        """Apply a command to an agent, if it is possible, by the actor that may do so."""
        old = self.agents[name]
        holder = self.workers.get(old.worker_id)
        by_reaper = isinstance(command, MarkLost)
        by_worker = isinstance(command, Started | Fail | End | agent_commands.Release)
        lost = holder is not None and holder.status == "lost"
        if holder is not None and (by_reaper or by_worker) and by_reaper is not lost:
            return
        fence = Fence(holder.worker_id, holder.epoch) if holder and old.held else None
        bodies = agent_commands.decide(command, old)
        if bodies:
            step = self._step()
            step.agent(name, old, bodies, fence=fence if by_reaper or by_worker else None)
            self._record(step.events)

    def fail(self, name: str, *, limit: int = 3) -> None:
        """Its start or its run raises, or its check."""
        during = {"starting": "start", "running": "run"}.get(self.agents[name].status)
        if during == "run" and next(self._ids) % 2:
            during = "check"
        if during:
            policy = RestartPolicy(limit=limit, window_ms=200)
            self.act(name, Fail(during=during, error=ERROR, now_ms=self._ts, policy=policy))

    def end(self, name: str) -> None:
        """It completes, or follows the request for its end."""
        agent = self.agents[name]
        if agent.status == "running" or agent.stop:
            self.act(name, End(reason="completed"))

    def withdraw(self, name: str) -> None:
        """It has waited for longer than it was to."""
        if due_ms := self.agents[name].expires_ms:
            self._ts = max(self._ts, due_ms)
            self.act(name, Withdraw())

    def restart(self, name: str) -> None:
        """Its back-off is over."""
        if self.agents[name].status == "restarting":
            self._ts = max(self._ts, self.agents[name].due_ms)
            self.act(name, agent_commands.Restart())

    def lose(self, name: str) -> None:
        lose = MarkLost(
            worker_id=self.agents[name].worker_id,
            reason="killed",
            now_ms=self._ts,
            suspicion_ms=300,
            only=len(self.held(self.agents[name].worker_id)) == 1,
            policy=RestartPolicy(window_ms=200),
        )
        self.act(name, lose)

    def reap(self, worker: str) -> None:
        self.lose_worker(worker)
        for name in self.held(worker):
            self.lose(name)

    def terminate(self, name: str, *, graceful: bool = True) -> None:
        self.act(name, Terminate(graceful=graceful))

    def run(self, name: str, worker: str) -> None:
        self.claim(name, worker)
        self.started(name)

    def started(self, name: str) -> None:
        self.act(name, Started(now_ms=self._ts))

    # ---- recording ---------------------------------------------------------------------------

    def _step(self, origin: Origin = ORIGIN) -> Step:
        return Step(POOL, lambda: f"e{next(self._ids)}", origin, ended_ms=1000)

    def _record(self, events: Sequence[Event]) -> None:
        self._ts += 7
        for index, event in enumerate(events):
            values: dict[str, Any] = {name: getattr(event, name, "") for name in STREAM_FIELDS}
            values |= {"type": event.type, "version": event.body.version, "ts": self._ts}
            values |= {"seq": len(self.entries) + 1, "data": encode_body(event.body).decode()}
            for name in ("incarnation", "epoch"):
                values[name] = values[name] or ""
            flat = [str(part) for pair in values.items() for part in pair]
            entry = of_stream(POOL, f"{self._ts}-{index}", flat)
            self.entries.append(entry)
            self._fold(event, entry)

    def _fold(self, event: Event, entry: Entry) -> None:
        known = Event(
            body=event.body,
            event_id=event.event_id,
            subject=event.subject,
            incarnation=event.incarnation,
            worker_id=event.worker_id,
            epoch=event.epoch,
            seq=entry.seq,
            ts=entry.ts,
        )
        name = event.subject
        if event.type.startswith("agent."):
            self.agents[name] = agents.evolve(self.agents.get(name), known, POOL)
        elif event.type.startswith("worker."):
            self.workers[name] = workers.evolve(self.workers.get(name), known, POOL)

    # ---- what there is afterwards ------------------------------------------------------------

    def held(self, worker: str) -> list[str]:
        return [n for n, a in self.agents.items() if a.held and a.worker_id == worker]

    def evidence(self, entries: Sequence[Entry] | None = None) -> Evidence:
        """Everything as it would be stored; `entries`: what stream and archive contain instead."""
        written = list(self.entries if entries is None else entries)
        head = Head(1, written[-1].seq if written else 0)
        meta = {"generation": "1", "seq": str(head.seq)}
        streamed = {"": Streamed(), POOL: Streamed(written, head, meta)}
        archive = {POOL: [_archived(entry) for entry in written]}
        return Evidence(
            streamed=streamed,
            registries={POOL: self._registry(meta)},
            views=Database(archive, self._views(head)),
        )

    def _views(self, head: Head) -> dict[str, list[Any]]:
        at = {"pool": POOL, "generation": 1, "seq": head.seq, "status": "ok"}
        return {
            "checkpoints": [at],
            "pools": [],
            "hosts": [],
            "tokens": [],
            "agents": [agent_record(agent, 1) for agent in self.agents.values()],
            "workers": [
                worker_record(worker, len(self.held(name)), "")
                for name, worker in self.workers.items()
            ],
        }

    def _registry(self, meta: dict[str, str]) -> Registry:
        free = {
            name: worker.max_agents - len(self.held(name)) if worker.status == "active" else 0
            for name, worker in self.workers.items()
            if worker.alive
        }
        waiting = [name for name, agent in self.agents.items() if agent.status == "pending"]
        counters = {"free": str(sum(free.values())), "waiting": str(len(waiting))}
        queued = [n for n, a in self.agents.items() if a.status in {"pending", "starting"}]
        return Registry(
            meta={**meta, **counters, "epoch": str(self.epoch)},
            agents={name for name, agent in self.agents.items() if not agent.ended},
            lost={name for name, worker in self.workers.items() if worker.status == "lost"},
            processes=free,
            due=self._scored(lambda agent: agent.due_ms, "restarting"),
            timeouts={n: a.expires_ms for n, a in self.agents.items() if a.expires_ms},
            orders={n: w.deadline_ms for n, w in self.workers.items() if w.status == "requested"},
            held={name: set(self.held(name)) for name in self.workers},
            agent_hashes={name: hashes.AGENT.to_hash(agent) for name, agent in self.agents.items()},
            specs={
                name: f'{{"input":{{}},"labels":{json.dumps(agent.labels)}}}'
                for name, agent in self.agents.items()
                if not agent.ended
            },
            process_hashes={
                name: {**hashes.WORKER.to_hash(worker), "agent_count": str(len(self.held(name)))}
                for name, worker in self.workers.items()
            },
            commands={
                f"{n}-0": {"agent_id": n, "incarnation": str(self.agents[n].incarnation)}
                for n in queued
            },
            pending={
                f"{n}-0": self.agents[n].worker_id
                for n in queued
                if self.agents[n].status == "starting"
            },
        )

    def _scored(self, score: Callable[[Agent], int], status: str) -> dict[str, int]:
        return {n: score(a) for n, a in self.agents.items() if a.status == status}


def _archived(entry: Entry) -> Entry:
    return replace(entry, generation=1)
