"""What can happen: the facts that stand in the log, and how they are written there.

A fact is a *body* (one frozen Struct per type, below) in an *envelope* (`Event`). In the stream an
entry is flat: the fields of `ENTRY_FIELDS`, always all of them and in that order, with the body as
compact JSON in `data`. Type names are a public contract and written out, so that renaming a class
never changes the log. A field added later has a default; a change of meaning is a new version.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from eventstore.errors import UnknownEvent
from eventstore.language.upcasts import upcast

ENTRY_FIELDS: Final = (
    "type",
    "version",
    "seq",
    "event_id",
    "subject",
    "incarnation",
    "worker_id",
    "epoch",
    "correlation_id",
    "causation_id",
    "traceparent",
    "actor",
    "ts",
    "data",
)
ENTRY_NUMBERS: Final = frozenset({"version", "seq", "incarnation", "epoch", "ts"})
"""Those of them that are whole numbers; an empty one is 0."""


Number: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What every database holds: a body with more is damaged, and refused where it is read."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NAME_MAX: Final = 512
"""Characters of what is looked for by name: an index of PostgreSQL holds 2,704 bytes a row."""
Name: TypeAlias = Annotated[str, Meta(max_length=NAME_MAX)]


class Body(Struct, frozen=True, omit_defaults=True):
    """What is particular to one type of event."""

    type: ClassVar[str]
    version: ClassVar[int] = 1


class Error(Struct, frozen=True, omit_defaults=True):
    """An exception of a user's code: its type, message and trimmed traceback."""

    type: str
    message: str = ""
    traceback: str = ""


class AgentSpec(Struct, frozen=True):
    """What an agent is asked for with and has for life: fields of its request and of its state.

    Intervals are in seconds; `max_idle_time` None means never.
    """

    role_type: str
    project_id: Name
    heartbeat_interval: float = 30.0
    max_idle_time: float | None = None


class AgentRequested(Body, AgentSpec, frozen=True):
    """A spawn was accepted. `input` and `labels` may be too long for the hash of an agent."""

    type = "agent.requested"
    pending_timeout: float | None = None
    expires_ms: Number = 0
    input: msgspec.Raw = msgspec.Raw(b"{}")
    labels: dict[str, str] = {}
    operation_id: str = ""
    digest: str = ""
    operation_ms: Number = 0
    """How long the operation id is remembered; 0 stands for ten minutes."""


class AgentClaimed(Body, frozen=True):
    """A worker booked a slot for it. The `seq` of this event is the agent's fencing token."""

    type = "agent.claimed"


class AgentStarted(Body, frozen=True):
    """Its `start` returned."""

    type = "agent.started"


class AgentStartFailed(Body, frozen=True):
    """Its `start` raised or took too long. It is to run again at `due_ms` (log time)."""

    type = "agent.start_failed"
    error: Error
    at_ms: Number
    window_ms: Number
    due_ms: Number = 0


class AgentCrashed(Body, frozen=True):
    """Its `run` raised. It is to run again at `due_ms` (log time)."""

    type = "agent.crashed"
    error: Error
    at_ms: Number
    window_ms: Number
    due_ms: Number = 0


class AgentUnhealthy(Body, frozen=True):
    """Its `check` raised or hung twice. It is to run again at `due_ms` (log time)."""

    type = "agent.unhealthy"
    error: Error
    at_ms: Number
    window_ms: Number
    due_ms: Number = 0


class AgentLost(Body, frozen=True):
    """Its worker died under it. `blameless`: all died, so that it says nothing of the agent.

    `alone`: from here on it is to run in a worker of its own. One that was alone when its worker
    died is to blame for it: then `window_ms` is that of the restart budget, of which this is a
    failure, and it is to run again at `due_ms` (log time).
    """

    type = "agent.lost"
    version = 2
    reason: str
    at_ms: Number
    blameless: bool = False
    alone: bool = False
    window_ms: Number = 0
    due_ms: Number = 0


class AgentCleared(Body, frozen=True):
    """It is not under suspicion any more: it has behaved, or for another reason."""

    type = "agent.cleared"
    reason: str


