"""The events of the log, and how they are stored.

An event is a *body* (one frozen Struct per type, below) in an *envelope* (`Event`). An entry of the
stream is flat: the fields of `ENTRY_FIELDS`, always all of them and in that order, with the body as
compact JSON in `data`. Type names are a public contract and written out, so that renaming a class
never changes the log. A field added later has a default; a change of meaning is a new version.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from eventstore.errors import UnknownEvent
from eventstore.language.scaling_state import Memory, Observation
from eventstore.language.upcasts import upcast

ORIGIN_FIELDS: Final = ("correlation_id", "causation_id", "traceparent", "actor")
ENVELOPE: Final = ("event_id", "subject", "incarnation", "worker_id", "epoch", *ORIGIN_FIELDS)
ENTRY_FIELDS: Final = ("type", "version", "seq", *ENVELOPE, "ts", "data")
ENTRY_NUMBERS: Final = frozenset({"version", "seq", "incarnation", "epoch", "ts"})
"""Those of them that are integers; an empty one is 0."""
_NUMBERS_AT: Final = tuple(map(ENTRY_FIELDS.index, ENTRY_NUMBERS))

Number: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that every database can store: a body with a larger one is refused as damaged."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NAME_MAX: Final = 512
"""Characters of an indexed name: an index of PostgreSQL can hold 2,704 bytes per row."""
Name: TypeAlias = Annotated[str, Meta(max_length=NAME_MAX)]


class Body(Struct, frozen=True, omit_defaults=True):
    """The part of an event that depends on its type."""

    type: ClassVar[str]
    version: ClassVar[int] = 1


class Error(Struct, frozen=True, omit_defaults=True):
    """An exception of a user's code: its type, message and shortened traceback.

    `retry_after_ms`: it was `muster.Unavailable`, which says when to try again; None: any other.
    """

    type: str
    message: str = ""
    traceback: str = ""
    retry_after_ms: Number | None = None


class AgentSpec(Struct, frozen=True):
    """What a spawn requests and never changes: fields of the request and of the agent's state.

    Intervals are in seconds; `max_idle_time` None means never. A placer uses the last two: 0 is the
    lowest priority; how long it is expected to run, None: not known.
    """

    role_type: str
    project_id: Name
    heartbeat_interval: float = 30.0
    max_idle_time: float | None = None
    priority: Number = 0
    expected_seconds: float | None = None


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
    """How long the operation id is remembered; 0 means ten minutes."""


class AgentClaimed(Body, frozen=True):
    """A worker booked a slot for it, or a placer did; its `seq` is the agent's fencing token.

    The last three are a placer's: its strategy, how many workers had a free slot for it, and which
    cap had held it back.
    """

    type = "agent.claimed"
    strategy: str = ""
    rooms: Number = 0
    cap: str = ""


class AgentStarted(Body, frozen=True):
    """Its `start` returned, at `at_ms` (log time; 0 in logs of earlier versions)."""

    type = "agent.started"
    at_ms: Number = 0


class AgentFailure(Body, frozen=True):
    """Its code failed. It is to run again at `due_ms` (log time), 0: never.

    `failures`: how often in a row, this one included; 0 in logs of earlier versions, which count
    those within `window_ms`. An error with `retry_after_ms` is not counted.
    """

    error: Error
    at_ms: Number
    window_ms: Number
    due_ms: Number = 0
    failures: Number = 0


class AgentStartFailed(AgentFailure, frozen=True):
    """Its `start` raised or took too long."""

    type = "agent.start_failed"


class AgentCrashed(AgentFailure, frozen=True):
    """Its `run` raised."""

    type = "agent.crashed"


class AgentUnhealthy(AgentFailure, frozen=True):
    """Its `check` raised or hung twice."""

    type = "agent.unhealthy"


class AgentLost(Body, frozen=True):
    """Its worker died. `blameless`: all workers did, so the agent cannot be the cause.

    `alone`: it is isolated from now on. `losses`: how often in a row its worker died, now included;
    from the second time on it is to run again at `due_ms` (log time). If it had the worker for
    itself, the loss is a failure of its own: then `window_ms` is the window of the restart policy,
    and `failures` how often it failed in a row.
    """

    type = "agent.lost"
    version = 3
    reason: str
    at_ms: Number
    blameless: bool = False
    alone: bool = False
    window_ms: Number = 0
    due_ms: Number = 0
    failures: Number = 0
    losses: Number = 0


class AgentCleared(Body, frozen=True):
    """It is not isolated any more: it ran long enough without harm, or for another reason."""

    type = "agent.cleared"
    reason: str


class AgentSaved(Body, frozen=True):
    """It saved its state, for the `save`th time: `size` bytes, which its next incarnation gets."""

    type = "agent.saved"
    save: Number
    size: Count
    sha256: str


class AgentStateLost(Body, frozen=True):
    """The state that it saved last, its `save`th, was found nowhere: it waits for an operator."""

    type = "agent.state_lost"
    save: Number
    sha256: str


class AgentReleased(Body, frozen=True):
    """It was stopped properly, to run again elsewhere or later as `next_incarnation`.

    `save_error`: why its state was not saved in this step, although its class has a `save`.
    """

    type = "agent.released"
    reason: str
    next_incarnation: Number
    save_error: str = ""


class AgentRestarting(Body, frozen=True):
    """It is requeued as `next_incarnation`."""

    type = "agent.restarting"
    reason: str
    next_incarnation: Number


class AgentRestartRequested(Body, frozen=True):
    """Its restart was requested: it is queued as `next_incarnation`.

    `next_incarnation` 0: it is in a worker, which is to release it. The operation id, with its
    digest and how long it is remembered, is empty where the client gave none. `discard_state`: what
    it saved is deleted.
    """

    type = "agent.restart_requested"
    reason: str
    next_incarnation: Number = 0
    operation_id: str = ""
    digest: str = ""
    operation_ms: Number = 0
    discard_state: bool = False


class AgentTerminationRequested(Body, frozen=True):
    """Its termination was requested: a lasting flag, not a status."""

    type = "agent.termination_requested"
    reason: str
    graceful: bool = True


class AgentTerminated(Body, frozen=True):
    """It ended and will not run again."""

    type = "agent.terminated"
    reason: str
    error: Error | None = None


class AgentFailed(Body, frozen=True):
    """It failed more often in a row than its pool allows."""

    type = "agent.failed"
    reason: str
    failures: Number


class WorkerRequested(Body, frozen=True):
    """A launch was ordered on a host; the order expires at `deadline_ms` (log time)."""

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


class WorkerCordoned(Body, frozen=True):
    """It claims no more agents; those that it has run on.

    `drain_ms`: until then they may end, then it drains; 0: they run on. `kept`: where the reason is
    Muster's own, why a person has cordoned it, too, which lasts when Muster's own cordon ends.
    """

    type = "worker.cordoned"
    reason: str
    drain_ms: Number = 0
    kept: str = ""


class WorkerUncordoned(Body, frozen=True):
    """It claims agents again."""

    type = "worker.uncordoned"
    reason: str


class WorkerDraining(Body, frozen=True):
    """It claims no more agents and releases those that it has."""

    type = "worker.draining"
    reason: str


class WorkerStopped(Body, frozen=True):
    """It ended properly, without agents."""

    type = "worker.stopped"
    reason: str


class WorkerLost(Body, frozen=True):
    """It is fenced: the event has the new epoch, and nothing is written under an older one."""

    type = "worker.lost"
    reason: str


class PoolCreated(Body, frozen=True):
    type = "pool.created"
    role_type: str
    config: msgspec.Raw = msgspec.Raw(b"{}")


class PoolChanged(Body, frozen=True):
    type = "pool.changed"
    config: msgspec.Raw


class PoolReplacementStarted(Body, frozen=True):
    """The workers with a lower epoch are to be replaced. `workers`: how many there were."""

    type = "pool.replacement_started"
    reason: str
    epoch: Number
    workers: Count
    max_unavailable: Count
    deadline_seconds: float = 0.0


class PoolReplacementFinished(Body, frozen=True):
    """No such worker is left, and the new ones have proved themselves."""

    type = "pool.replacement_finished"


class PoolReplacementStopped(Body, frozen=True):
    """It was cancelled, or the new workers or their agents fail. The old ones go on."""

    type = "pool.replacement_stopped"
    reason: str


class PoolDeleted(Body, frozen=True):
    type = "pool.deleted"
    reason: str = ""


class PoolRemoved(Body, frozen=True):
    """Of a pool that was deleted, only the archive is left. Its name can be used again."""

    type = "pool.removed"


class PoolScalingDecided(Body, frozen=True):
    """The leader changed the number of workers, or a limit held back a change of it.

    The fields are the inputs of the decision. From `observed`, `memory` and the pool's settings at
    that time, `decide_scale` gives the same again.
    """

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
    term: Number = 0
    """Of the leader; 0 in logs of earlier versions, as are the fields below."""
    wanted: Number = 0
    limit: str = ""
    candidates: dict[str, Number] = {}
    observed: Observation | None = None
    memory: Memory | None = None


class PoolShadowDecided(Body, frozen=True):
    """A shadow policy would have changed the number of workers, or is tried from now on.

    Nothing was done. The fields are those of `PoolScalingDecided`, of the workers that it would
    have had.
    """

    type = "pool.shadow_decided"
    policy: str
    reason: str
    current: Number
    desired: Number
    wanted: Number
    limit: str
    term: Number
    candidates: dict[str, Number]
    observed: Observation
    memory: Memory


class PoolConsolidationRequested(Body, frozen=True):
    """Its agents are to be moved, so that it needs fewer workers. `busy`: busy ones, too."""

    type = "pool.consolidation_requested"
    reason: str = ""
    busy: bool = False


class PoolArchivePruned(Body, frozen=True):
    """Its events up to `up_to_seq` of `generation` are in exports only; the last one is of `at_ms`.

    `sha256`: of the snapshot with which its archive begins.
    """

    type = "pool.archive_pruned"
    generation: Number
    up_to_seq: Number
    at_ms: Number
    sha256: str


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


class HostRemoved(Body, frozen=True):
    """It left long ago, and may join again."""

    type = "host.removed"


class TokenCreated(Body, frozen=True):
    """A caller is known by a secret, of which this is the digest. It can do what is in `scopes`.

    `pools`, `projects` null: all of them. `expires_ms` 0: never.
    """

    type = "token.created"
    digest: str
    scopes: tuple[str, ...]
    pools: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None
    expires_ms: Number = 0


class TokenRotated(Body, frozen=True):
    """It has a new secret; the one before is valid until `previous_expires_ms`."""

    type = "token.rotated"
    digest: str
    previous_expires_ms: Number
    expires_ms: Number = 0


class TokenRevoked(Body, frozen=True):
    """None of its secrets is valid any more. The name can be used again."""

    type = "token.revoked"


class LogRecovered(Body, frozen=True):
    """The log was rebuilt from its archive and continues after `from_seq` as `generation`.

    `known_seq`: the highest known seq of the previous generation. The events after `from_seq` up to
    there were lost.
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
    | AgentSaved
    | AgentStateLost
    | AgentReleased
    | AgentRestarting
    | AgentRestartRequested
    | AgentTerminationRequested
    | AgentTerminated
    | AgentFailed
)
WorkerBody: TypeAlias = (
    WorkerRequested
    | WorkerStarted
    | WorkerSuspect
    | WorkerRecovered
    | WorkerCordoned
    | WorkerUncordoned
    | WorkerDraining
    | WorkerStopped
    | WorkerLost
)
ReplacementBody: TypeAlias = (
    PoolReplacementStarted | PoolReplacementFinished | PoolReplacementStopped
)
PoolBody: TypeAlias = (
    PoolCreated
    | PoolChanged
    | ReplacementBody
    | PoolDeleted
    | PoolRemoved
    | PoolScalingDecided
    | PoolShadowDecided
    | PoolConsolidationRequested
    | PoolArchivePruned
    | LogRecovered
)
HostBody: TypeAlias = HostJoined | HostCordoned | HostLeft | HostRemoved
TokenBody: TypeAlias = TokenCreated | TokenRotated | TokenRevoked
AnyBody: TypeAlias = AgentBody | WorkerBody | PoolBody | HostBody | TokenBody

