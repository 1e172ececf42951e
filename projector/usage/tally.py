"""What events change in the accounts of a pool: pure.

A batch is tallied in memory: each change of an agent is a few additions to that of its account
within the minute, and accounts and pool are brought forward once a minute, or at the end of the
batch. A number that changes by `d` at `t` adds `d * (e - t)` to its sum over
time up to `e`, whatever it was before.

An agent waits while it is pending, and has a slot from its claim until it leaves its worker; an
isolated one too has one slot.
"""

from collections.abc import Callable, Iterable
from copy import copy
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.agents import HELD, TERMINAL, Agent, Status
from eventstore.language.events import AgentFailure, AgentLost, Event
from eventstore.language.workers import Worker
from projector.store.rows import Position
from projector.store.usage_rows import (
    COUNTS,
    LEVELS,
    MINUTE_MS,
    NO_LABELS,
    OTHER_LABELS,
    Account,
    Sums,
)
from projector.usage.accounts import LABELLED_MAX, POOL, Key, key_of, number_of

WorkerOf: TypeAlias = Callable[[str], Worker | None]
"""A worker by its id, if it is known."""
_ENDED, _WAITS, _HELD, _BACKS_OFF = range(4)
_PHASES: Final = {
    status: _ENDED
    if status in TERMINAL
    else _HELD
    if status in HELD
    else _WAITS
    if status is Status.PENDING
    else _BACKS_OFF
    for status in Status
}


class _Change(Struct, gc=False):
    """Of one account within a minute; `…_at`: the sum of each change times its time."""

    at: int = 0
    seq: int = 0
    agents: int = 0
    agents_at: int = 0
    pending: int = 0
    pending_at: int = 0
    slots_used: int = 0
    slots_used_at: int = 0
    workers: int = 0
    workers_at: int = 0
    slots: int = 0
    slots_at: int = 0
    requested: int = 0
    ended: int = 0
    failures: int = 0
    losses: int = 0
    restarts: int = 0
    claims: int = 0
    cold_starts: int = 0

    def add(self, other: "_Change") -> None:
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_SUMMED: Final = (*LEVELS, *(f"{name}_at" for name in LEVELS), *COUNTS)


def brought_to(sums: Sums, at_ms: int) -> Sums:
    """An account at a later time, if nothing changes until then."""
    elapsed = at_ms - sums.at
    later = {f"{n}_ms": getattr(sums, f"{n}_ms") + getattr(sums, n) * elapsed for n in LEVELS}
    return replace(sums, at=at_ms, **later)


def _changed(sums: Sums, change: _Change, minute: int) -> Sums:
    at, elapsed = change.at, change.at - sums.at
    return Sums(
        sums.pool_name,
        sums.account,
        minute,
        change.seq,
        at,
        sums.agents + change.agents,
        sums.pending + change.pending,
        sums.slots_used + change.slots_used,
        sums.workers + change.workers,
        sums.slots + change.slots,
        sums.requested + change.requested,
        sums.ended + change.ended,
        sums.failures + change.failures,
        sums.losses + change.losses,
        sums.restarts + change.restarts,
        sums.claims + change.claims,
        sums.cold_starts + change.cold_starts,
        sums.agents_ms + sums.agents * elapsed + change.agents * at - change.agents_at,
        sums.pending_ms + sums.pending * elapsed + change.pending * at - change.pending_at,
        sums.slots_used_ms
        + sums.slots_used * elapsed
        + change.slots_used * at
        - change.slots_used_at,
        sums.workers_ms + sums.workers * elapsed + change.workers * at - change.workers_at,
        sums.slots_ms + sums.slots * elapsed + change.slots * at - change.slots_at,
    )