class AgentReleased(Body, frozen=True):
    """It was stopped in good order, to run again elsewhere or later as `next_incarnation`."""

    type = "agent.released"
    reason: str
    next_incarnation: Number


class AgentRestarting(Body, frozen=True):
    """It goes back into the queue as `next_incarnation`."""

    type = "agent.restarting"
    reason: str
    next_incarnation: Number


class AgentTerminationRequested(Body, frozen=True):
    """Somebody asked for its end: a lasting flag, not a status."""

    type = "agent.termination_requested"
    reason: str
    graceful: bool = True


class AgentTerminated(Body, frozen=True):
    """It ended and will not run again."""

    type = "agent.terminated"
    reason: str
    error: Error | None = None


class AgentFailed(Body, frozen=True):
    """It failed more often than its pool allows within the window."""

    type = "agent.failed"
    reason: str
    failures: Number


class WorkerRequested(Body, frozen=True):
    """A launch was ordered on a host; the order lapses at `deadline_ms` (log time)."""

    type = "worker.requested"
    host: str
    max_agents: Count
    deadline_ms: Number
    reason: str = ""


class WorkerStarted(Body, frozen=True):
    """The process runs and may claim. `start_time` is its start in clock ticks since boot."""

    type = "worker.started"
    host: str
    pid: Number
    start_time: Number
    max_agents: Count


class WorkerSuspect(Body, frozen=True):
    """Its lease was not renewed for a while."""

    type = "worker.suspect"
    reason: str


class WorkerRecovered(Body, frozen=True):
    """A suspect renewed its lease in time."""

    type = "worker.recovered"
    reason: str = ""


class WorkerDraining(Body, frozen=True):
    """It takes no more agents and hands back those that it has."""

    type = "worker.draining"
    reason: str


class WorkerStopped(Body, frozen=True):
    """It ended in good order, empty."""

    type = "worker.stopped"
    reason: str


class WorkerLost(Body, frozen=True):
    """It is fenced: the event's epoch is the new one, and older ones may write nothing more."""

    type = "worker.lost"
    reason: str


class PoolCreated(Body, frozen=True):
    type = "pool.created"
    role_type: str
    config: msgspec.Raw = msgspec.Raw(b"{}")


class PoolChanged(Body, frozen=True):
    type = "pool.changed"
    config: msgspec.Raw


class PoolDeleted(Body, frozen=True):
    type = "pool.deleted"
    reason: str = ""


class PoolScalingDecided(Body, frozen=True):
    """The leader changed the number of workers; the inputs of the decision stand beside it."""

    type = "pool.scaling_decided"
    reason: str
    current: Number
    desired: Number
    pending: Number
    restarting: Number
    running: Number
    free: Number
    ordered: Number
    maximum: Number


class HostJoined(Body, frozen=True):
    type = "host.joined"
    hostname: str
    pid: Number


class HostCordoned(Body, frozen=True):
    type = "host.cordoned"
    reason: str


class HostLeft(Body, frozen=True):
    type = "host.left"
    reason: str


class LogRecovered(Body, frozen=True):
    """The log was rebuilt from its archive and goes on after `from_seq` as `generation`.

    `known_seq`: the highest seq of the generation before that anybody is known to have seen. What
    lies above `from_seq` up to there was lost.
    """

    type = "log.recovered"
    generation: Number
    from_generation: Number
    from_seq: Number
    known_seq: Number
    reason: str


AgentBody: TypeAlias = (
    AgentRequested
    | AgentClaimed
    | AgentStarted
    | AgentStartFailed
    | AgentCrashed
    | AgentUnhealthy
    | AgentLost
    | AgentCleared
    | AgentReleased
    | AgentRestarting
    | AgentTerminationRequested
    | AgentTerminated
    | AgentFailed
)
WorkerBody: TypeAlias = (
    WorkerRequested
    | WorkerStarted
    | WorkerSuspect
    | WorkerRecovered
    | WorkerDraining
    | WorkerStopped
    | WorkerLost
)
PoolBody: TypeAlias = PoolCreated | PoolChanged | PoolDeleted | PoolScalingDecided | LogRecovered
HostBody: TypeAlias = HostJoined | HostCordoned | HostLeft
AnyBody: TypeAlias = AgentBody | WorkerBody | PoolBody | HostBody

