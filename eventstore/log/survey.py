"""A snapshot of the write side of a pool: workers, free slots, waiting and due agents."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import Unreadable
from eventstore.language.consolidation import REASON
from eventstore.language.forecast import Forecast
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log import forecasts
from eventstore.log.replies import Reply, fields_of, scores_of, text_of
from eventstore.steps import hashes

PREPARING: Final = "preparing: "
"""How the hint about a worker begins that cannot claim yet, but is about to."""


class Consolidation(Struct, frozen=True):
    """A request to move agents now, so that fewer workers are needed."""

    event_id: str
    busy: bool = False
    """Whether busy agents are to be moved, too."""

    @property
    def text(self) -> str:
        return f"{self.event_id}:{'busy' if self.busy else 'idle'}"

    @classmethod
    def read(cls, text: str) -> "Consolidation | None":
        event_id, _, kind = text.partition(":")
        return cls(event_id, kind == "busy") if event_id else None


class Survey(Struct, frozen=True, kw_only=True):
    """A pool at one point in time, for its supervisors. Times are in ms of log time."""

    ts: int
    waiting: int
    """Spawns that may share a worker."""
    waiting_isolated: int = 0
    """Isolated agents that wait for a worker."""
    free: int
    restarting: int
    """Restarts that are due soon."""
    live: int
    scaling: int
    closed: str
    config_version: tuple[int, ...] = (0, 0)
    """`Pool.config_version` of the settings that workers read as they renew."""
    blocked: str = ""
    """Why no worker is started although one is needed; empty if that is not so."""
    placed: str = ""
    """Whether agents are placed (`1`) or were at some time (`0`); empty: they never were."""
    surplus: int = 0
    """So many workers fewer would do if they were empty, by the leader's last decision."""
    consolidation: Consolidation | None = None
    """What was requested; None if nothing was."""
    due: tuple[tuple[str, int], ...]
    timeouts: tuple[tuple[str, int], ...]
    workers: tuple["ObservedWorker", ...]
    unreadable: tuple["UnreadableWorker", ...] = ()
    forecast: Forecast | None = None

    @property
    def room(self) -> int:
        """The free slots of workers whose event loops turn, or that get ready."""
        return self.free - sum(o.free for o in self.workers if not o.has_room)


class ObservedWorker(Struct, frozen=True):
    """A worker's hash: its state, and the fields that only scripts write."""

    worker: Worker
    agent_count: int
    renewal: int
    last_heartbeat: int
    isolated_agent: str = ""
    """The isolated agent that it runs; empty if there is none."""
    lease_seconds: float = 0.0
    """How long a lease it last renewed; 0: none yet."""
    stalled: str = ""
    """Where its event loop is stalled, or what it prepares; empty while it turns."""
    busy: int = 0
    """How many of its agents were busy when it last renewed its lease."""

    @property
    def preparing(self) -> bool:
        """Whether it cannot claim yet, but is about to."""
        return self.stalled.startswith(PREPARING)

    @property
    def has_room(self) -> bool:
        """Whether it claims what waits, or is about to, if it has free slots."""
        return self.worker.claims and (self.preparing or not self.stalled)

    @property
    def emptying(self) -> bool:
        """Whether it is cordoned in order to be emptied by consolidation."""
        return self.worker.cordoned == REASON and not (self.worker.draining or self.worker.drain_ms)

    @property
    def may_return(self) -> bool:
        """Whether it would have room if it were uncordoned, and may be."""
        is_active = self.worker.status is WorkerStatus.ACTIVE
        return self.emptying and is_active and not (self.stalled or self.isolated_agent)

    @property
    def free(self) -> int:
        """Its part of the pool's free slots."""
        if not self.worker.claims or self.isolated_agent:
            return 0
        return self.worker.max_agents - self.agent_count


class UnreadableWorker(Struct, frozen=True):
    """A worker whose hash cannot be read. `version`: 0 if that cannot be read, either."""

    worker_id: str
    reason: str
    version: int


def decode_worker(worker_id: str, fields: Mapping[str, str]) -> ObservedWorker:
    """A worker's hash. Raises `Unreadable`."""
    worker = hashes.WORKER.from_hash(worker_id, fields)
    try:
        return ObservedWorker(
            worker,
            agent_count=int(fields["agent_count"]),
            renewal=int(fields["renewal"]),
            last_heartbeat=int(fields["last_heartbeat"]),
            isolated_agent=fields.get("alone", ""),
            lease_seconds=float(fields.get("lease", "0")),
            busy=int(fields.get("busy", "0")),
        )
    except (KeyError, ValueError) as error:
        raise Unreadable("worker", worker_id, f"a counter of its hash: {error}") from error


def decode_survey(reply: Reply) -> Survey:
    """The reply of `lua/survey.lua`. Workers that cannot be read are listed with the reason."""
    counters, due, timeouts, listed = reply.rest[:4]
    stalled = fields_of(reply.rest[4])
    found, unreadable = [], []
    for entry in listed:
        worker_id, fields = text_of(entry[0]), fields_of(entry[1:])
        try:
            observed = decode_worker(worker_id, fields)
            found.append(replace(observed, stalled=stalled.get(worker_id, "")))
        except Unreadable as error:
            version = fields.get("version", "")
            known = int(version) if version.isascii() and version.isdecimal() else 0
            unreadable.append(UnreadableWorker(worker_id, error.reason, known))
    return Survey(
        ts=reply.ts,
        waiting=int(counters[0]),
        waiting_isolated=int(counters[6]),
        free=int(counters[1]),
        restarting=int(counters[2]),
        live=int(counters[3]),
        scaling=int(counters[4]),
        closed=counters[5].decode(),
        config_version=tuple(map(int, counters[7].split(b":"))),
        blocked=counters[8].decode(),
        placed=counters[9].decode(),
        surplus=int(counters[10] or 0),
        consolidation=Consolidation.read(counters[11].decode()),
        due=tuple(scores_of(due)),
        timeouts=tuple(scores_of(timeouts)),
        workers=tuple(found),
        unreadable=tuple(unreadable),
        forecast=forecasts.decode(reply.rest[5]),
    )
