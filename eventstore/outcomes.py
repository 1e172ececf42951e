"""What the log's scripts answer, as values: how a step ended, what stands in a pool."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct

from eventstore import worker as workers
from eventstore.agent import Agent
from eventstore.durability import Proof
from eventstore.errors import Unreadable
from eventstore.worker import Worker


class Outcome(StrEnum):
    """How a step ended. Only DONE and ALREADY mean that what was wanted holds."""

    DONE = "DONE"
    ALREADY = "ALREADY"
    """Nothing was left to do."""
    FENCED = "FENCED"
    """The epoch or incarnation moved: stop."""
    CONFLICT = "CONFLICT"
    """A check does not hold any more."""
    ABSENT = "ABSENT"
    """There is no such agent or worker."""
    CLOSED = "CLOSED"
    """The pool takes no spawns."""
    FULL = "FULL"
    """Too many spawns wait."""
    KNOWN = "KNOWN"
    """This operation was carried out before."""


class Reply(Struct, frozen=True):
    """What a script said. `rest` is what the script's header promises."""

    outcome: Outcome
    generation: int
    seq: int
    ts: int
    rest: Sequence[Any] = ()


class Acted(Struct, frozen=True):
    """The end of `act`: how it went, the agent as it is now, and the log's `seq` after it.

    `proof`: what shows that the step was written; None where nothing was.
    """

    outcome: Outcome
    agent: Agent | None
    seq: int = 0
    proof: Proof | None = None


class ActedOnWorker(Struct, frozen=True):
    outcome: Outcome
    worker: Worker | None
    seq: int = 0


class Claimed(Struct, frozen=True):
    """An agent that a worker was told of: with its slot booked, unless its end was asked for."""

    agent: Agent
    spec: bytes
    """JSON with `input` and `labels`; empty if both are."""


class Survey(Struct, frozen=True, kw_only=True):
    """A pool at one moment, as its supervisors see it. Times in ms of log time."""

    ts: int
    seq: int
    waiting: int
    """Spawns that may share a worker."""
    waiting_alone: int = 0
    """Agents that wait for a worker of their own."""
    free: int
    restarting: int
    live: int
    scaling: int
    closed: str
    reserved: str = ""
    """The worker that takes nobody but one that runs alone."""
    due: tuple[tuple[str, int], ...]
    timeouts: tuple[tuple[str, int], ...]
    workers: tuple["Observed", ...]
    unreadable: tuple[Unreadable, ...] = ()
    """Workers whose hashes cannot be read."""


class Observed(Struct, frozen=True):
    """A worker's hash: its state and what the scripts keep beside it."""

    worker: Worker
    agent_count: int
    renewal: int
    last_heartbeat: int
    alone: str = ""
    """The agent that has it for itself, if one does."""


class Stand(Struct, frozen=True):
    """Where a log stands. Generation 0: there is none. `halted`: why it takes no writes."""

    generation: int
    seq: int
    halted: str
    recovered_seq: int
    """What it went on from when its generation began."""


class Lead(Struct, frozen=True):
    """Who leads a pool's scaling. `renewal` moves for as long as that one lives."""

    host: str
    term: int
    renewal: int


# ---- read from replies -----------------------------------------------------------------------


def observed(worker_id: str, fields: Mapping[str, str]) -> Observed:
    """A worker's hash as Redis holds it."""
    worker = workers.from_hash(worker_id, fields)
    try:
        return Observed(
            worker,
            int(fields["agent_count"]),
            int(fields["renewal"]),
            int(fields["last_heartbeat"]),
            fields.get("alone", ""),
        )
    except (KeyError, ValueError) as error:
        raise Unreadable("worker", worker_id, f"a counter in its hash: {error}") from error


def sorted_out(
    listed: Sequence[Sequence[bytes]],
) -> tuple[tuple[Observed, ...], tuple[Unreadable, ...]]:
    """Workers as a survey lists them: those that can be read, and what is wrong with the others."""
    found, unreadable = [], []
    for entry in listed:
        try:
            found.append(observed(text_of(entry[0]), fields_of(entry[1:])))
        except Unreadable as error:
            unreadable.append(error)
    return tuple(found), tuple(unreadable)


def fields_of(flat: Sequence[bytes] | Mapping[bytes, bytes]) -> dict[str, str]:
    """Names and values in turn (a raw reply) or a mapping (a parsed one) as text."""
    if isinstance(flat, Mapping):
        return {text_of(name): text_of(value) for name, value in flat.items()}
    return {text_of(flat[i]): text_of(flat[i + 1]) for i in range(0, len(flat), 2)}


def text_of(value: bytes) -> str:
    """What is no UTF-8 is seen by the marks in it, and refused where it matters."""
    return value.decode(errors="replace")


def scored(flat: Sequence[bytes]) -> tuple[tuple[str, int], ...]:
    return tuple((text_of(flat[i]), int(float(flat[i + 1]))) for i in range(0, len(flat), 2))
