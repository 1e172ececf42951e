"""The fold behind the views: events in, changed agents and workers out. Pure.

It uses the same `evolve` as the write side. The number of agents in a worker's slots is counted
from the agents' own events, so that the capacity of a pool is a sum over its workers.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from eventstore.language import agents, workers
from eventstore.language import catalogue as pools
from eventstore.language import events as log_events
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Catalogue
from eventstore.language.workers import Worker
from projector.usage.tally import Tally

CATALOGUE_BODIES: Final = (
    log_events.PoolCreated,
    log_events.PoolChanged,
    log_events.PoolReplacementStarted,
    log_events.PoolReplacementFinished,
    log_events.PoolReplacementStopped,
    log_events.PoolDeleted,
    log_events.PoolRemoved,
    log_events.HostJoined,
    log_events.HostCordoned,
    log_events.HostLeft,
    log_events.HostRemoved,
    log_events.TokenCreated,
    log_events.TokenRotated,
    log_events.TokenRevoked,
)

CREATIONS: Final = (log_events.PoolCreated, log_events.HostJoined, log_events.TokenCreated)
"""Those that may be the first of their subject."""

OTHER_BODIES: Final = (
    log_events.PoolScalingDecided,
    log_events.PoolShadowDecided,
    log_events.PoolConsolidationRequested,
    log_events.PoolArchivePruned,
    log_events.LogRecovered,
)
"""In the log of a pool, and of no agent or worker."""

T = TypeVar("T")


class Unfoldable(Exception):
    """An event that cannot follow the events before it: the log contradicts itself."""

    def __init__(self, event: log_events.Event, reason: str) -> None:
        self.event = event
        super().__init__(f"seq {event.seq} ({event.type} of {event.subject}): {reason}")


class WorkerLoad(Struct, frozen=True):
    """A worker, the number of agents in its slots, and the isolated one among them, if any."""

    worker: Worker
    agent_count: int = 0
    isolated_agent: str = ""


class State(Struct, frozen=True):
    """Those agents and workers of a pool that a batch of events touches."""

    agents: dict[str, Agent] = field(default_factory=dict)
    workers: dict[str, WorkerLoad] = field(default_factory=dict)


def touched_agents(events: Iterable[log_events.Event]) -> set[str]:
    """Ids of agents whose prior state these events need."""
    requested: set[str] = set()
    touched: set[str] = set()
    for event in events:
        kind = event.body.type
        if kind == log_events.AgentRequested.type:
            requested.add(event.subject)
        elif kind.startswith("agent.") and event.subject not in requested:
            touched.add(event.subject)
    return touched


def touched_workers(events: Iterable[log_events.Event], held_agents: Iterable[Agent]) -> set[str]:
    """Ids of workers: those that act or are acted on, and those with these agents."""
    touched = {agent.worker_id for agent in held_agents}
    for event in events:
        touched.add(event.worker_id)
        if event.body.type.startswith("worker."):
            touched.add(event.subject)
    return touched - {""}


def fold(
    pool: str,
    events: Iterable[log_events.Event],
    before: State,
    *,
    after: State | None = None,
    truncated: bool = False,
    tally: Tally | None = None,
) -> State:
    """Apply events; returns the agents and workers that changed. Raises `Unfoldable`.

    `after`: what earlier events changed since `before`; it is changed further, and where an event
    cannot be folded, it has those before it. `truncated`: the first events of the log are gone,
    perhaps with the first ones of some agents and workers. Events of unknown agents and workers are
    skipped then. `tally`: counts what changes.
    """
    folding = _Fold(pool, before, truncated, State() if after is None else after, tally)
    folding.apply(events)
    return folding.after


class _Fold(Struct):
    pool: str
    before: State
    truncated: bool
    after: State
    tally: Tally | None

    def apply(self, events: Iterable[log_events.Event]) -> None:
        changed, before = self.after.agents, self.before.agents
        for event in events:
            if not event.body.type.startswith("agent."):
                self._apply_other(event)
                continue
            agent_id = event.subject
            old = changed.get(agent_id) or before.get(agent_id)
            if (old is None) is not (type(event.body) is log_events.AgentRequested):
                self._require_truncated(event, old, "agent")
                continue
            changed[agent_id] = new = _evolved(agents.evolve, old, event, self.pool)
            if self.tally is not None:
                self.tally.agent(event, old, new, self._worker)
            old_worker = "" if old is None else old.worker_id
            if new.worker_id != old_worker:
                self._update_load(old_worker, -1, "")
                self._update_load(new.worker_id, +1, agent_id if new.alone else "")
            elif old_worker and old is not None and old.alone and not new.alone:
                self._update_load(old_worker, 0, "")

    def _apply_other(self, event: log_events.Event) -> None:
        if event.body.type.startswith("worker."):
            self._apply_to_worker(event)
        elif not isinstance(event.body, OTHER_BODIES):
            raise Unfoldable(event, "it belongs in the catalogue")

    def _apply_to_worker(self, event: log_events.Event) -> None:
        old = self._load(event.subject)
        if (old is None) is not (type(event.body) is log_events.WorkerRequested):
            self._require_truncated(event, old, "worker")
            return
        before = old.worker if old else None
        new = _evolved(workers.evolve, before, event, self.pool)
        if self.tally is not None:
            self.tally.worker(event, before, new)
        self.after.workers[event.subject] = replace(old, worker=new) if old else WorkerLoad(new)

    def _require_truncated(self, event: log_events.Event, old: object, kind: str) -> None:
        """Raises `Unfoldable`, but where the first event of its subject may be gone."""
        if old is not None or not self.truncated:
            raise Unfoldable(event, f"no such {kind}" if old is None else "it exists already")

    def _worker(self, worker_id: str) -> Worker | None:
        load = self._load(worker_id)
        return load.worker if load else None

    def _load(self, worker_id: str) -> WorkerLoad | None:
        return self.after.workers.get(worker_id) or self.before.workers.get(worker_id)

    def _update_load(self, worker_id: str, change: int, isolated_agent: str) -> None:
        if worker_id and (load := self._load(worker_id)):
            count = load.agent_count + change
            self.after.workers[worker_id] = WorkerLoad(load.worker, count, isolated_agent)


def fold_catalogue(events: Iterable[log_events.Event], before: Catalogue) -> Catalogue:
    """Apply events to the catalogue. Raises `Unfoldable`."""
    after = pools.copy_of(before)
    for event in events:
        if not isinstance(event.body, log_events.LogRecovered):
            _require_known(event, after)
        after = _evolved(pools.evolve, after, event)
    return after


def _evolved(evolve: Callable[..., T], state: object, event: log_events.Event, *pool: str) -> T:
    """For events that `evolve` refuses: with settings out of their range, for example."""
    try:
        return evolve(state, event, *pool)
    except (ValueError, TypeError, KeyError) as error:
        raise Unfoldable(event, str(error)) from error


def _require_known(event: log_events.Event, catalogue: Catalogue) -> None:
    if not isinstance(event.body, CATALOGUE_BODIES):
        raise Unfoldable(event, "it does not belong in the catalogue")
    kind = event.type.partition(".")[0]
    known: dict[str, Collection[str]] = {
        "pool": catalogue.pools,
        "host": catalogue.hosts,
        "token": catalogue.tokens,
    }
    if not isinstance(event.body, CREATIONS) and event.subject not in known[kind]:
        raise Unfoldable(event, f"no such {kind}")
