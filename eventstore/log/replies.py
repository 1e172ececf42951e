"""What the log's scripts answer, as values: how a step ended, what stands in a pool."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Self

from msgspec import Struct

from eventstore.language.agents import Agent
from eventstore.language.workers import Worker


class Proof(Struct, frozen=True):
    """What shows that a command's writes stand in a data set: `lua/confirm.lua` checks it.

    `generation` and `seq` are where the pool's log was with those writes; generation 0: wherever
    this process knows it to be.
    """

    pool: str
    kind: str
    """`event`, `operation`, `ending` or `log`."""
    subject: str = ""
    value: str = ""
    generation: int = 0
    seq: int = 0


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


class AgentResult(Struct, frozen=True):
    """The end of `act`: how it went, the agent as it is now, and the log's `seq` after it.

    `proof`: what shows that the step was written; None where nothing was.
    """

    outcome: Outcome
    agent: Agent | None
    seq: int = 0
    proof: Proof | None = None


class WorkerResult(Struct, frozen=True):
    outcome: Outcome
    worker: Worker | None
    seq: int = 0


class ClaimedAgent(Struct, frozen=True):
    """An agent that a worker was told of: with its slot booked, unless its end was asked for."""

    agent: Agent
    spec: bytes
    """JSON with `input` and `labels`; empty if both are."""


class LogHead(Struct, frozen=True):
    """The end of a log, as its meta hash names the fields. Generation 0: there is no log."""

    generation: int = 0
    seq: int = 0
    halted: str = ""
    """Why it accepts no writes."""
    recovered_seq: int = 0
    """The seq after which its generation started."""

    @classmethod
    def of(cls, reply: Sequence[bytes | None]) -> Self:
        """From the reply to HMGET for all these fields."""
        generation, seq, halted, recovered_seq = (value or b"" for value in reply)
        return cls(int(generation or 0), int(seq or 0), halted.decode(), int(recovered_seq or 0))


class Leadership(Struct, frozen=True):
    """Who leads a pool's scaling. `renewal` moves for as long as that one lives."""

    host: str
    term: int
    renewal: int


def fields_of(flat: Sequence[bytes] | Mapping[bytes, bytes]) -> dict[str, str]:
    """Names and values in turn (a raw reply) or a mapping (a parsed one) as text."""
    if isinstance(flat, Mapping):
        return {text_of(name): text_of(value) for name, value in flat.items()}
    return {text_of(flat[i]): text_of(flat[i + 1]) for i in range(0, len(flat), 2)}


def text_of(value: bytes) -> str:
    """What is no UTF-8 is seen by the marks in it, and refused where it matters."""
    return value.decode(errors="replace")
