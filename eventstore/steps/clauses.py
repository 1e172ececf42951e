"""The clauses of a step: what `lua/commit.lua` checks and writes, one Struct for each.

A step is sent as one argument, MessagePack of (checks, writes). Each clause is an array that begins
with the name of its Struct; the function of that name in the script takes the other fields in
their order. Numbers become text there, as hashes hold them. A clause that the script does not know
is an error before anything is written.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct


class Clause(Struct, frozen=True, array_like=True, tag=True):
    """One check or one write."""


class Check(Clause, frozen=True, array_like=True, tag=True):
    """What must hold, else the step is refused and writes nothing."""


class Write(Clause, frozen=True, array_like=True, tag=True):
    """What is written, in the order of the step."""


# ---- checks ----------------------------------------------------------------------------------


class WorkerActs(Check, frozen=True):
    """The worker lives with that epoch, or (`lost`) was declared lost with it; else FENCED."""

    worker_id: str
    epoch: int
    lost: bool = False


class AgentUnchanged(Check, frozen=True):
    """Version 0: there is none. Else CONFLICT, or FENCED where the incarnation changed."""

    agent_id: str
    version: int
    incarnation: int


class WorkerUnchanged(Check, frozen=True):
    """Version 0: there is none, or none that can be read. Else CONFLICT."""

    worker_id: str
    version: int


class LeaseNotRenewed(Check, frozen=True):
    """The number of the worker's last renewal is still this one; else CONFLICT."""

    worker_id: str
    renewal: int


class WorkerIdle(Check, frozen=True):
    """It has no agents, and (`nothing_pending`) no command is pending for it; else CONFLICT."""

    worker_id: str
    nothing_pending: bool


class Leads(Check, frozen=True):
    """This host leads the pool, in this term; else FENCED."""

    host: str
    term: int


class MetaIs(Check, frozen=True):
    """A field of the meta hash, `""` where it is absent; else CONFLICT."""

    field: str
    value: str | int


class PoolVacant(Check, frozen=True):
    """The pool has no live agents; else CONFLICT."""


class PoolIs(Check, frozen=True):
    """That creation of the pool was not closed since, else CLOSED; or (not `takes_spawns`) no spawn
    entered a later creation of it, else FENCED."""

    created_seq: int
    takes_spawns: bool


class BacklogBelow(Check, frozen=True):
    """Fewer commands wait; else FULL with their number."""

    limit: int


class OperationNew(Check, frozen=True):
    """Not seen before; else KNOWN with digest, answer and the seq that it was written at."""

    operation_id: str


class IsParked(Check, frozen=True):
    """There is such a record; else CONFLICT."""

    key: str


# ---- writes ----------------------------------------------------------------------------------


class AppendEvent(Write, frozen=True):
    """An entry of the events stream but for `seq` and `ts`, which the script gives."""

    event_type: str
    version: int
    event_id: str
    subject: str
    incarnation: int | str
    worker_id: str
    epoch: int | str
    correlation_id: str
    causation_id: str
    traceparent: str
    actor: str
    data: str


class PutAgent(Write, frozen=True):
    """Names and values in turn of an agent's hash; `replace`: whatever was there goes first."""

    agent_id: str
    fields: Sequence[str]
    replace: bool = False


class Leaves(Struct, frozen=True, array_like=True):
    """What an agent is taken out of."""

    queue: bool = False
    """Its command, or the set of those that wait for a worker of their own."""
    slot_of: str = ""
    due: bool = False
    timeout: bool = False
    own_worker: str = ""
    """A worker that it had to itself, and does not need any more."""


class Enters(Struct, frozen=True, array_like=True):
    """What an agent is put into. Times are of the log, in ms; 0: none."""

    queue_incarnation: int = 0
    queue_reason: str = ""
    isolation: bool = False
    timeout_ms: int = 0
    due_ms: int = 0


class MoveAgent(Write, frozen=True):
    """`listed`: it is new among the live agents. `ended_ms`: it ended; its hash expires then."""

    agent_id: str
    leaves: Leaves = Leaves()
    enters: Enters = Enters()
    listed: bool = False
    ended_ms: int = 0


class PutSpec(Write, frozen=True):
    """What the agent's code is given: JSON with `input` and `labels`."""

    agent_id: str
    spec: str


class PutWorker(Write, frozen=True):
    """Names and values in turn of a worker's hash, and where it is listed.

    `listed`: among those whose free slots count. `order_ms`: the deadline of its order, 0 for none.
    `forget_ms`: its consumer, inbox and slots go, and its hash expires then; 0: they stay.
    `replace`: its hash cannot be read; its counters are taken from what its slots hold.
    """

    worker_id: str
    fields: Sequence[str] = ()
    listed: bool = False
    order_ms: int = 0
    lost: bool = False
    forget_ms: int = 0
    replace: bool = False


class RecordOperation(Write, frozen=True):
    """What a repeated request with this id is answered with, for so long."""

    operation_id: str
    digest: str
    answer: str
    ttl_ms: int


class DropEntry(Write, frozen=True):
    """An entry of the commands stream is acknowledged and deleted."""

    entry_id: str


class Message(Write, frozen=True):
    """For a worker's inbox."""

    worker_id: str
    message: str


class Signal(Write, frozen=True):
    """For the supervisors."""

    kind: str
    value: str | int


class WakeWorkers(Write, frozen=True):
    """One worker with free slots is woken if commands wait; the supervisors if slots are short."""


class SetMeta(Write, frozen=True):
    """A field of the meta hash."""

    field: str
    value: str | int


class Resign(Write, frozen=True):
    """The pool has no leader any more."""


class Unpark(Write, frozen=True):
    """The record is deleted."""

    key: str


Clauses: TypeAlias = tuple[Sequence[Check], Sequence[Write]]
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(checks: Sequence[Check], writes: Sequence[Write]) -> bytes:
    """The argument of the script."""
    return _ENCODER.encode((checks, writes))