_BODIES: Final[dict[str, type[AnyBody]]] = {body.type: body for body in get_args(AnyBody)}
EVENT_TYPES: Final = tuple(_BODIES)
_DECODERS: Final = {kind: msgspec.json.Decoder(body) for kind, body in _BODIES.items()}
_ENCODER: Final = msgspec.json.Encoder()


class Event(Struct, frozen=True):
    """An event. The log sets the last three fields when it records the event."""

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
    """The body as compact JSON, as in an entry's `data`."""
    return _ENCODER.encode(body)


def require_known(kind: str, version: int) -> None:
    """Raises `UnknownEvent` for a type or version that this code cannot read."""
    body = _BODIES.get(kind)
    require_version(kind, version, body.version if body else None)


def require_version(kind: str, version: int, known: int | None) -> None:
    """Raises `UnknownEvent` for a version above `known`; None: the type is not known."""
    if known is None or not 1 <= version <= known:
        raise UnknownEvent(kind, version, known)


def decode_body(kind: str, version: int, data: bytes | str) -> AnyBody:
    """Decode a body; one of an older version is converted to the current one.

    Raises `UnknownEvent` for a type or version that this code does not know, and
    `msgspec.DecodeError` for data that does not fit the version. Unknown fields are ignored: the
    log and the archive retain them.
    """
    body = _BODIES.get(kind)
    if body is None or version != body.version:
        require_known(kind, version)
        data = upcast(kind, version, _BODIES[kind].version, data)
    return _DECODERS[kind].decode(data)