class Tally:
    """Of a pool, over the events of one batch after the other.

    `sums` has the accounts that these events touch, as they were before; the others are new.
    `labelled`: how many accounts with labels the pool has.
    """

    def __init__(self, pool: str, sums: dict[Key, Sums], labelled: int = 0) -> None:
        self.pool = pool
        self.sums = sums
        self.labelled = labelled
        self.rows: dict[tuple[int, int], Sums] = {}
        """To be written, by account and minute."""
        self.opened: list[Account] = []
        """Accounts that were not there before."""
        self._changes: dict[Key, _Change] = {}
        pool_sums = sums.get(POOL)
        self._at, self._seq = (pool_sums.at, pool_sums.seq) if pool_sums else (0, 0)
        self._minute_end = 0

    def agent(self, event: Event, old: Agent | None, new: Agent, worker_of: WorkerOf) -> None:
        """An agent has changed. It is written for speed: this runs for every event of an agent."""
        was, now = _ENDED if old is None else _PHASES[old.status], _PHASES[new.status]
        restarted = old is not None and new.incarnation != old.incarnation
        if was == now and not restarted:
            return
        if self._at <= event.ts < self._minute_end:
            self._at, self._seq = event.ts, event.seq
        else:
            self._tick(event)
        ts, key = self._at, key_of(new)
        change = self._changes.get(key) or self._change(key)
        change.at, change.seq = ts, event.seq
        change.requested += old is None
        change.restarts += restarted
        if was == _WAITS:
            change.pending -= 1
            change.pending_at -= ts
        elif was == _HELD:
            change.slots_used -= 1
            change.slots_used_at -= ts
            self._left(change, event)
        else:
            self._count_agents(change, ts, (now != _ENDED) - (was != _ENDED))
        if now == _WAITS:
            change.pending += 1
            change.pending_at += ts
        elif now == _HELD:
            change.slots_used += 1
            change.slots_used_at += ts
            change.claims += 1
            worker = worker_of(new.worker_id)
            if worker is not None and old is not None and worker.started_ms > old.changed_ms:
                change.cold_starts += 1
        elif now == _ENDED:
            change.ended += 1
            if was != _BACKS_OFF:
                self._count_agents(change, ts, -1)

    @staticmethod
    def _count_agents(change: _Change, ts: int, by: int) -> None:
        change.agents += by
        change.agents_at += by * ts

    @staticmethod
    def _left(change: _Change, event: Event) -> None:
        """Why it left its slot."""
        body = event.body
        if isinstance(body, AgentFailure):
            change.failures += body.error.retry_after_ms is None
        elif type(body) is AgentLost:
            change.losses += 1

    def worker(self, event: Event, old: Worker | None, new: Worker) -> None:
        """A worker has changed."""
        by = new.alive - (old is not None and old.alive)
        if not by:
            return
        ts = self._tick(event)
        change = self._change(POOL)
        change.workers += by
        change.workers_at += by * ts
        change.slots += by * new.max_agents
        change.slots_at += by * new.max_agents * ts

    def _tick(self, event: Event) -> int:
        """The time of an event; never before that of the last one that changed anything."""
        ts = max(event.ts, self._at)
        if ts >= self._minute_end:
            self.close()
            self._minute_end = (ts // MINUTE_MS + 1) * MINUTE_MS
        self._at, self._seq = ts, event.seq
        return ts

    def _change(self, key: Key) -> _Change:
        change = self._changes.get(key)
        if change is None:
            if key not in self.sums:
                key = self._open(key)
                if change := self._changes.get(key):
                    return change
            change = self._changes[key] = _Change()
        return change

    def _open(self, key: Key) -> Key:
        """A new account, or the one that is shared by those that get none of their own."""
        role, project, labels = key
        if labels not in (NO_LABELS, OTHER_LABELS):
            if self.labelled >= LABELLED_MAX:
                key = (role, project, OTHER_LABELS)
                return key if key in self.sums else self._open(key)
            self.labelled += 1
        number = number_of(key)
        self.sums[key] = Sums(self.pool, number, 0)
        self.opened.append(Account(self.pool, number, *key))
        return key

    def close(self) -> None:
        """Bring all that changed in this minute forward. To be called after the last event."""
        if not self._changes:
            return
        minute, changes = self._minute_end // MINUTE_MS - 1, self._changes
        of_pool = changes.pop(POOL, None)
        for key, change in changes.items():
            if of_pool is None:
                of_pool = copy(change)
            else:
                of_pool.add(change)
            self._put(key, change, minute)
        assert of_pool is not None
        of_pool.at, of_pool.seq = self._at, self._seq
        if POOL not in self.sums:
            self._open(POOL)
        self._put(POOL, of_pool, minute)
        self._changes = {}

    def _put(self, key: Key, change: _Change, minute: int) -> None:
        sums = _changed(self.sums[key], change, minute)
        self.sums[key] = self.rows[sums.account, minute] = sums

    def start(
        self, agents: Iterable[Agent], workers: Iterable[Worker], at_ms: int, seq: int
    ) -> None:
        """Begin with what a pool has whose first events are gone."""
        self._at, self._seq = at_ms, seq
        self._minute_end = (at_ms // MINUTE_MS + 1) * MINUTE_MS
        self._change(POOL)
        for agent in agents:
            phase, change = _PHASES[agent.status], self._change(key_of(agent))
            change.at, change.seq = at_ms, seq
            if phase != _ENDED:
                self._count_agents(change, at_ms, 1)
            waits, held = phase == _WAITS, phase == _HELD
            change.pending += waits
            change.pending_at += waits * at_ms
            change.slots_used += held
            change.slots_used_at += held * at_ms
        for worker in workers:
            change = self._change(POOL)
            change.workers += worker.alive
            change.workers_at += worker.alive * at_ms
            change.slots += worker.alive * worker.max_agents
            change.slots_at += worker.alive * worker.max_agents * at_ms
        self.close()


def started_tally(at: Position, agents: Iterable[Agent], workers: Iterable[Worker]) -> Tally:
    """Of a pool whose first events are gone: it begins with what the pool has at a position."""
    tally = Tally(at.pool, {})
    tally.start(agents, workers, at.ts, at.seq)
    return tally