_BODIES: Final[dict[str, type[AnyBody]]] = {
    body.type: body
    for union in (AgentBody, WorkerBody, PoolBody, HostBody)
    for body in get_args(union)
}
EVENT_TYPES: Final = tuple(_BODIES)
_DECODERS: Final = {kind: msgspec.json.Decoder(body) for kind, body in _BODIES.items()}
_ENCODER: Final = msgspec.json.Encoder()


class Event(Struct, frozen=True):
    """A fact. The last block is filled in by the log when it records the event."""

    body: AnyBody
    event_id: str
    subject: str
    incarnation: int = 0
    worker_id: str = ""
    epoch: int = 0
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    actor: str = ""

    seq: int = 0
    ts: int = 0
    """Log time: milliseconds since 1970; never goes back within a log."""
    stream_id: str = ""

    @property
    def type(self) -> str:
        return self.body.type


def encode_body(body: AnyBody) -> bytes:
    """The body as the compact JSON that stands in an entry's `data`."""
    return _ENCODER.encode(body)


def require_known(kind: str, version: int) -> None:
    """Raises `UnknownEvent` for a type or version that this code cannot read."""
    body = _BODIES.get(kind)
    require_version(kind, version, body.version if body else None)


def require_version(kind: str, version: int, known: int | None) -> None:
    """Raises `UnknownEvent` for a version beyond the one `known`; None: the type is not known."""
    if known is None or not 1 <= version <= known:
        raise UnknownEvent(kind, version, known)


def decode_body(kind: str, version: int, data: bytes | str) -> AnyBody:
    """Read a body back, one of an older version as what it means today.

    Raises `UnknownEvent` for a type or version this code does not know, and `msgspec.DecodeError`
    for data that is not what that version holds. Unknown fields are passed over: the log and the
    archive keep them.
    """
    require_known(kind, version)
    if version < _BODIES[kind].version:
        data = upcast(kind, version, _BODIES[kind].version, data)
    return _DECODERS[kind].decode(data)


def decode_entry(stream_id: bytes, fields: Sequence[bytes]) -> Event:
    """An entry of a stream, as Redis returns it (id, then names and values in turn).

    Raises `UnknownEvent`, also for one that is no entry of an event at all.
    """
    try:
        return _decode_entry(stream_id, fields)
    except (ValueError, IndexError, RecursionError) as error:  # of msgspec, int() and decode()
        kind = fields[1].decode(errors="replace") if len(fields) > 1 else "nothing"
        reason = f"entry {stream_id.decode()}: {error}"
        raise UnknownEvent(kind[:64], 0, None, reason[:500]) from error


def _decode_entry(stream_id: bytes, fields: Sequence[bytes]) -> Event:
    if len(fields) != 2 * len(ENTRY_FIELDS):
        raise UnknownEvent("entry with other fields", 0, None)
    values = entry_values(fields[1::2], bytes.decode, lambda text: int(text or 0))
    kind, version, seq, event_id, subject, incarnation, worker_id, epoch, *ids, ts, data = values
    body = decode_body(kind, version, data)
    copied = (event_id, subject, incarnation, worker_id, epoch, *ids, seq, ts, stream_id.decode())
    return Event(body, *copied)


def entry_values(
    values: Iterable[bytes], text: Callable[[bytes], str], number: Callable[[str], int]
) -> tuple[Any, ...]:
    """The values of an entry, in the order of `ENTRY_FIELDS`, those of `ENTRY_NUMBERS` as numbers.

    Raises `ValueError` where there are more or fewer.
    """
    texts = map(text, values)
    kind, version, seq, event_id, subject, incarnation, worker_id, epoch, *ids, ts, data = texts
    if len(ids) != 4:
        raise ValueError(f"an entry has {len(ENTRY_FIELDS)} values")
    numbers = (number(version), number(seq), number(incarnation), number(epoch), number(ts))
    return (
        kind,
        *numbers[:2],
        event_id,
        subject,
        numbers[2],
        worker_id,
        numbers[3],
        *ids,
        numbers[4],
        data,
    )