def decode_entry(stream_id: bytes, fields: Sequence[bytes]) -> Event:
    """Decode an entry of a stream, as Redis returns it (id, then alternating names and values).

    Raises `UnknownEvent`, also for an entry that is no event at all.
    """
    try:
        if len(fields) != 2 * len(ENTRY_FIELDS):
            raise UnknownEvent("entry with other fields", 0, None)
        values = entry_values(map(bytes.decode, fields[1::2]), lambda text: int(text or 0))
        kind, version, seq, *envelope, ts, data = values
        envelope += (seq, ts, stream_id.decode())
        return Event(decode_body(kind, version, data), *envelope)
    except (ValueError, IndexError, RecursionError) as error:  # of msgspec, int() and decode()
        kind = fields[1].decode(errors="replace") if len(fields) > 1 else "nothing"
        reason = f"entry {stream_id.decode()}: {error}"
        raise UnknownEvent(kind[:64], 0, None, reason[:500]) from error


def entry_values(texts: Iterable[str], number: Callable[[str], int]) -> list[Any]:
    """The values of an entry in the order of `ENTRY_FIELDS`, those of `ENTRY_NUMBERS` as numbers.

    Raises `ValueError` if there are more or fewer.
    """
    found: list[Any] = [*texts]
    if len(found) != len(ENTRY_FIELDS):
        raise ValueError(f"an entry has {len(ENTRY_FIELDS)} values, this one {len(found)}")
    for at in _NUMBERS_AT:
        found[at] = number(found[at])
    return found
