"""The clauses of a step: what `lua/commit.lua` checks and writes, one Struct for each.

A step is sent as one argument, MessagePack of (checks, writes). Each clause is an array that starts
with the name of its Struct; the script's function of that name gets the other fields in their
order. None of these is None, which an array of Lua cannot hold. An unknown clause is an error
before anything is written.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct


class Clause(Struct, frozen=True, array_like=True, tag=True):
    """One check or one write."""


class Check(Clause, frozen=True):
    """A condition; if it is false, the step is refused and writes nothing."""


class Write(Clause, frozen=True):
    """One write, in the order of the step."""


# ---- checks ----------------------------------------------------------------------------------


class WorkerActs(Check, frozen=True):
    """The worker is live with this epoch, or (`lost`) was declared lost with it; else FENCED."""

    worker_id: str
    epoch: int
    lost: bool = False


class AgentUnchanged(Check, frozen=True):
    """The version (0: there is no agent); else CONFLICT, or FENCED if the incarnation changed."""

    agent_id: str
    version: int
    incarnation: int


class WorkerUnchanged(Check, frozen=True):
    """The version (0: there is no worker, or it cannot be read); else CONFLICT."""

    worker_id: str
    version: int


class LeaseNotRenewed(Check, frozen=True):
    """The number of the worker's last renewal is unchanged; else CONFLICT."""

    worker_id: str
    renewal: int


class WorkerIdle(Check, frozen=True):
    """The worker has no agents, and (`nothing_pending`) no pending command; else CONFLICT."""

    worker_id: str
    nothing_pending: bool


class Leads(Check, frozen=True):
    """This host leads the pool in this term; else FENCED."""

    host: str
    term: int


class MetaIs(Check, frozen=True):
    """A field of the meta hash has this value (`""`: it is absent); else CONFLICT."""

    field: str
    value: str | int


class PoolVacant(Check, frozen=True):
    """The pool has no live agents; else CONFLICT."""


class PoolIs(Check, frozen=True):
    """This creation of the pool was not closed, else CLOSED; or (not `takes_spawns`) no spawn
    entered a later creation of it, else FENCED."""

    created_seq: int
    takes_spawns: bool


class BacklogBelow(Check, frozen=True):
    """Fewer spawns wait; else FULL with their number."""

    limit: int


class OperationNew(Check, frozen=True):
    """The operation is not recorded; else KNOWN with its digest, answer and seq."""

    operation_id: str


class IsParked(Check, frozen=True):
    """There is a record with this key; else CONFLICT."""

    key: str


# ---- writes ----------------------------------------------------------------------------------


class AppendEvent(Write, frozen=True):
    """The values of an entry of the events stream but `seq` and `ts`, which the script adds."""

    values: Sequence[str | int]


class Leaves(Struct, frozen=True, array_like=True):
    """What an agent is removed from."""

    queue: bool = False
    """The commands, or the set of isolated agents that wait."""
    slot_of: str = ""
    due: bool = False
    timeout: bool = False
    own_worker: str = ""
    """The worker in which it was isolated, and is no longer."""


class Enters(Struct, frozen=True, array_like=True):
    """What an agent is added to. Times are log times in ms; 0: none."""

    queue_incarnation: int = 0
    queue_reason: str = ""
    isolation: bool = False
    timeout_ms: int = 0
    due_ms: int = 0


class PutAgent(Write, frozen=True):
    """Alternating names and values for an agent's hash, and where it is listed.

    `listed`: add it to the live agents. `ended_ms`: it ended; its hash expires after so long.
    `replace`: its hash is deleted first. Workers are woken if it waits or no longer needs its own.
    """

    agent_id: str
    fields: Sequence[str] = ()
    leaves: Leaves | Literal[False] = False
    enters: Enters | Literal[False] = False
    listed: bool = False
    ended_ms: int = 0
    replace: bool = False


class PutSpec(Write, frozen=True):
    """The input of the agent's code: JSON with `input` and `labels`."""

    agent_id: str
    spec: str


class PutState(Write, frozen=True):
    """The state that an agent saved last, as `packed` returns it."""

    agent_id: str
    state: msgspec.Raw


class DropState(Write, frozen=True):
    """Delete the state of an agent after so many ms (0: at once)."""

    agent_id: str
    after_ms: int = 0


class PutWorker(Write, frozen=True):
    """Alternating names and values for a worker's hash, and where it is listed.

    `listed`: its free slots count. `order_ms`: the deadline of its order, 0 if it has none.
    `forget_ms`: its consumer, inbox and slots are deleted and its hash expires after so long; 0:
    they stay. `replace`: its hash cannot be read; its counters are derived from its slots.
    """

    worker_id: str
    fields: Sequence[str] = ()
    listed: bool = False
    order_ms: int = 0
    lost: bool = False
    forget_ms: int = 0
    replace: bool = False


class RecordOperation(Write, frozen=True):
    """The answer to repeated requests with this id, for `ttl_ms`."""

    operation_id: str
    digest: str
    answer: str
    ttl_ms: int


class DropEntry(Write, frozen=True):
    """Acknowledge and delete an entry of the commands stream."""

    entry_id: str


class Message(Write, frozen=True):
    """Add a message to a worker's inbox."""

    worker_id: str
    message: str


class Signal(Write, frozen=True):
    """Send a signal to the supervisors."""

    kind: str
    value: str | int


class AskToMove(Write, frozen=True):
    """Ask a worker to release an agent, so that it runs elsewhere. Counted for an hour."""

    worker_id: str
    agent_id: str
    busy: bool
    """Also if it is."""


class WakeWorkers(Write, frozen=True):
    """If commands wait: wake a worker with free slots, and the supervisors if slots are short."""


class SetMeta(Write, frozen=True):
    """Set a field of the meta hash; `""`: delete it."""

    field: str
    value: str | int


class Resign(Write, frozen=True):
    """End the lead of the pool's leader."""


class Unpark(Write, frozen=True):
    """Delete the record of a parked agent."""

    key: str


_ENCODER: Final = msgspec.msgpack.Encoder()


def packed(content: bytes) -> msgspec.Raw:
    """Any bytes, as a string of MessagePack: the servers' library knows no binary values."""
    return msgspec.Raw(b"\xdb" + len(content).to_bytes(4, "big") + content)


def encode(checks: Sequence[Check], writes: Sequence[Write]) -> bytes:
    """Encode a step as the script's argument."""
    return _ENCODER.encode((checks, writes))
